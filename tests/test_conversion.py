"""Weights of torchvision arrive where they belong, and nothing else is taken for them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from torchvision.models import vgg16
from torchvision.models.detection import ssd300_vgg16

from anchorkit.checkpoint import Checkpointer
from anchorkit.config import load_config
from anchorkit.conversion import SSD_PIXEL_MEAN, convert_ssd300, convert_torchvision
from anchorkit.errors import UserError
from anchorkit.modeling.backbone import SSDVGG

TOOL = Path(__file__).resolve().parent.parent / "tools" / "convert_checkpoint.py"


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
    converted = convert_torchvision(classifier.state_dict())
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
    converted = convert_torchvision(classifier.state_dict())
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
    converted = convert_torchvision(weights)
    assert len(converted) == 26 and "backbone.conv6.weight" not in converted
    assert torch.equal(converted["backbone.stages.0.conv1_1.weight"], weights["features.0.weight"])
    # Without any classifier, nobody knows what pixels the features take.
    features = {name: value for name, value in weights.items() if name.startswith("features")}
    with pytest.raises(UserError, match="has no tensor classifier.0.weight"):
        convert_torchvision(features)


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"conv1.weight": torch.zeros(1)}, "expected .* ssd300_vgg16 or vgg16 .*conv1.weight"),
        ({"features.28.weight": torch.zeros(1)}, "has no tensor features.0.weight"),
        ({"backbone.scale_weight": torch.zeros(1)}, "has no tensor backbone.features.0.weight"),
    ],
)
def test_other_weights_are_refused(content, message):
    with pytest.raises(UserError, match=message):
        convert_torchvision(content)


def test_the_tool_says_in_one_line_what_is_wrong(tmp_path):
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"not a checkpoint")
    for arguments, message in (
        ([tmp_path / "absent.pth", tmp_path / "out.pth"], "no file"),
        ([broken, tmp_path / "out.pth"], "damaged or not a checkpoint"),
    ):
        result = subprocess.run(
            [sys.executable, str(TOOL), *map(str, arguments)], capture_output=True, text=True
        )
        assert result.returncode == 2 and message in result.stderr
        assert result.stderr.count("\n") == 1
