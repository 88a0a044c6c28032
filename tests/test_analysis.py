"""Parameters and multiply-accumulates are those of the model, and the command prints them."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.analysis import FlopCountAnalysis
from torch import nn
from torchvision.models import get_model_weights
from torchvision.ops import DeformConv2d

from anchorkit import model_zoo
from anchorkit.analysis import (
    Network,
    build_input,
    build_meta_model,
    count_macs,
    count_parameters,
)
from anchorkit.config import num_classes
from anchorkit.errors import UserError

from .reference.costs import macs_of_layers

TOOL = Path(__file__).resolve().parent.parent / "tools" / "analyze_model.py"
QUICK = [
    "semi_anchored_retinanet_digit_scenes", "dsla_foveabox_digit_scenes", "ssd_digit_scenes",
    "oat_digits", "indeed_ml_digits_5",
]  # fmt: skip


@pytest.mark.parametrize("name", QUICK)
def test_the_counts_are_those_of_all_layers_of_a_real_run(name):
    cfg = model_zoo.get_config(name)
    size = (cfg.INPUT.FIXED_SIZE or 96,) * 2
    macs = count_macs(build_meta_model(cfg), build_input(cfg, size))
    model = build_model(cfg).eval()
    batch = build_input(cfg, size, device="cpu")
    assert macs[""] == macs_of_layers(model, lambda: model(batch))
    assert count_parameters(build_meta_model(cfg)) == count_parameters(model)
    assert count_parameters(model) == sum(parameter.numel() for parameter in model.parameters())
    children = [macs.get(child, 0) for child, _ in model.named_children()]
    assert sum(children) == macs[""]


def test_the_counts_of_modules_are_detectron2s_own():
    cfg = model_zoo.get_config("retinanet_digit_scenes")
    macs = count_macs(build_meta_model(cfg), build_input(cfg, (64, 80)))
    model = build_model(cfg).eval()
    with torch.no_grad():
        theirs = FlopCountAnalysis(Network(model), build_input(cfg, (64, 80), device="cpu"))
        theirs = theirs.unsupported_ops_warnings(False).by_module_and_operator()
    for module in ("", "backbone", "backbone.bottom_up.res4", "head"):
        prefix = ".".join(filter(None, ("model.model", module)))
        assert macs[module] == theirs[prefix]["conv"] > 0


@pytest.mark.parametrize("name", ["resnet18", "wrn_50_2", "vit_l_16"])
def test_library_bodies_cost_what_torchvision_says(name):
    cfg = model_zoo.get_config(f"ce_{name}_bar", ["MODEL.NUM_CLASSES", "1000"])
    model = build_meta_model(cfg)
    meta = get_model_weights(cfg.MODEL.CLASSIFIER.BODY).IMAGENET1K_V1.meta
    assert count_parameters(model) == meta["num_params"]
    assert count_macs(model, build_input(cfg))[""] / 1e9 == pytest.approx(meta["_ops"], abs=0.001)


def test_a_deformable_convolution_costs_what_a_plain_one_does():
    class Detector(nn.Module):
        head_in_features = ("maps",)

        def __init__(self):
            super().__init__()
            self.backbone, self.head = Body(), nn.Identity()

    class Body(nn.Module):
        size_divisibility = 8

        def __init__(self):
            super().__init__()
            self.layer = DeformConv2d(4, 6, 3, padding=1, groups=2)

        def forward(self, images):
            return {"maps": self.layer(images, images.new_zeros(1, 18, *images.shape[2:]))}

    with torch.device("meta"):
        macs = count_macs(Detector(), [{"image": torch.zeros(4, 5, 9)}])
    # 8 x 16 pixels after padding, 6 channels out, 2 in for each of them.
    assert macs[""] == 8 * 16 * 6 * 2 * 9


@pytest.mark.parametrize(("name", "size"), [
    ("fcos_R_50_FPN_1x", (3, 800, 1333)), ("ssd512_VGG_16_120e", (3, 512, 512)),
    ("fcos_digit_scenes", (3, 160, 267)), ("ce_digits", (1, 16, 16)),
])  # fmt: skip
def test_the_image_has_the_test_size_of_the_config(name, size):
    assert build_input(model_zoo.get_config(name))[0]["image"].shape == size


def test_frozen_normalisation_counts_as_if_it_were_learned():
    cfg = model_zoo.get_config("fcos_R_50_FPN_1x")
    model = build_meta_model(cfg)
    # One scale and one shift for each output of the body's convolutions.
    channels = sum(
        layer.out_channels for layer in model.backbone.bottom_up.modules()
        if isinstance(layer, nn.Conv2d)
    )  # fmt: skip
    learned = sum(parameter.numel() for parameter in model.parameters())
    assert count_parameters(model) - learned == 2 * channels == 53_120


@pytest.mark.parametrize(("name", "number"), [
    ("ce_resnet18_ucf101", 101), ("oat_resnet18_era", 25), ("ce_resnet18_bar", 6),
    ("bce_resnet50_coco2014", 80), ("indeed_simple_cnn_ml_mnist_5", 10),
])  # fmt: skip
def test_the_classes_of_a_set_are_counted_before_its_files_are_there(name, number):
    assert num_classes(model_zoo.get_config(name)) == number


@pytest.mark.parametrize(("overrides", "message"), [
    (["MODEL.META_ARCHITECTURE", "GeneralizedRCNN"], "META_ARCHITECTURE is 'GeneralizedRCNN'; it "),
    (["MODEL.BACKBONE.NAME", "build_no_body"], "MODEL.BACKBONE.NAME is 'build_no_body'; it must"),
])  # fmt: skip
def test_models_that_cannot_be_counted_are_named(overrides, message):
    with pytest.raises(UserError, match=message):
        build_meta_model(model_zoo.get_config("ce_digits", overrides))


def analyze(name: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, TOOL, "--config-file", model_zoo.config_path(name), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_the_command_analyzes_a_detector(tmp_path):
    run = analyze(
        "semi_anchored_retinanet_digit_scenes", "--size", "160", "160",
        "--tasks", "parameter", "flop", "activation", "structure", "MODEL.WEIGHTS", "none.pth",
        folder=tmp_path,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    assert "parameter: 1,934,495 parameters" in run.stdout
    assert "flop: 283,972,800 multiply-accumulates" in run.stdout
    assert "for an image of 160 x 160" in run.stdout
    assert "| backbone.bottom_up " in run.stdout and "| conv " in run.stdout
    assert "structure: SemiAnchoredRetinaNet(" in run.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_command_analyzes_a_classifier(tmp_path):
    run = analyze("oat_digits", "--tasks", "parameter", "flop", "activation", folder=tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    assert "13,654 parameters" in run.stdout and "42,080 multiply-accumulates" in run.stdout
    assert "| linear " in run.stdout


@pytest.mark.parametrize(("name", "arguments", "message"), [
    ("ce_wrn_28_10_cifar10", ["--tasks", "flop"], "INPUT.FIXED_SIZE is 0, .* with --size"),
    ("ce_vit_l_16_bar", ["--size", "64", "64", "--tasks", "flop"], "cannot take such an image"),
    ("ce_digits", ["--size", "0", "9", "--tasks", "flop"], "--size 0 9: both must be at least 1"),
])  # fmt: skip
def test_the_command_says_which_size_it_needs(name, arguments, message):
    tool = runpy.run_path(str(TOOL))
    arguments = ["--config-file", str(model_zoo.config_path(name)), *arguments]
    with pytest.raises(UserError, match=message):
        tool["main"](tool["argument_parser"]().parse_args(arguments))


def test_a_mistyped_task_is_one_line_and_exit_status_2(tmp_path):
    run = analyze("ce_digits", "--tasks", "flops", folder=tmp_path)
    message = "analyze_model: error: --tasks: there is no 'flops'; did you mean flop?\n"
    assert (run.returncode, run.stdout, run.stderr) == (2, "", message)
