"""The command that draws class activation maps, as its users meet it."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from anchorkit.config import load_config

TOOL = Path(__file__).resolve().parents[2] / "tools" / "visualize_cam.py"
DIGITS = """
MODEL:
  META_ARCHITECTURE: "ImageClassifier"
  PIXEL_MEAN: [20.0]
  PIXEL_STD: [60.0]
  BACKBONE: {NAME: "build_wide_resnet"}
  WIDE_RESNET: {DEPTH: 10, WIDTH: 1}
  CLASSIFIER: {METHOD: "binary_cross_entropy"}
DATASETS:
  TEST: ("ml_digits_5_test",)
"""


@pytest.fixture
def digits(tmp_path):
    """Two configs of a classifier of digits, and files of weights that nothing has trained."""
    for name, seed in (("baseline", 0), ("other", 1)):
        path = tmp_path / f"{name}.yaml"
        path.write_text(DIGITS)
        torch.manual_seed(seed)
        model = build_model(load_config(str(path), ["MODEL.DEVICE", "cpu"]))
        torch.save({"model": model.state_dict()}, tmp_path / f"{name}.pth")
        body = {key: value for key, value in model.state_dict().items() if "head" not in key}
        torch.save({"model": body}, tmp_path / "body.pth")
    return tmp_path


@pytest.fixture
def draw(digits, monkeypatch, capsys):
    """Function that runs the command; returns status, output, errors and the drawn figures."""
    import anchorkit.visualization as pictures

    save, seen = pictures.save_figure, []
    monkeypatch.setattr(
        pictures, "save_figure", lambda figure, *rest: seen.append(figure) or save(figure, *rest)
    )

    def run(line):
        monkeypatch.chdir(digits)
        monkeypatch.setattr(sys, "argv", ["visualize_cam.py", *line.split()])
        seen.clear()
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(TOOL), run_name="__main__")
        output = capsys.readouterr()
        return end.value.code, output.out, output.err, list(seen)

    return run


ONE = "--config-file baseline.yaml --weights baseline.pth"
TWO = f"{ONE} --beside other.yaml --beside-weights other.pth"


def maps_on(figure):
    """The heat maps of a picture."""
    shown = [image for axes in figure.axes for image in axes.images]
    return [one for one in shown if one.get_array().ndim == 2]


def texts_of(figure):
    return [text.get_text() for text in figure.texts]


def test_the_command_draws_one_model(draw, digits):
    status, output, errors, (figure,) = draw(f"{ONE} --images 2 --output new/cam.png")
    assert (status, output) == (0, "new/cam.png\n"), errors
    texts = texts_of(figure)
    assert "ml_digits_5_test: baseline" in texts
    assert {"0: test 0", "1: test 1"} <= set(texts) and "2: test 2" not in texts
    # Five classes and the highest other one for each of two images.
    assert len(maps_on(figure)) == 2 * 6
    assert sum(text.endswith("(not there)") for text in texts) == 2
    assert sum(bool(re.fullmatch(r"sigmoid [01]\.\d\d", text)) for text in texts) == 2 * 6
    with Image.open(digits / "new" / "cam.png") as picture:
        assert picture.width == 1540


def test_the_command_draws_two_models_with_chosen_classes_and_images(draw):
    status, _, errors, (figure,) = draw(
        f"{TWO} --image-ids 17 3 --classes 8 0 --dataset ml_digits_1_test --output a.pdf"
    )
    assert status == 0, errors
    texts = texts_of(figure)
    assert "ml_digits_1_test: baseline | other" in texts
    assert texts.index("17: test 17") < texts.index("3: test 3")
    assert len(maps_on(figure)) == 2 * 2 * 2
    assert texts.count("baseline") == texts.count("other") == 4


def test_the_command_takes_config_keys_and_single_label_sets(draw):
    status, _, errors, (figure,) = draw(
        f"{ONE} --images 1 --mode single --dataset digits_test "
        "MODEL.CLASSIFIER.METHOD cross_entropy INPUT.FIXED_SIZE 16"
    )
    assert status == 0, errors
    texts = texts_of(figure)
    assert sum(bool(re.fullmatch(r"softmax [01]\.\d\d", text)) for text in texts) == 2
    # 8 x 8 pixels, which the model takes as 16 x 16.
    assert all(one.get_array().shape == (4, 4) for one in maps_on(figure))


def test_models_of_one_config_are_told_apart_by_their_weights(draw):
    line = f"{ONE} --beside baseline.yaml --beside-weights other.pth --images 1"
    status, _, errors, (figure,) = draw(line)
    assert status == 0, errors
    assert "ml_digits_5_test: baseline.pth | other.pth" in texts_of(figure)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--config-file baseline.yaml --weights none.pth", "--weights: no file none.pth"),
        (f"{ONE} --beside other.yaml --beside-weights none.pth", "--beside-weights: no file none"),
        (f"{ONE} --beside other.yaml", "--beside and --beside-weights: give both"),
        ("--config-file none.yaml --weights baseline.pth", "no config file none.yaml"),
        (
            "--config-file baseline.yaml --weights body.pth",
            "body.pth: has no weights, .* for 'head.weight'",
        ),
        (f"{ONE} MODEL.WIDE_RESNET.DEPTH 16", "baseline.pth: has no weights.* and .* more; give"),
        (f"{ONE} --classes 3 dog", "--classes: ml_digits_5_test has no class 'dog'"),
        (f"{ONE} --image-ids 1 360", "--image-ids 360: ml_digits_5_test has the images 0 to 359"),
        (f"{ONE} --image-ids -1", "--image-ids -1: ml_digits_5_test has the images"),
        (f"{ONE} --images 0", "--images 0: must be at least 1"),
        (f"{ONE} --image-ids 1 --mode single", "--mode single is for --images"),
        (f"{ONE} --mode single", "ml_digits_5_test has no image with one class alone"),
        (f"{ONE} --mode co-occurring --dataset ml_digits_1_test", "no image with two classes"),
        (
            f"{ONE} --dataset ml_digit_5_test",
            "--dataset: no data set .*; did you mean ml_digits_5_test",
        ),
        (f"{ONE} --output cam.jpeg", "--output cam.jpeg: must end in .png or .pdf"),
        (f"{ONE} --images 1 --output baseline.pth/cam.png", "--output .*: cannot be written"),
        (f"{ONE} MODEL.NUM_CLASSES 3", "MODEL.NUM_CLASSES is 3, but ml_digits_5_test has 10"),
        (f"{ONE} MODEL.META_ARCHITECTURE FCOS", "MODEL.META_ARCHITECTURE is 'FCOS'; it must be"),
    ],
)
def test_a_mistake_is_one_line(line, message, draw):
    status, output, errors, _ = draw(line)
    lines = [one for one in errors.strip().splitlines() if "error:" in one]
    assert status == 2 and output == "" and len(lines) == 1, errors
    assert lines[0].startswith("visualize_cam: error: ") and re.search(message, lines[0]), lines
