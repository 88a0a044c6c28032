"""Detectors of torchvision and mmdetection give their logits, boxes and centerness here too."""

import hashlib

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from torchvision.models.detection import (
    fcos_resnet50_fpn,
    retinanet_resnet50_fpn,
    retinanet_resnet50_fpn_v2,
)
from torchvision.models.detection.image_list import ImageList

from anchorkit.config import load_config
from anchorkit.conversion import convert, torchvision_dense
from anchorkit.errors import UserError
from anchorkit.layers import flatten_levels
from tests.conversion_tool import TOOL, load_tool
from tests.reference import mmdetection
from tests.reference.weights import randomize

OVERRIDES = [
    *("MODEL.BACKBONE.NAME", "build_resnet_fpn_p6p7_backbone", "MODEL.BACKBONE.FREEZE_AT", 0),
    *("MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"], "MODEL.DEVICE", "cpu"),
    *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"]),
]
# Sides that are multiples of 128, see the note on FCOS's P6 and P7.
SIZE = 128
PIXELS = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
# What a detector of COCO's 91 outputs has where here the 80 categories are.
SOME_CLASSES = ((0, 1), (10, 11), (11, 13), (79, 90))


@pytest.fixture(scope="module", autouse=True)
def nothing_is_folded():
    """Names and weights are looked at here; the rounding of folded normalisation is no matter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anchorkit.modeling.backbone.resnet_fpn.fold_norms", lambda body: None)
        yield


def build(architecture, *overrides):
    keys = ("MODEL.META_ARCHITECTURE", architecture)
    cfg = load_config("", [*OVERRIDES, *keys, *overrides])
    return META_ARCH_REGISTRY.get(architecture)(cfg).eval()


def converted(state, architecture, *overrides, **facts):
    """The conversion into a model that has all keys which it says belong to the weights."""
    first = convert(state, build(architecture, *overrides), **facts).name_map
    keys = first.structure | first.settings
    model = build(architecture, *overrides, *(part for pair in keys.items() for part in pair))
    conversion = convert(state, model, **facts)
    assert conversion.problem == ""
    missing, unexpected = model.load_state_dict(conversion.weights, strict=False)
    assert unexpected == [] and missing == conversion.unfilled
    return model, conversion


def close(actual, expected):
    assert expected.std() > 0.05
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


RETINANET = (*("MODEL.NUM_CLASSES", 80), *("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[0.5, 1, 2]]),
             *("MODEL.ANCHOR_GENERATOR.SIZES", [[32.0, 40.0, 50.0]] * 5))  # fmt: skip


@pytest.fixture(scope="module", params=[retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2])
def retinanets(request):
    torch.manual_seed(0)
    theirs = randomize(request.param(weights=None, weights_backbone=None))
    model, conversion = converted(theirs.state_dict(), "BaselineRetinaNet", *RETINANET)
    return theirs, model, conversion


def by_size(theirs):
    """Anchors of a location (..., 9, X) that stand ratio by ratio, size by size."""
    order = [ratio * 3 + size for size in range(3) for ratio in range(3)]
    return theirs.unflatten(1, (-1, 9))[:, :, order].flatten(1, 2)


@torch.no_grad()
def test_retinanets_logits_and_deltas_are_torchvisions(retinanets):
    theirs, model, conversion = retinanets
    has_norm = "head.classification_head.conv.0.1.weight" in theirs.state_dict()
    assert conversion.name_map.structure["MODEL.RETINANET.NORM"] == ("GN" if has_norm else "")
    assert conversion.name_map.structure["MODEL.FPN.TOP_BLOCK_IN_FEATURE"] == (
        "res5" if has_norm else "p5"
    )
    expected = theirs.head(list(theirs.backbone(PIXELS).values()))
    features = [model.backbone(PIXELS)[name] for name in model.head_in_features]
    logits, deltas = model.head(features)
    logits, deltas = flatten_levels(logits, 80), flatten_levels(deltas, 4)
    close(deltas, by_size(expected["bbox_regression"]))
    expected_logits = by_size(expected["cls_logits"])
    assert logits.shape == (*expected_logits.shape[:2], 80)
    for ours, label in SOME_CLASSES:
        close(logits[..., ours], expected_logits[..., label])


def test_retinanets_anchors_are_torchvisions_but_for_its_rounding(retinanets):
    theirs, model, _ = retinanets
    sides = (16, 8, 4, 2, 1)
    maps = [torch.zeros(1, 1, side, side) for side in sides]
    images = ImageList(torch.zeros(1, 3, SIZE, SIZE), [(SIZE, SIZE)])
    expected = by_size(theirs.anchor_generator(images, maps)[0][None])[0]
    actual = torch.cat([level.tensor for level in model.anchor_generator(maps)])
    assert (actual - expected).abs().max() <= 0.5


def test_names_before_torchvision_0_13_mean_the_same(retinanets):
    theirs, model, conversion = retinanets
    if conversion.name_map.structure["MODEL.RETINANET.NORM"] == "GN":
        pytest.skip("there was no second version then")
    old = {}
    for name, value in theirs.state_dict().items():
        for block in ("inner_blocks", "layer_blocks"):
            name = name.replace(f"{block}.0.0", f"{block}.0").replace(f"{block}.1.0", f"{block}.1")
            name = name.replace(f"{block}.2.0", f"{block}.2")
        for index in (3, 2, 1, 0):
            name = name.replace(f"_head.conv.{index}.0.", f"_head.conv.{2 * index}.")
        if not name.endswith("num_batches_tracked"):
            old[name] = value
    again = convert(old, model)
    assert again.problem == ""
    for name, value in again.weights.items():
        assert torch.equal(value, conversion.weights[name])


def test_the_published_retinanet_has_no_epsilon_in_its_normalisations(retinanets, monkeypatch):
    theirs, model, conversion = retinanets
    digest = hashlib.sha256(b"weights").hexdigest()
    monkeypatch.setattr(torchvision_dense, "_WITHOUT_EPSILON", digest[:8])
    state = theirs.state_dict() | {"backbone.body.bn1.running_var": torch.full((64,), 1e-6)}
    name = "backbone.bottom_up.stem.conv1.norm"
    plain = convert(state, model, sha256="0" + digest).weights
    absorbed = convert(state, model, sha256=digest).weights
    assert torch.equal(plain[f"{name}.weight"], state["backbone.body.bn1.weight"])
    scale = absorbed[f"{name}.weight"] / (absorbed[f"{name}.running_var"] + 1e-5).sqrt()
    torch.testing.assert_close(scale, state["backbone.body.bn1.weight"] / 1e-6**0.5)
    # The file whose name has these digits is the one that torchvision evaluates so.
    monkeypatch.undo()
    assert torchvision_dense._WITHOUT_EPSILON == "eeacb38b"


def test_a_retinanet_of_other_classes_leaves_the_classifier_and_says_so(retinanets):
    theirs, _, _ = retinanets
    state = theirs.state_dict()
    _, conversion = converted(state, "BaselineRetinaNet", *RETINANET, "MODEL.NUM_CLASSES", 3)
    assert set(conversion.unfilled) == {"head.classifier.weight", "head.classifier.bias"}
    assert "91 outputs, which are not the model's 3 classes" in conversion.name_map.notes[0]
    # With 90 classes all but the background are kept.
    _, conversion = converted(state, "BaselineRetinaNet", *RETINANET, "MODEL.NUM_CLASSES", 90)
    assert "head.classifier.weight" in conversion.weights


def test_a_retinanet_for_another_model_or_of_other_anchors_is_refused(retinanets):
    theirs, model, _ = retinanets
    with pytest.raises(UserError, match="MODEL.META_ARCHITECTURE BaselineRetinaNet; .* FCOS"):
        convert(theirs.state_dict(), build("FCOS", "MODEL.NUM_CLASSES", 80))
    state = theirs.state_dict()
    state["head.regression_head.bbox_reg.bias"] = torch.zeros(4 * 15)
    with pytest.raises(UserError, match="with 15 anchors at a location"):
        convert(state, model)


@pytest.fixture(scope="module")
def fcos():
    torch.manual_seed(0)
    theirs = randomize(fcos_resnet50_fpn(weights=None, weights_backbone=None))
    model, conversion = converted(theirs.state_dict(), "FCOS", "MODEL.NUM_CLASSES", 80)
    return theirs, model, conversion


@torch.no_grad()
def test_fcos_logits_boxes_and_centerness_are_torchvisions(fcos):
    theirs, model, conversion = fcos
    assert conversion.unfilled == []
    maps = list(theirs.backbone(PIXELS).values())
    expected = theirs.head(maps)
    features = [model.backbone(PIXELS)[name] for name in model.head_in_features]
    predictions = model.head(features)
    logits = flatten_levels(predictions.class_logits, 80)
    for ours, label in SOME_CLASSES:
        close(logits[..., ours], expected["cls_logits"][..., label])
    close(flatten_levels(predictions.centerness_logits, 1), expected["bbox_ctrness"])
    images = ImageList(PIXELS, [(SIZE, SIZE)])
    anchors = theirs.anchor_generator(images, maps)[0]
    boxes = theirs.box_coder.decode(expected["bbox_regression"][0], anchors)
    assert (expected["bbox_regression"] > 0).float().mean() > 0.2
    close(decoded(model, features, predictions)[0], boxes)


def decoded(model, features, predictions):
    """Boxes (N, P, 4) of all locations."""
    images = []
    for index in range(len(features[0])):
        levels = zip(
            model.grid_locations(features), model.box_code.units, predictions.box_outputs,
            strict=True,
        )  # fmt: skip
        images.append(torch.cat([
            model.box_code.decode(
                flatten_levels([outputs], 4)[index], points, points.new_full((len(points),), unit)
            )
            for points, unit, outputs in levels
        ]))  # fmt: skip
    return torch.stack(images)


def test_fcos_without_biases_or_with_dsla_is_another_model(fcos):
    theirs, _, _ = fcos
    classes = ("MODEL.NUM_CLASSES", 80)
    problem = convert(theirs.state_dict(), build("FCOS", *classes)).problem
    assert "the model has no tensor 'head.class_tower.0.bias'" in problem
    dsla = build("FCOS", *classes, "MODEL.FCOS.CONV_BIAS", True, "MODEL.DSLA.ENABLED", True)
    assert "the model has no tensor 'head.centerness.weight'" in (
        convert(theirs.state_dict(), dsla).problem
    )


def test_the_tool_names_what_fcos_needs_and_writes_it_when_it_gets_it(fcos, tmp_path, capsys):
    theirs, _, _ = fcos
    source, target = str(tmp_path / "theirs.pth"), str(tmp_path / "ours.pth")
    torch.save(theirs.state_dict(), source)
    config = TOOL.parent.parent / "configs" / "COCO-Detection" / "fcos_R_50_FPN_1x.yaml"
    tool = load_tool()
    arguments = [source, target, "--config-file", str(config)]
    assert tool.run(arguments) == 2
    assert "such weights need MODEL.FCOS.CONV_BIAS True" in capsys.readouterr().err
    assert tool.run([*arguments, "--opts", "MODEL.FCOS.CONV_BIAS", "True"]) == 0
    report = capsys.readouterr().out
    assert "* MODEL.FCOS.BOX_UNIT stride" in report and "missing     0\n" in report
    assert "head.classifier.weight [91, 256, 3, 3] -> [80, 256, 3, 3]" in report


def flat(maps):
    return torch.cat([level.flatten() for level in maps])


SMALL = (
    *("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
    *("MODEL.FPN.OUT_CHANNELS", 64, "MODEL.NUM_CLASSES", 3),
)
# Parts of configs as mmdetection's files hold them.
FCOS_TEXT = """model = dict(
    backbone=dict(type='ResNet', depth=18, style='pytorch'),
    neck=dict(type='FPN', add_extra_convs='on_output', relu_before_extra_convs=True),
    bbox_head=dict(type='FCOSHead', norm_on_bbox=True, centerness_on_reg=True, conv_bias=True))
img_norm_cfg = dict(
    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
"""
CAFFE_TEXT = """model = dict(
    backbone=dict(type='ResNet', style='caffe'), neck=dict(relu_before_extra_convs=True),
    data_preprocessor=dict(
        mean=[
            102.9801,
            115.9465,
            122.7717,
        ], std=[1.0, 1.0, 1.0], bgr_to_rgb=False))
"""
FOVEA_TEXT = """model = dict(
    backbone=dict(style='pytorch'), neck=dict(type='FPN', add_extra_convs='on_input'))
"""
KINDS = {
    "FCOSv2": ("FCOS", FCOS_TEXT, {"bias": True}),
    "FCOS": ("FCOS", FCOS_TEXT.replace("=True, centerness_on_reg=True, conv_bias", "=False, bias"),
             {"prefix": "fcos"}),
    "DSLA": ("FCOS", CAFFE_TEXT.replace("'caffe'", "'pytorch'"), {"centerness": False}),
    "FoveaBox": ("FoveaBox", FOVEA_TEXT,
                 {"norm": False, "scales": False, "centerness": False, "p6_channels": 512}),
    "FoveaBox of version 1": ("FoveaBox", FOVEA_TEXT, {
        "prefix": "fovea", "scales": False, "centerness": False, "p6_channels": 512}),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_mmdetections_logits_boxes_and_centerness_are_the_same_here(kind):
    architecture, text, parts = KINDS[kind]
    state = mmdetection.random_state(**parts)
    content = {"meta": {"config": text, "CLASSES": ("a", "b", "c")}, "state_dict": state}
    model, conversion = converted(content, architecture, *SMALL)
    assert conversion.unfilled == []
    on_p5, prefix = parts.get("p6_channels") is None, parts.get("prefix", "conv")
    keys = conversion.name_map.structure | conversion.name_map.settings
    assert keys["MODEL.FPN.TOP_BLOCK_IN_FEATURE"] == ("p5" if on_p5 else "res5")
    assert keys["MODEL.FPN.TOP_BLOCK_RELU"] == on_p5
    is_fovea, is_dsla = architecture == "FoveaBox", kind == "DSLA"
    section = "FOVEABOX" if is_fovea else "FCOS"
    assert keys[f"MODEL.{section}.POINT_OFFSET"] == (0.0 if is_dsla else 0.5)
    maps = mmdetection.pyramid(state, PIXELS, relu_before_extra_convs=on_p5)
    expected = mmdetection.outputs(
        state, maps, prefix=prefix, centerness_on_reg=kind == "FCOSv2"
    )  # fmt: skip
    features = [model.backbone(PIXELS)[name] for name in model.head_in_features]
    predictions = model.head(features)
    logits, outputs, centerness = zip(*expected, strict=True)
    close(flat(features), flat(maps))
    close(flat(predictions.class_logits), flat(logits))
    close(flat(predictions.box_outputs), flat(outputs))
    if predictions.centerness_logits or parts.get("centerness", True):
        close(flat(predictions.centerness_logits), flat(centerness))
    units = {"FCOSv2": mmdetection.STRIDES, "FCOS": (1,) * 5, "DSLA": (1,) * 5}
    boxes = mmdetection.boxes(
        outputs,
        units=units.get(kind, (16, 32, 64, 128, 256)),
        offset=0.0 if is_dsla else 0.5,
        relu=kind == "FCOSv2",
    )
    close(decoded(model, features, predictions), torch.cat(boxes, dim=1))


def test_the_pixels_of_an_mmdetection_file_are_those_of_its_config():
    state = mmdetection.random_state()
    model = build("FCOS", *SMALL)
    content = {"meta": {"cfg": CAFFE_TEXT}, "state_dict": state}
    settings = convert(content, model).name_map.settings
    assert settings["INPUT.FORMAT"] == "BGR"
    assert settings["MODEL.PIXEL_MEAN"] == [102.9801, 115.9465, 122.7717]
    assert settings["MODEL.PIXEL_STD"] == [1.0, 1.0, 1.0]
    assert settings["MODEL.RESNETS.STRIDE_IN_1X1"]
    assert settings["MODEL.FCOS.BOX_ACTIVATION"] == "exp"
    # Without its config the file does not tell, and the report says what to look up.
    bare = convert({"state_dict": state}, model).name_map
    assert "MODEL.PIXEL_MEAN" not in bare.settings
    assert "CENTERNESS_TOWER box (centerness_on_reg)" in bare.notes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox_head.cls_convs.3.conv.conv_offset.weight": torch.zeros(1)}, "conv_offset.weight'"),
        ({"neck.fpn_convs.4.conv.bias": None}, "the file has no tensor 'neck.fpn_convs.4.conv.bia"),
        ({"bbox_head.scales.4.scale": None}, "the file has no tensor 'bbox_head.scales.4.scale'"),
        ({"bbox_head.scales.4.scale": torch.zeros(2)}, "of another shape is head.scales"),
        ({"bbox_head.conv_reg.weight": torch.zeros(8, 64, 3, 3)}, "in the model [4, 64, 3, 3]"),
    ],
)
def test_parts_that_no_model_here_has_are_named(change, message):
    state = mmdetection.random_state() | change
    state = {name: value for name, value in state.items() if value is not None}
    assert message in convert(state, build("FCOS", *SMALL)).problem


def test_a_p6_from_a_lateral_map_is_refused_and_other_classes_are_left_out():
    state, model = mmdetection.random_state(num_classes=5), build("FCOS", *SMALL)
    text = FCOS_TEXT.replace("on_output", "on_lateral")
    with pytest.raises(UserError, match="P6 comes from a lateral map"):
        convert({"meta": {"config": text}, "state_dict": state}, model)
    conversion = convert(state, model)
    assert conversion.problem == ""
    assert set(conversion.unfilled) == {"head.classifier.weight", "head.classifier.bias"}
    assert "5 outputs, which are not the model's 3 classes" in conversion.name_map.notes[0]
