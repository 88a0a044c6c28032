"""The tutorials, command by command, on sets of a few images."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import resnet18
from torchvision.models.detection import FCOS
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from anchorkit.data import write_digit_scenes
from tests.pages import ROOT, commands_of, run_commands, write_files
from tests.reference.weights import randomize

OWN_DATA, OWN_ASSIGNER = ROOT / "docs" / "own_data.md", ROOT / "docs" / "own_assigner.md"
CLASSES = ("red", "white", "platelet")
# What makes the models of docs/own_data.md small.
CHANNELS = 64
SMALL = (
    "MODEL.DEVICE cpu MODEL.RESNETS.DEPTH 18 MODEL.RESNETS.RES2_OUT_CHANNELS 64 MODEL.RESNETS.NORM "
    f"BN MODEL.FPN.OUT_CHANNELS {CHANNELS} INPUT.MIN_SIZE_TRAIN (64,) INPUT.MIN_SIZE_TEST 64 "
    "SOLVER.IMS_PER_BATCH 2 TEST.NUM_PICTURES 1 MODEL.FCOS.SCORE_THRESH_TEST 0.001 "
    "DATALOADER.NUM_WORKERS 0"
).split()


def write_set(folder, name, num_images, seed):
    """Write a COCO file with noise and bright rectangles; the last image has none."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for index in range(num_images):
        pixels = rng.integers(0, 60, (96, 128, 3), dtype=np.uint8)
        for _ in range(3 if index < num_images - 1 else 0):
            width, height = (int(side) for side in rng.integers(16, 60, 2))
            x, y = int(rng.integers(0, 128 - width)), int(rng.integers(0, 96 - height))
            kind = int(rng.integers(len(CLASSES)))
            pixels[y : y + height, x : x + width, kind] = 220
            annotations.append({
                "id": len(annotations) + 1, "image_id": index, "category_id": kind + 1,
                "bbox": [x, y, width, height], "area": width * height, "iscrowd": 0,
            })  # fmt: skip
        file_name = f"{name}_{index}.png"
        Image.fromarray(pixels).save(folder / "images" / file_name)
        images.append({"id": index, "file_name": file_name, "width": 128, "height": 96})
    categories = [{"id": i + 1, "name": text} for i, text in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    if name == "train":
        annotations[0]["bbox"][2] = 0  # the fault that the page's table counts
    (folder / f"{name}.json").write_text(json.dumps(content))


def write_torchvision_fcos(path):
    """torchvision's FCOS of random weights, as narrow as SMALL; stands for the download."""
    body = resnet18(weights=None)
    layers = {"layer2": "0", "layer3": "1", "layer4": "2"}
    top = LastLevelP6P7(CHANNELS, CHANNELS)
    backbone = BackboneWithFPN(body, layers, [128, 256, 512], CHANNELS, extra_blocks=top)
    torch.save(randomize(FCOS(backbone, num_classes=91)).state_dict(), path)


def small(words):
    """What is appended to a command of docs/own_data.md."""
    if "--config-file" not in words:
        return []
    config = words[words.index("--config-file") + 1]
    iterations = "6" if "SOLVER.MAX_ITER" in words else "4"
    more = [*SMALL, "SOLVER.MAX_ITER", iterations, "SOLVER.STEPS", "()"]
    if "MODEL.WEIGHTS" not in words and not config.endswith("_coco.yaml"):
        more += ["MODEL.WEIGHTS", ""]  # in place of the download
    return more


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """The folder after all commands of docs/own_data.md, and what they printed."""
    folder = tmp_path_factory.mktemp("own_data")
    write_files(OWN_DATA, folder)
    write_set(folder / "cells", "train", 4, seed=0)
    write_set(folder / "cells", "val", 2, seed=1)
    write_set(folder / "more", "train", 2, seed=2)
    (folder / "weights").mkdir()
    write_torchvision_fcos(folder / "fcos_resnet50_fpn")
    return folder, run_commands(commands_of(OWN_DATA), folder, small)


def test_the_commands_for_ones_own_data_write_what_the_page_says(cells):
    folder, _ = cells
    output = folder / "output" / "cells"
    table = OWN_DATA.read_text().split("| file | what |")[1].split("\n\n")[0]
    names = re.findall(r"`(\w+\.\w+)`", table)
    assert "results.json" in names
    for name in names:
        assert (output / name).is_file(), name
    assert len(list((output / "assignment").glob("*.png"))) == 4
    assert list((output / "pictures").rglob("*.png")) and (output / "curves.png").is_file()
    found = json.loads((output / "found" / "predictions.json").read_text())
    assert {entry["category"] for entry in found} <= set(CLASSES)
    assert len(list((output / "found").glob("*.png"))) == 6
    for name in ("cells_coco", "both"):
        assert (folder / "output" / name / "model_final.pth").is_file()


def test_the_resumed_run_goes_on_to_the_iterations_it_is_given(cells):
    folder, text = cells
    assert "training is finished: 4 of SOLVER.MAX_ITER 4 iterations are done" in text
    assert "training from iteration 4 to 6" in text
    checkpoint = torch.load(folder / "output" / "cells" / "model_final.pth", weights_only=True)
    assert checkpoint["trainer"]["iteration"] == 5


def test_the_weights_from_coco_fill_all_but_the_classifier(cells):
    _, text = cells
    report, training = (
        part for part in text.split("\n$ ") if "cells_coco.yaml" in part.partition("\n")[0]
    )
    assert "the file's classifier has 91 outputs, which are not the model's 3 classes" in report
    # A star would be a key of these weights that the page's config lacks.
    assert "MODEL.FCOS.CONV_BIAS True" in report and "  * " not in report
    assert re.search(r"weights: .* matched, 2 missing, 0 unexpected, 0 of another shape", training)


def test_the_table_of_the_page_is_the_one_in_the_log(cells):
    folder, _ = cells
    (table,) = re.findall(r"```\n(\|  .*?)```", OWN_DATA.read_text(), re.S)
    assert "boxes of platelet" in table
    assert table in (folder / "output" / "cells" / "log.txt").read_text()


def test_the_label_rule_of_the_page_trains_and_its_labels_are_those_of_the_loop(tmp_path):
    write_files(OWN_ASSIGNER, tmp_path)
    write_digit_scenes(str(tmp_path / "datasets"), num_train=4, num_val=2)

    def two_iterations(words):
        more = "SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 2 TEST.NUM_PICTURES 0".split()
        return more if words[0] == "tools/train_net.py" else []

    text = run_commands(commands_of(OWN_ASSIGNER), tmp_path, two_iterations)
    number = re.search(r"5 scenes, (\d+) positive locations: the same labels", text)
    assert int(number[1]) > 100
    assert len(list((tmp_path / "output").rglob("assignment/*.png"))) == 2
    losses = {}
    for name in ("closest_center", "closest_center_smooth"):
        output = tmp_path / "output" / name
        weights = torch.load(output / "model_final.pth", weights_only=True)["model"]
        lines = (output / "metrics.json").read_text().splitlines()
        losses[name] = json.loads(lines[-1]).keys(), any("centerness" in key for key in weights)
    assert "loss_centerness" in losses["closest_center"][0] and losses["closest_center"][1]
    assert "loss_centerness" not in losses["closest_center_smooth"][0]
    assert not losses["closest_center_smooth"][1]


def test_a_command_that_fails_is_told(tmp_path):
    (tmp_path / "fails.py").write_text("import os, sys\nsys.exit(os.environ['REASON'])\n")
    commands = ["export REASON=because", "python fails.py"]
    with pytest.raises(AssertionError, match="because"):
        run_commands(commands, tmp_path, lambda words: [])
