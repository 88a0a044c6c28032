"""The commands that look into data and into results, as their users meet them."""

import csv
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPO = Path(__file__).resolve().parents[2]
DATA, RESULTS = (REPO / "tools" / f"visualize_{name}.py" for name in ("data", "results"))


def subprocess_of(tool, *arguments):
    path = os.pathsep.join(filter(None, (str(REPO), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, str(tool), *map(str, arguments)], text=True, timeout=600,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
    )  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Function that runs a tool in this process; returns status, output, errors, files."""

    def run(tool, *arguments):
        out = tmp_path / "out"
        monkeypatch.setattr(sys, "argv", [tool.name, "--output", str(out), *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(tool), run_name="__main__")
        said = capsys.readouterr()
        files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
        return end.value.code, said.out, said.err, files

    return run


def told(errors):
    """The one line that tells a mistake."""
    (line,) = [line for line in errors.splitlines() if "error:" in line]
    assert "Traceback" not in errors
    return line


# --- tools/visualize_data.py ---


def test_training_images_are_drawn_on_sheets_as_the_loader_gives_them(scenes_config, tmp_path):
    done = subprocess_of(
        DATA, "--config-file", scenes_config, "--output", tmp_path / "out", "--num-images", 18,
        "--opts", "INPUT.MIN_SIZE_TRAIN", "(96,)",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    sheets = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert sheets == ["train_01.png", "train_02.png"]
    assert re.search(r"^B +103\.5 +1 ", done.stdout, re.MULTILINE) and "18 images" in done.stdout
    sizes = [Image.open(tmp_path / "out" / name).size for name in sheets]
    assert sizes[0][0] > 4 * 480 > sizes[1][0] > 2 * 480 and sizes[0][1] > 3 * sizes[1][1]


def test_colours_are_right_whatever_the_order_of_the_channels(run, scenes_config, tmp_path):
    sheets = {}
    for order in ("BGR", "RGB"):
        arguments = ("--config-file", scenes_config, "--test", "--opts", "INPUT.FORMAT", order)
        status, output, _, files = run(DATA, *arguments)
        assert status == 0 and files == {"test_01.png"} and output.count(f"\n{order[0]} ") == 1
        sheets[order] = np.asarray(Image.open(tmp_path / "out" / "test_01.png"))
    assert np.array_equal(sheets["BGR"], sheets["RGB"])
    # The object of the first scene is red.
    first = sheets["RGB"][20:500, 20:500].astype(int)
    assert (first[..., 0] > first[..., 1:].max(axis=2) + 100).sum() > 2000


def test_a_classifiers_images_are_drawn_with_their_classes(run, scenes_config):
    name = re.search(r"scenes_\w+", scenes_config.read_text())[0]
    status, output, _, files = run(
        DATA, "--config-file", REPO / "configs/quick/bce_ml_digits_5.yaml", "--dataset",
        f"{name}_multi_label", "--num-images", 3, "--opts", "INPUT.FIXED_SIZE", 32,
        "DATASETS.COCO_FORMAT", f"[['{name}', '{scenes_config.parent}/scenes.json', "
        f"'{scenes_config.parent}/scenes']]",
    )  # fmt: skip
    assert status == 0 and files == {"train_01.png"} and "\nG  " in output


@pytest.mark.parametrize("arguments, message", [
    ("--num-images 0", "--num-images 0: must be at least 1"),
    ("--dataset scenes", "--dataset: no data set 'scenes'"),
    ("--test --opts DATASETS.TEST ()", "DATASETS.TEST is empty"),
    ("--opts INPUT.AUGMENTATION ssd", "set INPUT.FIXED_SIZE"),
])  # fmt: skip
def test_a_mistake_about_data_is_one_line_and_exit_status_2(
    run, scenes_config, arguments, message
):
    status, _, errors, files = run(DATA, "--config-file", scenes_config, *arguments.split())
    assert status == 2 and not files and message in told(errors)


# --- tools/visualize_results.py ---


@pytest.fixture
def results(scenes_config):
    """Results of the four scenes: image 10 has two false detections, image 20 misses its object."""
    truth = json.loads((scenes_config.parent / "scenes.json").read_text())
    found = [
        {**{key: entry[key] for key in ("image_id", "category_id", "bbox")}, "score": 0.9}
        for entry in truth["annotations"]
        if entry["image_id"] != 20
    ]
    found += [
        {"image_id": 10, "category_id": 2, "bbox": [x, 50, 9, 9], "score": 0.95} for x in (1, 20)
    ]
    path = scenes_config.parent / "results.json"
    path.write_text(json.dumps(found))
    return path


def test_the_worst_images_curves_confusion_and_classes_are_written(
    scenes_config, results, tmp_path
):
    done = subprocess_of(
        RESULTS, "--config-file", scenes_config, "--input", results, "--output", tmp_path / "out",
        "--num-images", 2,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    for name in ("red", "green", "blue", "all"):
        assert re.search(f"^{name} ", done.stdout, re.MULTILINE)
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")}
    assert files == {
        "classes.csv", "images.csv", "precision_recall.png", "confusion.png", "worst/001.png",
        "worst/002.png",
    }  # fmt: skip
    with open(tmp_path / "out" / "images.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image_id"] for row in rows[:2]] == ["10", "20"]
    assert (rows[0]["false"], rows[1]["missed"], rows[2]["errors"]) == ("2", "1", "0")


def test_a_set_of_ones_own_needs_no_config_file(run, scenes_config, results):
    folder = scenes_config.parent
    status, output, _, files = run(
        RESULTS, "--input", results, "--dataset", "own", "--num-images", 0, "--confidence", 0.92,
        "--opts", "DATASETS.COCO_FORMAT", f"[['own', '{folder}/scenes.json', '{folder}/scenes']]",
    )  # fmt: skip
    assert status == 0 and "images.csv" in files and not any("worst" in name for name in files)
    assert re.search(r"^red .* 0\.9200 +— +0\.00", output, re.MULTILINE)


def test_images_that_cannot_be_read_are_named_and_all_else_is_written(
    run, scenes_config, results
):
    (scenes_config.parent / "scenes" / "scene_1.png").unlink()
    status, _, errors, files = run(
        RESULTS, "--config-file", scenes_config, "--input", results, "--num-images", 2
    )
    assert status == 0 and {"images.csv", "worst/002.png"} < files and "worst/001.png" not in files
    assert re.search(r"not drawn: .*scene_1\.png: the file does not exist", errors)


@pytest.mark.parametrize("arguments, message", [
    ("--input {folder}/none.json", "none.json: cannot be read"),
    ("--input {folder}/scenes.json", "holds a dict, not a list"),
    ("--input {results} --num-images -1", "--num-images -1"),
    ("--input {results} --confidence 2", "--confidence 2: must be from 0 to 1"),
    ("--input {results} --dataset scens", "no data set 'scens'"),
    ("--input {results} --dataset digits_test", "digits_test has no annotations in COCO's format"),
    ("--input {results} --opts DATASETS.TEST ()", "name the data set with --dataset"),
])  # fmt: skip
def test_a_mistake_about_results_is_one_line_and_exit_status_2(
    run, scenes_config, results, arguments, message
):
    words = arguments.format(folder=scenes_config.parent, results=results).split()
    status, _, errors, files = run(RESULTS, "--config-file", scenes_config, *words)
    assert status == 2 and not files and message in told(errors)
