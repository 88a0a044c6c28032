"""The commands that draw, as their users meet them."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

REPO = Path(__file__).resolve().parents[2]
VISUALIZE = REPO / "tools" / "visualize_assignment.py"
DEMO = REPO / "tools" / "demo_digit_scenes.py"


@pytest.fixture
def visualize(scenes_config, tmp_path, monkeypatch, capsys):
    """Function that runs the command in this process; returns status, output, errors, pictures."""

    def run(*arguments):
        words = ["--config-file", str(scenes_config), "--output", str(tmp_path / "out"), *arguments]
        monkeypatch.setattr(sys, "argv", ["visualize_assignment.py", *words])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(VISUALIZE), run_name="__main__")
        output = capsys.readouterr()
        pictures = sorted(path.name for path in (tmp_path / "out").glob("*"))
        return end.value.code, output.out, output.err, pictures

    return run


def test_the_first_images_are_drawn_and_counted(visualize, tmp_path):
    status, output, _, pictures = visualize("--num-images", "2")
    assert status == 0 and pictures == ["0.png", "10.png"]
    assert "locations, positive : all" in output and "p7" in output
    with Image.open(tmp_path / "out" / "0.png") as picture:
        assert picture.width == 1540


def test_detectors_are_drawn_beside_each_other_and_counted_one_by_one(
    visualize, scenes_config, tmp_path
):
    other = tmp_path / "points.yaml"
    other.write_text(scenes_config.read_text().replace("SemiAnchoredRetinaNet", "FCOS"))
    status, output, _, pictures = visualize("--image-ids", "30", "--beside", str(other))
    assert status == 0 and pictures == ["30.png"]
    assert output.count("locations, positive : all") == 2
    assert output.count("anchors, positive : all") == 1
    assert "\nscenes\n" in output and "\npoints\n" in output


def test_images_are_chosen_by_id_or_by_file(visualize):
    assert visualize("--image-ids", "30")[3] == ["30.png"]
    assert visualize("--input", "scene_2.png", "--format", "pdf")[3] == ["20.pdf", "30.png"]


def test_the_table_alone_draws_nothing_and_serves_the_baseline_too(visualize):
    options = ("--table-only", "--opts", "MODEL.META_ARCHITECTURE", "BaselineRetinaNet")
    status, output, _, pictures = visualize(*options)
    assert status == 0 and pictures == []
    assert "ground-truth boxes                     4" in output


@pytest.mark.parametrize("arguments, message", [
    ("--image-ids 31", "no image id 31 in data set .*; there is for example 30"),
    ("--input scene_9.png", "no image file scene_9.png in data set .*; did you mean scene_"),
    ("--dataset scenes", "no data set 'scenes'"),
    ("--num-images 0", "--num-images 0"),
    ("--opts MODEL.NUM_CLASES 3", "did you mean MODEL.NUM_CLASSES"),
    ("--opts MODEL.META_ARCHITECTURE GeneralizedRCNN", "META_ARCHITECTURE is 'GeneralizedRCNN'"),
    ("--opts MODEL.NUM_CLASSES 5", "has 3 classes"),
    ("--opts DATASETS.TRAIN ()", "DATASETS.TRAIN is empty"),
])  # fmt: skip
def test_a_mistake_is_one_line_and_exit_status_2(arguments, message, visualize):
    status, _, errors, pictures = visualize(*arguments.split())
    lines = [line for line in errors.strip().splitlines() if "error:" in line]
    assert status == 2 and len(lines) == 1 and "Traceback" not in errors and not pictures
    assert re.search(message, lines[0])


def test_an_image_that_cannot_be_read_is_named(visualize, tmp_path):
    (tmp_path / "scenes" / "scene_1.png").write_bytes(b"nothing")
    status, _, errors, pictures = visualize("--image-ids", "10")
    assert status == 2 and not pictures
    assert "image 10 (" in errors and "scene_1.png" in errors


def test_the_demo_trains_evaluates_draws_and_says_where_everything_is(scenes_config, tmp_path):
    overrides = [
        "MODEL.NUM_CLASSES", "3", "SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2",
        "OUTPUT_DIR", str(tmp_path / "demo"), "INPUT.MIN_SIZE_TRAIN", "(64,)",
        "INPUT.MIN_SIZE_TEST", "64", "MODEL.FPN.OUT_CHANNELS", "32",
        "MODEL.SEMI_ANCHORED.SCORE_THRESH_TEST", "0.0",
    ]  # fmt: skip
    name = f"scenes_{tmp_path.name}"
    overrides += [
        "DATASETS.COCO_FORMAT", f"[['{name}','{tmp_path}/scenes.json','{tmp_path}/scenes']]",
        "DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", f"('{name}',)",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(
        filter(None, (str(REPO), os.environ.get("PYTHONPATH"))))}  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(DEMO), *overrides],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, timeout=600,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "tools/train_net.py --config-file" in done.stdout
    closing = done.stdout[done.stdout.index("Demo: semi-anchored RetinaNet") :]
    value = json.loads((tmp_path / "demo" / "results.json").read_text())[name]["bbox"]["AP"]
    assert f"{value:8.1f}" in closing and "AP50" in closing and "time " in closing
    for place in ("model_final.pth", "log.txt", "results.md", "pictures", "assignment"):
        path = tmp_path / "demo" / place
        assert path.exists() and str(path) in closing
    assert len(list((tmp_path / "demo" / "assignment").glob("*.png"))) == 4
    assert len(list((tmp_path / "demo" / "pictures" / name).glob("*.png"))) == 4


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """Function that runs the demo in this process with a training command of one's own."""

    def run(training_command):
        (tmp_path / "tools").mkdir()
        (tmp_path / "tools" / "train_net.py").write_text(training_command)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["demo_digit_scenes.py"])
        functions = runpy.run_path(str(DEMO))
        main = functions["main"]
        main.__globals__.update(REPO=str(tmp_path), QUIET_SECONDS=1.0)
        return main()

    return run


def test_the_demo_ends_with_the_status_of_a_command_that_failed(demo, capfd):
    assert demo("import sys; sys.exit('config key NONE')") == 1
    output = capfd.readouterr().out
    assert "config key NONE" in output
    assert "visualize_assignment" not in output and "Demo:" not in output


def test_the_demo_speaks_when_a_command_is_silent_for_long(demo, capfd):
    demo("import sys, time; time.sleep(4); sys.exit(5)")
    assert "... at work (" in capfd.readouterr().out
