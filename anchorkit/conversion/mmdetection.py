"""mmdetection's FCOS and FoveaBox, and DSLA's files, which its authors' copy of it wrote."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..modeling.meta_arch import FCOS, FoveaBox
from .class_outputs import note_of_other_classes
from .name_map import Checkpoint, Entry, NameMap, require_model
from .resnet import take_resnet

_NUM_LEVELS = 5
# What the names of the last convolutions begin with: in versions 2 and 3, and before.
_PREFIXES = ("conv", "fcos", "fovea")


def mmdetection_map(checkpoint: Checkpoint, model: nn.Module | None) -> NameMap:
    """Of a ResNet, an FPN with P6 and P7, and the head of FCOS, DSLA or FoveaBox.

    What the tensors do not tell, such as the unit of the distances, is read from the config in the
    file.
    """
    tensors, text = checkpoint.tensors, checkpoint.config_text
    prefix = _predictor_prefix(tensors)
    kind = _kind(tensors, prefix)
    name_map = NameMap(f"mmdetection's {kind}")
    require_model(name_map.source, model, FoveaBox if kind == "FoveaBox" else FCOS)
    take_resnet(name_map, checkpoint, "backbone.", "backbone.bottom_up.")
    name_map.unused |= {"backbone.fc.weight", "backbone.fc.bias"}
    _take_neck(name_map, checkpoint)
    _take_towers(name_map, tensors, kind)
    _take_predictors(name_map, tensors, prefix, kind, model)
    name_map.settings |= _offset(kind) | (_settings(text, kind) if text else {})
    if not text:
        name_map.notes.append(_unknown(kind))
    return name_map


def _predictor_prefix(tensors: Mapping[str, Tensor]) -> str:
    for prefix in _PREFIXES:
        if f"bbox_head.{prefix}_cls.weight" in tensors:
            return prefix
    heads = ", ".join(name for name in tensors if re.fullmatch(r"bbox_head\.\w+\.weight", name))
    raise UserError(
        "of mmdetection's dense detectors only FCOS, DSLA and FoveaBox are converted; this one's "
        f"head ends with {heads or 'no convolution'}"
    )


def _kind(tensors: Mapping[str, Tensor], prefix: str) -> str:
    """Which detector a file is of, by the parts that its head has."""
    if f"bbox_head.{prefix}_centerness.weight" in tensors:
        return "FCOS"
    return "DSLA" if "bbox_head.scales.0.scale" in tensors else "FoveaBox"


def _take_neck(name_map: NameMap, checkpoint: Checkpoint) -> None:
    if _value(checkpoint.config_text, "add_extra_convs") == "on_lateral":
        raise UserError(
            f"{name_map.source}: its P6 comes from a lateral map (add_extra_convs='on_lateral'), "
            "which no model here has"
        )
    for index in range(3):
        name_map.take(f"neck.lateral_convs.{index}.conv", f"backbone.fpn_lateral{index + 3}")
        name_map.take(f"neck.fpn_convs.{index}.conv", f"backbone.fpn_output{index + 3}")
    for index, level in ((3, "p6"), (4, "p7")):
        name_map.take(f"neck.fpn_convs.{index}.conv", f"backbone.top_block.{level}")
    p6 = checkpoint.tensors.get("neck.fpn_convs.3.conv.weight")
    is_square = p6 is not None and p6.shape[0] == p6.shape[1]
    name_map.structure["MODEL.FPN.TOP_BLOCK_IN_FEATURE"] = "p5" if is_square else "res5"


def _take_towers(name_map: NameMap, tensors: Mapping[str, Tensor], kind: str) -> None:
    has_norm = "bbox_head.cls_convs.0.gn.weight" in tensors
    has_bias = "bbox_head.cls_convs.0.conv.bias" in tensors
    num_convs = 0
    while f"bbox_head.cls_convs.{num_convs}.conv.weight" in tensors:
        num_convs += 1
    step = 3 if has_norm else 2
    for theirs, ours in (("cls_convs", "class_tower"), ("reg_convs", "box_tower")):
        for index in range(num_convs):
            old, new = f"bbox_head.{theirs}.{index}", f"head.{ours}.{step * index}"
            name_map.take(f"{old}.conv", new, ("weight", "bias") if has_bias else ("weight",))
            if has_norm:
                name_map.take(f"{old}.gn", f"head.{ours}.{step * index + 1}")
    section = "FOVEABOX" if kind == "FoveaBox" else "FCOS"
    name_map.structure |= {
        f"MODEL.{section}.NUM_CONVS": num_convs,
        f"MODEL.{section}.NORM": "GN" if has_norm else "",
    }
    if kind != "FoveaBox":
        name_map.structure["MODEL.FCOS.CONV_BIAS"] = has_bias and has_norm


def _take_predictors(
    name_map: NameMap, tensors: Mapping[str, Tensor], prefix: str, kind: str, model: nn.Module
) -> None:
    classifier = f"bbox_head.{prefix}_cls", "head.classifier"
    num_outputs = len(tensors[f"{classifier[0]}.weight"])
    if num_outputs == model.num_classes:
        name_map.take(*classifier)
    else:
        name_map.leave(*classifier)
        name_map.notes.append(note_of_other_classes(num_outputs, model.num_classes, classifier[1]))
    name_map.take(f"bbox_head.{prefix}_reg", "head.box_regressor")
    if kind == "FoveaBox":
        return
    scales = tuple(f"bbox_head.scales.{level}.scale" for level in range(_NUM_LEVELS))
    name_map.entries["head.scales"] = Entry(scales, _stack)
    name_map.structure["MODEL.DSLA.ENABLED"] = kind == "DSLA"
    if kind == "FCOS":
        name_map.take(f"bbox_head.{prefix}_centerness", "head.centerness")


def _stack(*scales: Tensor) -> Tensor:
    return torch.stack([scale.reshape(()) for scale in scales])


def _offset(kind: str) -> dict[str, object]:
    """DSLA's locations are at x stride, the others' at (x + 0.5) stride."""
    section = "FOVEABOX" if kind == "FoveaBox" else "FCOS"
    return {f"MODEL.{section}.POINT_OFFSET": 0.0 if kind == "DSLA" else 0.5}


def _settings(text: str, kind: str) -> dict[str, object]:
    """What the config in the file says, or mmdetection's defaults for what it does not."""
    settings: dict[str, object] = {
        "MODEL.RESNETS.STRIDE_IN_1X1": _value(text, "style") == "caffe",
        "MODEL.FPN.TOP_BLOCK_RELU": _is_true(text, "relu_before_extra_convs"),
    }
    mean, std = (re.search(rf"\b{name}=[\[(]([^\])]*)", text) for name in ("mean", "std"))
    if mean and std:
        settings["INPUT.FORMAT"] = "RGB" if _is_true(text, "(?:bgr_)?to_rgb") else "BGR"
        for key, match in (("MODEL.PIXEL_MEAN", mean), ("MODEL.PIXEL_STD", std)):
            settings[key] = [float(number) for number in match[1].split(",") if number.strip()]
    if kind != "FoveaBox":
        in_strides = _is_true(text, "norm_on_bbox")
        settings["MODEL.FCOS.BOX_ACTIVATION"] = "relu" if in_strides else "exp"
        settings["MODEL.FCOS.BOX_UNIT"] = "stride" if in_strides else "pixel"
    if kind == "FCOS":
        on_box_tower = _is_true(text, "centerness_on_reg")
        settings["MODEL.FCOS.CENTERNESS_TOWER"] = "box" if on_box_tower else "class"
    return settings


def _unknown(kind: str) -> str:
    keys = [
        "INPUT.FORMAT, MODEL.PIXEL_MEAN and PIXEL_STD (img_norm_cfg)",
        "MODEL.RESNETS.STRIDE_IN_1X1 (style='caffe')",
        "MODEL.FPN.TOP_BLOCK_RELU (relu_before_extra_convs)",
    ]
    if kind != "FoveaBox":
        keys.append("MODEL.FCOS.BOX_ACTIVATION relu and BOX_UNIT stride (norm_on_bbox)")
    if kind == "FCOS":
        keys.append("MODEL.FCOS.CENTERNESS_TOWER box (centerness_on_reg)")
    return f"the file holds no config of mmdetection; set what its config says: {', '.join(keys)}"


def _value(text: str, name: str) -> str:
    """What a config's text assigns first to an argument, without quotes; "" if nothing."""
    match = re.search(rf"\b{name}=([^,)\s]+)", text)
    return match[1].strip("'\"") if match else ""


def _is_true(text: str, name: str) -> bool:
    return _value(text, name) == "True"
