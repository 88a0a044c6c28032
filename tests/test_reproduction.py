"""Rows of a table become runs that are not repeated, and figures beside the paper's."""

import csv
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from anchorkit import reproduction
from anchorkit.errors import UserError
from anchorkit.reproduction import (
    Line,
    choose_rows,
    compare,
    csv_rows,
    figures_of,
    markdown_rows,
    plan_runs,
    read_table,
)
from tests.test_train_net import environment

ROOT = Path(__file__).resolve().parent.parent
TOOL = ROOT / "tools" / "reproduce.py"
TABLE = """
title: A table
dataset: ucf101_test
rows:
- name: CE
  config: configs/quick/ce_digits.yaml
  paper: {acc1: 90.0, acc5: 99.0}
  quick: {config: configs/quick/ce_digits.yaml, overrides: [SOLVER.MAX_EPOCHS, 2]}
- name: OAT
  config: configs/quick/oat_digits.yaml
  baseline: CE
  paper: {acc1: 92.5}
  quick:
    config: configs/quick/oat_digits.yaml
    overrides: [SOLVER.MAX_EPOCHS, "2", MODEL.OAT.PRETRAIN_EPOCHS, "1"]
- name: OAT, batches of 36
  config: configs/quick/oat_digits.yaml
  overrides: [MODEL.OAT.TEST_BATCH, "36"]
  weights_from: OAT
  baseline: OAT
  paper: {acc1_gain: -0.5}
  quick:
    config: configs/quick/oat_digits.yaml
    overrides: [SOLVER.MAX_EPOCHS, "2", MODEL.OAT.PRETRAIN_EPOCHS, "1", MODEL.OAT.TEST_BATCH, "36"]
- name: CIFAR-10
  config: configs/Image-Classification/ce_lightweight_cnn_cifar10.yaml
  paper: {acc1: 65.66}
  quick: {config: configs/Image-Classification/ce_lightweight_cnn_cifar10.yaml}
- name: large
  config: configs/Image-Classification/ce_wrn_28_10_cifar10.yaml
  paper: {acc1: 89.13}
"""


@pytest.fixture
def table_file(tmp_path):
    path = tmp_path / "project" / "tables" / "table_1.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(TABLE)
    return path


@pytest.fixture
def table(table_file):
    return read_table(table_file)


def plan(table, folder, **changes):
    settings = {"seeds": [0, 1], "quick": True, **changes}
    return plan_runs(table, table["rows"], root=ROOT, folder=str(folder), **settings)


def finish(run, seconds=30.0, **results):
    Path(run.folder).mkdir(parents=True)
    (Path(run.folder) / "run.json").write_text(json.dumps({"results": results, "seconds": seconds}))


# --- runs ---


def test_a_run_is_known_by_the_values_of_its_config(table, tmp_path):
    first = plan(table, tmp_path)
    assert [len(runs) for runs in first.values()] == [2, 2, 2, 2, 0]
    folders = [run.folder for runs in first.values() for run in runs]
    assert len(set(folders)) == len(folders)
    assert first == plan(table, tmp_path)
    # The seeds do not change the name but for its end; another value does.
    zero, one = (Path(run.folder).name for run in first["CE"])
    assert (zero.removesuffix("_seed0"), zero[:10]) == (one.removesuffix("_seed1"), "ce_digits_")
    changed = plan(table, tmp_path, overrides=["SOLVER.BASE_LR", "0.1"])
    assert not {run.folder for runs in changed.values() for run in runs} & set(folders)
    # Rows that are alike share a run, also where one says in words what the other has by default.
    table["rows"][4]["quick"] = dict(table["rows"][0]["quick"])
    table["rows"][4]["quick"]["overrides"] = ["SOLVER.MAX_EPOCHS", "2", "MODEL.NUM_CLASSES", "0"]
    again = plan(table, tmp_path)
    assert again["large"][0].folder == again["CE"][0].folder


def test_a_row_without_training_knows_the_run_of_its_weights(table, tmp_path):
    runs = plan(table, tmp_path)
    for seed in (0, 1):
        assert runs["OAT, batches of 36"][seed].source == runs["OAT"][seed]
    assert runs["OAT"][0].source is None and runs["OAT"][0].dataset == "digits_test"


def test_rows_are_chosen_by_name(table):
    names = [row["name"] for row in choose_rows(table, ["OAT", "CE"])]
    assert names == ["CE", "OAT"] and len(choose_rows(table, [])) == 5
    with pytest.raises(UserError, match="there is no 'OTA'; rows are 'CE', 'OAT'"):
        choose_rows(table, ["OTA"])


@pytest.mark.parametrize("text", ["- 1", "title: x", "rows: [", None])
def test_a_file_that_is_no_table_is_named(tmp_path, text):
    path = tmp_path / "table.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match="table.yaml: (not a table|cannot be read)"):
        read_table(path)


def test_a_row_that_another_names_must_be_there(tmp_path):
    path = tmp_path / "table.yaml"
    path.write_text("figures: [AP]\nrows: [{name: mine, config: mine.yaml, baseline: theirs}]")
    with pytest.raises(UserError, match="baseline of 'mine' is no row: 'theirs'"):
        read_table(path)


def test_a_table_without_a_papers_figures_names_its_own(tmp_path):
    path = tmp_path / "table.yaml"
    rows = "rows: [{name: mine, config: mine.yaml}]\n"
    path.write_text(rows)
    with pytest.raises(UserError, match=r"table.yaml: give the rows .* or the table 'figures:"):
        read_table(path)
    path.write_text(rows + "figures: [acc1, acc5]\n")
    table = read_table(path)
    assert figures_of(table) == ["acc1", "acc5"] and table["rows"][0]["paper"] == {}
    line = Line("mine", {}, {"acc1": [91.0, 93.0], "acc5": []}, {"acc1": [0.5]}, {}, 90.0)
    assert markdown_rows([line], ["acc1", "acc5"]) == [
        "| row | acc1 | gain | acc5 | seeds | minutes |",
        "|---|---|---|---|---|---|",
        "| mine | 92.0 ± 1.4 | +0.5 | — | 2 | 1.5 |",
    ]


# --- figures ---


def test_figures_differences_and_gains_are_of_the_seeds_that_are_done(table, tmp_path):
    runs = plan(table, tmp_path)
    for seed, value in enumerate((88.0, 90.0)):
        finish(runs["CE"][seed], acc1=value, acc5=98.0 + seed)
    finish(runs["OAT"][1], acc1=93.0, seconds=60.0)
    finish(runs["OAT, batches of 36"][1], acc1=92.0)
    ce, oat, batches, cifar, large = compare(table, runs, {"CIFAR-10": "no data"})
    assert ce.ours == {"acc1": [88.0, 90.0], "acc5": [98.0, 99.0]}
    assert ce.gains == {"acc1": [], "acc5": []} and ce.paper_gains == {} and ce.seconds == 60.0
    assert oat.gains["acc1"] == [3.0]  # to the same seed
    assert oat.paper_gains == {"acc1": 2.5}
    assert batches.gains["acc1"] == [-1.0] and batches.paper_gains == {"acc1": -0.5}
    assert (cifar.note, large.note) == ("no data", "has no quick version")
    del table["rows"][1]["baseline"]  # a row that is another's baseline has none by default
    assert compare(table, runs, {})[1].gains["acc1"] == []
    table["rows"][1]["baseline"] = None
    line = compare(table, runs, {})[1]
    assert line.gains["acc1"] == [] and line.paper_gains == {}
    figures = figures_of(table)
    assert figures == ["acc1", "acc5"]
    heading, _, *rows = markdown_rows([ce, oat, batches, cifar, large], figures)
    assert heading.startswith("| row | paper's acc1 | our acc1 | difference | paper's gain | our")
    assert rows[0] == "| CE | 90.0 | 89.0 ± 1.4 | -1.0 | — | — | 99.0 / 98.5 ± 0.7 | 2 | 1.0 |"
    assert rows[1] == "| OAT | 92.5 | 93.0 | +0.5 | +2.5 | +3.0 | — / — | 1 | 1.0 |"
    assert rows[2].startswith("| OAT, batches of 36 | — | 92.0 | — | -0.5 | -1.0 |")
    assert rows[3] == "| CIFAR-10 (no data) | 65.66 | — | — | -24.3 | — | — / — | 0 | — |"
    titles, first, *_ = csv_rows([ce, oat], figures)
    assert dict(zip(titles, first, strict=True)) == {
        "row": "CE", "figure": "acc1", "paper": "90.0", "ours_mean": "89.0",
        "ours_sd": "1.414214", "difference": "-1.0", "paper_gain": "", "our_gain": "",
        "seeds": "2", "values": "88.0 90.0",
    }  # fmt: skip


def test_a_run_without_a_whole_record_is_not_done(table, tmp_path):
    run = plan(table, tmp_path)["CE"][0]
    assert run.results is None
    Path(run.folder).mkdir()
    for text in ('{"seconds": 3.0}', '{"resul'):
        (Path(run.folder) / "run.json").write_text(text)
        assert run.results is None


# --- the command ---


def reproduce(table_file, *arguments):
    return subprocess.run(
        [sys.executable, "-W", "ignore", TOOL, table_file, "--quick", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900,
        cwd=table_file.parent, env=environment() | {"DETECTRON2_DATASETS": "no/data"},
    )  # fmt: skip


def test_rows_are_trained_once_evaluated_and_written_and_missing_data_are_told(table_file):
    result = reproduce(table_file, "--jobs", "2")
    assert result.returncode == 1, result.stdout
    folder = table_file.parent / "output" / "reproduce"
    page = (folder / "project_table_1_quick.md").read_text()
    assert page.startswith("# A table\n\nThe paper's figures are on ucf101_test; ours on digits")
    assert page in result.stdout
    with open(folder / "project_table_1_quick.csv", newline="") as file:
        rows = {row["row"]: row for row in csv.DictReader(file) if row["figure"] == "acc1"}
    for name in ("CE", "OAT", "OAT, batches of 36"):
        assert rows[name]["seeds"] == "1" and 5 < float(rows[name]["ours_mean"]) <= 100
    assert rows["CIFAR-10"]["ours_mean"] == rows["large"]["ours_mean"] == ""
    assert "| CIFAR-10 (" in page and "cifar-10-batches-bin" in page
    assert (folder / "project_table_1_quick.png").stat().st_size > 5000
    (trained,) = folder.glob("runs/oat_digits_*/model_final.pth")
    record = json.loads((trained.parent / "run.json").read_text())
    assert record["torch"] and record["seconds"] > 0 and record["seed"] == 0
    # The same command again finds it done; a row that was cut off before its record goes on.
    before = trained.stat().st_mtime_ns
    (ce,) = folder.glob("runs/ce_digits_*/run.json")
    known = json.loads(ce.read_text())["results"]
    ce.unlink()
    result = reproduce(table_file, "--rows", "CE", "OAT", "OAT, batches of 36")
    assert result.returncode == 0, result.stdout
    assert trained.stat().st_mtime_ns == before
    assert json.loads(ce.read_text())["results"] == known


def test_a_dry_run_says_what_would_be_run(table_file, monkeypatch, capsys):
    monkeypatch.chdir(table_file.parent)
    run = runpy.run_path(str(TOOL))["run"]
    assert run([str(table_file), "--quick", "--dry-run", "--seeds", "3", "--num-gpus", "2"]) == 0
    printed = capsys.readouterr().out
    assert printed.count(": new\n") == 4 and "# large: has no quick version" in printed
    assert "--num-gpus 2 --resume SOLVER.MAX_EPOCHS 2 SEED 3 OUTPUT_DIR" in printed
    (evaluation,) = [line for line in printed.splitlines() if "--eval-only" in line]
    assert evaluation.endswith("model_final.pth") and "MODEL.WEIGHTS" in evaluation
    assert not Path("output").exists()


@pytest.mark.parametrize(("arguments", "message"), [
    (["absent.yaml"], "absent.yaml: cannot be read"),
    (["TABLE", "--rows", "C"], "--rows: there is no 'C'"),
    (["TABLE", "--jobs", "0"], "--jobs and --num-gpus must be at least 1"),
    (["TABLE", "--dry-run", "--opts", "SOLVER.BASE_LRR", "1"], "SOLVER.BASE_LRR"),
])  # fmt: skip
def test_mistakes_are_one_line(table_file, capsys, arguments, message):
    words = [str(table_file) if word == "TABLE" else word for word in arguments]
    assert runpy.run_path(str(TOOL))["run"](words) == 2
    error = capsys.readouterr().err
    assert error.startswith("reproduce: error: ") and message in error and error.count("\n") == 1


def test_figures_of_single_classes_are_left_out(tmp_path):
    results = {"set": {"classification": {"acc1": 90.0, "acc-0": 80.0, "acc5": None}}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert reproduction.read_results(str(tmp_path)) == {"acc1": 90.0}
    with pytest.raises(UserError, match="no results"):
        reproduction.read_results(str(tmp_path / "absent"))
