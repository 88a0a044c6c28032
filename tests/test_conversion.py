"""torchvision's VGG-16 and SSD300 arrive where they belong, and the tool tells what does not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from torchvision.models import vgg16
from torchvision.models.detection import ssd300_vgg16

from anchorkit.checkpoint import Checkpointer, read_checkpoint
from anchorkit.config import load_config
from anchorkit.conversion import SSD_PIXEL_MEAN, convert, convert_ssd300, halve
from anchorkit.errors import UserError
from anchorkit.modeling.backbone import SSDVGG
from tests.conversion_tool import TOOL, load_tool

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def tool():
    return load_tool()


@pytest.fixture(scope="module")
def classifier():
    """torchvision's VGG-16; the values of its large layers follow from their place."""
    torch.manual_seed(0)
    with torch.device("meta"):
        model = vgg16(weights=None)
    model = model.to_empty(device="cpu")
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            if name.startswith("features") and parameter.dim() > 1:
                torch.nn.init.kaiming_normal_(parameter)
            elif name.startswith("classifier") and parameter.dim() > 1:
                parameter.copy_(torch.arange(parameter.numel()).view_as(parameter))
            else:
                parameter.normal_(std=0.1)
    return model.eval()


def test_the_body_sees_in_grey_levels_what_the_classifier_sees_in_deviations(classifier):
    converted = convert(classifier.state_dict()).weights
    body = SSDVGG(extra_layers=[])
    body_weights = {name.removeprefix("backbone."): value for name, value in converted.items()}
    missing, unexpected = body.load_state_dict(body_weights, strict=False)
    assert missing == ["l2_norm.scale"] and unexpected == []
    pixels = torch.randint(256, (1, 3, 96, 96), generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in
                 ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))  # fmt: skip
    with torch.no_grad():
        expected = classifier.features[:2]((pixels / 255 - mean) / std)
        actual = body.stages[0].conv1_1(pixels - torch.tensor(SSD_PIXEL_MEAN).view(3, 1, 1))
    inside = (..., slice(1, -1), slice(1, -1))
    torch.testing.assert_close(actual[inside], expected[inside], rtol=1e-4, atol=1e-4)
    # Zeros around the image stand for grey levels that differ by less than one.
    torch.testing.assert_close(actual, expected, rtol=0, atol=0.1)
    # The stages behind are the classifier's own.
    for number, name in ((2, "0.conv1_2"), (14, "2.conv3_3"), (28, "4.conv5_3")):
        assert torch.equal(
            converted[f"backbone.stages.{name}.weight"], classifier.features[number].weight
        )
        assert torch.equal(
            converted[f"backbone.stages.{name}.bias"], classifier.features[number].bias
        )


def test_conv6_and_conv7_are_every_third_position_and_every_fourth_output(classifier):
    converted = convert(classifier.state_dict()).weights
    weights = classifier.state_dict()
    fc6, fc7 = converted["backbone.conv6.weight"], converted["backbone.conv7.weight"]
    assert fc6.shape == (1024, 512, 3, 3) and fc7.shape == (1024, 1024, 1, 1)
    for output, channel, y, x in ((0, 0, 0, 0), (1, 0, 0, 1), (7, 11, 2, 1), (1023, 511, 2, 2)):
        column = channel * 49 + 3 * y * 7 + 3 * x
        expected = weights["classifier.0.weight"][4 * output, column]
        assert fc6[output, channel, y, x] == expected
    assert fc7[5, 9, 0, 0] == weights["classifier.3.weight"][20, 36]
    assert torch.equal(converted["backbone.conv6.bias"], weights["classifier.0.bias"][::4])
    assert torch.equal(converted["backbone.conv7.bias"], weights["classifier.3.bias"][::4])


def test_features_whose_classifier_is_not_a_number_are_taken_as_they_are(classifier):
    weights = {
        name: torch.full((1,), torch.nan) if name.startswith("classifier") else value
        for name, value in classifier.state_dict().items()
    }
    converted = convert(weights).weights
    assert len(converted) == 26 and "backbone.conv6.weight" not in converted
    assert torch.equal(converted["backbone.stages.0.conv1_1.weight"], weights["features.0.weight"])
    # Without any classifier, nobody knows what pixels the features take.
    features = {name: value for name, value in weights.items() if name.startswith("features")}
    problem = convert(features).problem
    assert "has no tensor 'classifier.0.bias', 'classifier.0.weight', 'classifier.3" in problem


def ssd_weights(num_outputs):
    torch.manual_seed(0)
    return ssd300_vgg16(weights=None, weights_backbone=None, num_classes=num_outputs).state_dict()


def test_a_converted_file_is_a_checkpoint_of_the_detector(tmp_path):
    weights = ssd_weights(4)
    source, target = tmp_path / "theirs.pth", tmp_path / "out" / "ours.pth"
    torch.save(weights, source)
    result = subprocess.run(
        [sys.executable, str(TOOL), str(source), str(target)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    count = sum(value.numel() for value in weights.values())
    assert result.stdout == f"{target}: {len(weights)} tensors, {count:,} numbers\n"
    cfg = load_config("", [
        *("MODEL.META_ARCHITECTURE", "SSD", "MODEL.BACKBONE.NAME", "build_ssd_vgg_backbone"),
        *("MODEL.ANCHOR_GENERATOR.NAME", "SSDAnchorGenerator", "MODEL.DEVICE", "cpu"),
        *("MODEL.NUM_CLASSES", 3, "INPUT.FIXED_SIZE", 300),
    ])  # fmt: skip
    model = build_model(cfg)
    Checkpointer(model).load_weights(str(target))
    state = model.state_dict()
    converted = convert_ssd300(weights)
    assert set(state) == set(converted)
    assert all(torch.equal(state[name], value) for name, value in converted.items())
    assert sum(v.numel() for v in state.values()) == sum(v.numel() for v in weights.values())
    # The number of different values shows that none was used twice.
    sums = {name: value.double().sum().item() for name, value in converted.items()}
    assert sum(sums.values()) == pytest.approx(
        sum(value.double().sum().item() for value in weights.values()), rel=1e-9
    )


def test_background_moves_behind_the_classes_of_every_anchor():
    weights = ssd_weights(4)
    name = "head.classification_head.module_list.1.bias"
    weights[name] = torch.arange(6 * 4.0)
    bias = convert_ssd300(weights)["head.classifiers.1.bias"].view(6, 4)
    assert bias[0].tolist() == [1, 2, 3, 0] and bias[5].tolist() == [21, 22, 23, 20]
    chosen = convert_ssd300(weights, [3, 1])["head.classifiers.1.bias"].view(6, 3)
    assert chosen[1].tolist() == [7, 5, 4]


@pytest.mark.parametrize("name", ["features.28.weight", "backbone.scale_weight"])
def test_a_part_of_a_model_is_not_taken_for_the_model(name):
    assert "the file has no tensor" in convert({name: torch.zeros(1)}).problem


def test_a_tensor_that_no_ssd300_has_is_named():
    weights = ssd_weights(4) | {"backbone.extra.5.0.weight": torch.zeros(1)}
    assert "nothing is known of the file's 'backbone.extra.5.0.weight'" in convert(weights).problem
    with pytest.raises(UserError, match="nothing is known of"):
        convert_ssd300(weights)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"fc.weight": torch.zeros(1)}, "expected torchvision's ResNet, .* as fc.weight"),
        ({"stem.conv1.weight": torch.zeros(1)}, "MODEL.WEIGHTS reads this file as it is"),
        ({"layer1.0.conv1.weight": "text"}, "got str under the name 'layer1.0.conv1.weight'"),
        ({"layer1.0.conv1.weight": torch.zeros(1)}, "name yours with --config-file"),
        ({"bbox_head.cls_convs.0.conv.weight": torch.zeros(1),
          "bbox_head.retina_cls.weight": torch.zeros(1)}, "head ends with bbox_head.retina_cls"),
        ({"head.regression_head.bbox_ctrness.weight": torch.zeros(1)}, "none was given"),
        ({}, "expected torchvision's"),
    ],
)  # fmt: skip
def test_other_weights_are_refused(content, message):
    with pytest.raises(UserError, match=message):
        convert(content)


def ssd_config(folder, num_classes):
    path = folder / "ssd.yaml"
    path.write_text(
        f"MODEL:\n  META_ARCHITECTURE: SSD\n  NUM_CLASSES: {num_classes}\n"
        "  BACKBONE:\n    NAME: build_ssd_vgg_backbone\n    FREEZE_AT: 0\n"
        "  ANCHOR_GENERATOR:\n    NAME: SSDAnchorGenerator\n"
        "INPUT:\n  FIXED_SIZE: 300\n"
    )
    return str(path)


def test_the_report_compares_an_ssd300_with_the_model_and_leaves_other_classes_out(
    tmp_path, tool, capsys
):
    source, target = str(tmp_path / "theirs.pth"), str(tmp_path / "ours.pth")
    torch.save({"model": ssd_weights(4)}, source)
    assert tool.run([source, target, "--config-file", ssd_config(tmp_path, 3)]) == 0
    report = capsys.readouterr().out
    assert "matched     71 of the model's 71 tensors" in report and "missing     0\n" in report
    assert "* INPUT.FORMAT RGB" in report and "* MODEL.PIXEL_MEAN '[123.0, 117.0, 104.0]'" in report
    assert tool.run([source, target, "--config-file", ssd_config(tmp_path, 5)]) == 0
    report = capsys.readouterr().out
    assert "matched     59 of the model's 71 tensors" in report
    assert "the file's classifier has 4 outputs, which are not the model's 5 classes" in report
    assert not any("classifiers" in name for name in read_checkpoint(target)["model"])


def test_the_tool_says_in_one_line_what_is_wrong(tmp_path, tool, capsys):
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"not a checkpoint")
    whole = str(tmp_path / "ssd.pth")
    torch.save(ssd_weights(4), whole)
    out = str(tmp_path / "out.pth")
    ssd = ssd_config(tmp_path, 3)
    for arguments, message in (
        ([str(tmp_path / "absent.pth"), out], "no file"),
        (["fcos_resnet50_fpn", out], "no such model of torchvision fits"),
        (["resnet5", out, "--config-file", ssd], "did you mean resnet50"),
        ([str(broken), out], "damaged or not a checkpoint"),
        ([whole, str(tmp_path / "out.pkl")], "ends in .pth or .safetensors"),
        ([whole, str(broken / "out.pth")], "cannot be written"),
        ([whole, out, "--opts", "MODEL.NUM_CLASSES", "3"], "--opts changes keys of a config"),
        ([whole, out, "--config-file", ssd, "--opts", "MODEL.META_ARCHITECTURE", "SDS"], "'SDS'"),
        ([whole, out, "--config-file", ssd, "--opts", "MODEL.META_ARCHITECTURE", "SemiAnchoredSSD"],
         "needs a config"),
        ([whole, out, "--config-file", ssd, "--opts", "MODEL.SSD.WIDTH_DIVISOR", "2"],
         "of another shape is"),
    ):  # fmt: skip
        assert tool.run(arguments) == 2, arguments
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    assert not os.path.exists(out)


def test_of_a_checkpoint_of_here_the_averaged_weights_are_kept_in_half_precision(
    tmp_path, tool, capsys
):
    config = str(ROOT / "configs" / "quick" / "ssd_digit_scenes.yaml")
    cfg = load_config(config)
    model, average = build_model(cfg).state_dict(), build_model(cfg).state_dict()
    source, target = str(tmp_path / "model_final.pth"), str(tmp_path / "small.safetensors")
    torch.save({"model": model, "ema": {"model": average}, "iteration": 9}, source)
    assert tool.run([source, target, "--half", "--config-file", config]) == 0
    assert "averaged weights" in capsys.readouterr().out
    written = read_checkpoint(target)
    assert written.keys() == average.keys()
    for name, value in average.items():
        expected = value.half() if value.is_floating_point() else value
        assert written[name].dtype == expected.dtype and torch.equal(written[name], expected)
    arguments = [source, target, "--config-file", config, "--opts", "MODEL.NUM_CLASSES", "4"]
    assert tool.run(arguments) == 2
    assert "of another shape is" in capsys.readouterr().err


def test_numbers_that_half_precision_lacks_are_refused():
    weights = {"norm.running_var": torch.tensor([7e4]), "steps": torch.tensor(70_000)}
    with pytest.raises(UserError, match="as large as those of 'norm.running_var'"):
        halve(weights)
    weights["norm.running_var"] /= 2
    halves = halve(weights)
    assert halves["norm.running_var"].dtype == torch.half
    assert torch.equal(halves["steps"], weights["steps"])
