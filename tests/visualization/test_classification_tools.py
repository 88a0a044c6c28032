"""The commands that draw curves and compare classifiers, as their users meet them."""

import csv
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from anchorkit.data import image_set
from anchorkit.evaluation.predictions import COLUMNS, write_rows

REPO = Path(__file__).resolve().parents[2]
CURVES = REPO / "tools" / "plot_curves.py"
COMPARE = REPO / "tools" / "compare_predictions.py"
CONFIDENCE = REPO / "tools" / "compare_confidence.py"
CLASSES = ("cat", "dog", "crane", "crane")


def run_alone(tool, *arguments, cwd):
    """The command in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(tool), *map(str, arguments)], capture_output=True, text=True,
        check=False, env=environment, cwd=cwd, timeout=300,
    )  # fmt: skip


@pytest.fixture
def run_here(tmp_path, monkeypatch, capsys):
    """Function that runs a command in this process; returns status, output and errors."""

    def run(tool, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [tool.name, *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(tool), run_name="__main__")
        output = capsys.readouterr()
        return end.value.code, output.out, output.err

    return run


def is_one_line_of_error(status, errors, message):
    lines = [line for line in errors.strip().splitlines() if "error:" in line]
    return status == 2 and len(lines) == 1 and re.search(message, lines[0]) is not None


@pytest.fixture
def runs(tmp_path):
    """Folders of three trainings with five evaluations each."""
    for number, name in enumerate(("ce", "oat_0", "oat_1")):
        lines = [{"iteration": 10 * i, "total_loss": 1.0} for i in range(5)]
        lines += [{"iteration": 10 * i, "classification/acc1": 50.0 + i + number} for i in range(5)]
        (tmp_path / name).mkdir()
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / name / "metrics.json").write_text(text)
    return ["ce", "oat_0", "oat_1"]


def test_curves_of_runs_become_a_picture(runs, tmp_path):
    done = run_alone(
        CURVES, *runs, "--labels", "CE", "OAT", "OAT", "--smoothing", "0.6",
        "--output", "new/curves.png", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout == "new/curves.png\n", done.stderr
    with Image.open(tmp_path / "new" / "curves.png") as picture:
        assert picture.width == 1100


def test_runs_with_one_label_are_one_curve(runs, run_here, monkeypatch, tmp_path):
    import anchorkit.visualization as pictures

    seen = {}
    draw = pictures.draw_curves
    monkeypatch.setattr(
        pictures, "draw_curves", lambda curves, **more: seen.update(curves) or draw(curves, **more)
    )
    labels = ("--labels", "CE", "OAT", "OAT", "--output", "curves.pdf")
    assert run_here(CURVES, *runs, *labels)[0] == 0
    assert {label: y.shape for label, (_, y) in seen.items()} == {"CE": (1, 5), "OAT": (2, 5)}
    assert (tmp_path / "curves.pdf").read_bytes().startswith(b"%PDF")
    seen.clear()
    assert run_here(CURVES, "ce/", "oat_0", "--metric", "total_loss")[0] == 0
    assert list(seen) == ["ce", "oat_0"] and (tmp_path / "curves.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("ce nowhere", r"nowhere.metrics.json: expected the metrics of a training"),
        ("ce --metric classification/acc", "did you mean 'classification/acc1'"),
        ("ce oat_0 --labels one", "--labels: expected one for each of 2 runs, got 1"),
        ("ce --smoothing 1", "--smoothing 1: must be at least 0 and below 1"),
        ("ce --output curves", "--output curves: must end in .png or .pdf"),
        ("ce --output ce/metrics.json/curves.png", "--output .*cannot be written"),
    ],
)
def test_a_mistake_with_curves_is_one_line(arguments, message, runs, run_here):
    status, _, errors = run_here(CURVES, *arguments.split())
    assert is_one_line_of_error(status, errors, message)


NAMES = ("cat", "dog", "crane (2)", "crane (3)")
LABELS = [0, 1, 2, 3, 0, 1, 2, 3]
FIRST = [0, 0, 0, 3, 0, 1, 0, 0]
SECOND = [0, 1, 2, 3, 1, 1, 2, 1]


@pytest.fixture
def files(tmp_path):
    """Two files of predictions: A wrong and B right on 1, 2 and 6; the reverse on 4."""
    for name, predictions in (("a.csv", FIRST), ("b.csv", SECOND)):
        rows = [
            (i, f"test {i}", NAMES[y], NAMES[p], 0.5, int(y == p))
            for i, (y, p) in enumerate(zip(LABELS, predictions, strict=True))
        ]
        write_rows(str(tmp_path / name), COLUMNS, rows)
    return "a.csv", "b.csv"


@pytest.fixture
def small_set(monkeypatch):
    """The data set of these files; returns what it was asked for."""
    asked = []

    def load_image_set(name, *, size=0, resize="squash"):
        asked.append((name, size))
        images = torch.arange(8, dtype=torch.uint8).mul(20)[:, None, None, None]
        return image_set.ImageSet(
            images.expand(8, 1, 9, 9), torch.tensor(LABELS), CLASSES,
            [f"test {i}" for i in range(8)],
        )  # fmt: skip

    monkeypatch.setattr(image_set, "load_image_set", load_image_set, raising=False)
    return asked


def rows_in(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_predictions_are_counted_tested_and_listed(files, tmp_path):
    done = run_alone(COMPARE, *files, "--output", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["A", "right", "3", "1"] in lines and ["A", "wrong", "3", "1"] in lines
    assert "accuracy, %: A 50.000, B 75.000 (8 images)" in done.stdout
    assert "p = 0.625" in done.stdout  # 2 (1 + 4) / 2^4
    rows = rows_in(tmp_path / "out" / "wrong_in_a.csv")
    assert [row["image_id"] for row in rows] == ["1", "2", "6"]
    assert rows[0]["prediction_a"] == "cat" and rows[0]["prediction_b"] == "dog"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["wrong_in_a.csv"]


def test_images_of_the_list_are_drawn(files, small_set, run_here, tmp_path, monkeypatch):
    import anchorkit.visualization as pictures

    seen = []
    draw = pictures.draw_image_grid
    monkeypatch.setattr(
        pictures, "draw_image_grid", lambda *given: seen.append(given) or draw(*given)
    )
    arguments = (*files, "--dataset", "small_test", "--output", "out")
    status, output, errors = run_here(COMPARE, *arguments, "--images", "2", "--size", "9")
    assert status == 0, errors
    assert small_set == [("small_test", 9)] and output.endswith("wrong_in_a.png\n")
    ((images, captions),) = seen
    assert [image.shape for image in images] == [(9, 9, 1)] * 2
    assert [int(image.max()) for image in images] == [20, 120]
    assert captions == ["A: cat, B: dog", "A: cat, B: crane (2)"]
    with Image.open(tmp_path / "out" / "wrong_in_a.png") as picture:
        assert picture.mode == "RGB" and picture.width > 500
    assert run_here(COMPARE, *arguments, "--reverse")[0] == 0
    assert [row["image_id"] for row in rows_in(tmp_path / "out" / "wrong_in_b.csv")] == ["4"]
    assert len(seen[1][0]) == 1 and (tmp_path / "out" / "wrong_in_b.png").exists()


def test_nothing_to_list_is_an_empty_list_without_a_picture(files, small_set, run_here, tmp_path):
    arguments = ("a.csv", "a.csv", "--dataset", "small_test", "--output", "out")
    status, output, _ = run_here(COMPARE, *arguments)
    assert status == 0 and "p = 1" in output and small_set == []
    assert rows_in(tmp_path / "out" / "wrong_in_a.csv") == []
    assert not (tmp_path / "out" / "wrong_in_a.png").exists()


def test_a_data_set_of_other_images_is_told(files, small_set, run_here, monkeypatch):
    arguments = (*files, "--dataset", "small_test")
    monkeypatch.setattr(sys.modules[__name__], "CLASSES", ("dog", "cat", "fox", "bird"))
    status, _, errors = run_here(COMPARE, *arguments)
    assert is_one_line_of_error(
        status, errors, "image 1 is a 'dog' in the files, but the data set calls it 'cat'"
    )
    monkeypatch.setattr(sys.modules[__name__], "LABELS", LABELS[:1])
    monkeypatch.setattr(sys.modules[__name__], "CLASSES", ("cat",))
    status, _, errors = run_here(COMPARE, *arguments)
    assert is_one_line_of_error(status, errors, "data set has no such image")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("a.csv none.csv", "none.csv: expected a predictions.csv"),
        ("a.csv b.csv --images 0", "--images 0 must be at least 1"),
        ("a.csv b.csv --size -1", "--size -1 at least 0"),
        ("a.csv b.csv --output a.csv", "--output a.csv: cannot be written"),
    ],
)
def test_a_mistake_with_predictions_is_one_line(arguments, message, files, run_here):
    status, _, errors = run_here(COMPARE, *arguments.split())
    assert is_one_line_of_error(status, errors, message)


@pytest.fixture
def maps(tmp_path):
    """Two files of confidence in two classes, the second without images of the second class."""
    for name, rows in (("a.json", [[0.9, 0.4], [0.2, 0.7]]), ("b.json", [[0.8, 0.1], [None] * 2])):
        content = {"classes": ["cat", "dog"], "confidence": rows}
        (tmp_path / name).write_text(json.dumps(content))
    return "a.json", "b.json"


def test_maps_of_confidence_stand_side_by_side(maps, tmp_path):
    labels = ("--labels", "baseline", "INDeeD", "--output", "new/confidence.png")
    done = run_alone(CONFIDENCE, *maps, *labels, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "baseline: own class 80.0 %, others 30.0 %",
        "INDeeD: own class 80.0 %, others 10.0 %",
        "new/confidence.png",
    ]
    with Image.open(tmp_path / "new" / "confidence.png") as picture:
        assert picture.mode == "RGB" and picture.width > picture.height


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("a.json none.json", "none.json: expected a confidence.json"),
        ("a.json other.json", "other.json: other classes than a.json has"),
        ("a.json b.json --labels one", "--labels: expected one for each of 2 files, got 1"),
        ("a.json --output confidence.pdf", "--output confidence.pdf: must end in .png"),
        ("a.json --output a.json/confidence.png", "--output .*cannot be written"),
    ],
)
def test_a_mistake_with_maps_is_one_line(arguments, message, maps, run_here, tmp_path):
    other = {"classes": ["dog", "cat"], "confidence": [[1, 0], [0, 1]]}
    (tmp_path / "other.json").write_text(json.dumps(other))
    status, _, errors = run_here(CONFIDENCE, *arguments.split())
    assert is_one_line_of_error(status, errors, message)
