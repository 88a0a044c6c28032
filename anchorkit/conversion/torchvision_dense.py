"""torchvision's RetinaNet and FCOS, for BaselineRetinaNet and FCOS."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights

from ..errors import UserError
from ..modeling.meta_arch import FCOS, BaselineRetinaNet
from .class_outputs import keep_rows, kept_outputs, note_of_other_classes
from .name_map import Checkpoint, Entry, NameMap, require_model
from .resnet import RGB_SETTINGS, take_resnet

# Anchors of a location: each of the aspect ratios with each of the sizes.
_NUM_RATIOS = _NUM_SIZES = 3
_NUM_ANCHORS = _NUM_RATIOS * _NUM_SIZES
_SIZES = [[float(int(size * 2 ** (k / 3))) for k in range(3)] for size in (32, 64, 128, 256, 512)]
# The file that torchvision evaluates without the epsilon of its normalisations; its name ends with
# the first digits of its sha256.
_WITHOUT_EPSILON = RetinaNet_ResNet50_FPN_Weights.COCO_V1.url.rsplit("-")[-1].removesuffix(".pth")
_EPSILON = 1e-5


def retinanet_map(checkpoint: Checkpoint, model: nn.Module | None) -> NameMap:
    """Of ``retinanet_resnet50_fpn`` and of its second version, which has GN.

    Anchors of a location stand there ratio by ratio, and here size by size.
    """
    name_map = NameMap("torchvision's RetinaNet")
    require_model(name_map.source, model, BaselineRetinaNet)
    tensors = checkpoint.tensors
    _take_body_and_neck(name_map, checkpoint)
    if checkpoint.sha256.startswith(_WITHOUT_EPSILON):
        _absorb_epsilon(name_map)
    has_norm = "head.classification_head.conv.0.1.weight" in tensors
    # Before torchvision 0.13 convolutions and activations took turns.
    is_flat = "head.classification_head.conv.0.weight" in tensors
    for theirs, ours in (("classification", "class"), ("regression", "box")):
        for index in range(4):
            place = f"head.{theirs}_head.conv.{2 * index if is_flat else f'{index}.0'}"
            step = 3 if has_norm else 2
            parts = ("weight",) if has_norm else ("weight", "bias")
            name_map.take(place, f"head.{ours}_tower.{step * index}", parts)
            if has_norm:
                norm = place.removesuffix("0") + "1"
                name_map.take(norm, f"head.{ours}_tower.{step * index + 1}")
    regressor = "head.regression_head.bbox_reg"
    num_anchors = len(tensors.get(f"{regressor}.bias", range(4 * _NUM_ANCHORS))) // 4
    if num_anchors != _NUM_ANCHORS:
        raise UserError(
            f"{name_map.source} with {num_anchors} anchors at a location cannot be converted: only "
            f"the order of the usual {_NUM_ANCHORS} is known"
        )
    _take_classifier(name_map, tensors, model, num_anchors, _ratios_then_sizes)
    name_map.make(
        regressor, "head.box_regressor",
        partial(_ratios_then_sizes, num_anchors=num_anchors, kept=range(4)),
    )  # fmt: skip
    name_map.structure |= {
        "MODEL.RETINANET.NUM_CONVS": 4,
        "MODEL.RETINANET.NORM": "GN" if has_norm else "",
    }
    name_map.settings |= {
        "MODEL.ANCHOR_GENERATOR.SIZES": _SIZES,
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
        "MODEL.ANCHOR_GENERATOR.OFFSET": 0.0,
    }
    name_map.notes.append(
        "torchvision rounds its anchors to whole pixels: boxes differ by up to a pixel"
    )
    return name_map


def fcos_map(checkpoint: Checkpoint, model: nn.Module | None) -> NameMap:
    """Of ``fcos_resnet50_fpn``: ReLU distances in strides, without scales of the levels."""
    name_map = NameMap("torchvision's FCOS")
    require_model(name_map.source, model, FCOS)
    _take_body_and_neck(name_map, checkpoint)
    for theirs, ours in (("classification", "class"), ("regression", "box")):
        for index in range(4):
            for part in (3 * index, 3 * index + 1):
                name_map.take(f"head.{theirs}_head.conv.{part}", f"head.{ours}_tower.{part}")
    _take_classifier(name_map, checkpoint.tensors, model, 1, keep_rows)
    name_map.take("head.regression_head.bbox_reg", "head.box_regressor")
    name_map.take("head.regression_head.bbox_ctrness", "head.centerness")
    name_map.entries["head.scales"] = Entry((), partial(torch.ones, 5))
    name_map.structure |= {
        "MODEL.FCOS.NUM_CONVS": 4,
        "MODEL.FCOS.NORM": "GN",
        "MODEL.FCOS.CONV_BIAS": True,
        "MODEL.DSLA.ENABLED": False,
    }
    name_map.settings |= {
        "MODEL.FCOS.BOX_ACTIVATION": "relu",
        "MODEL.FCOS.BOX_UNIT": "stride",
        "MODEL.FCOS.CENTERNESS_TOWER": "box",
        "MODEL.FCOS.POINT_OFFSET": 0.0,
    }
    name_map.notes += [
        "torchvision's score is the square root of the product that is the score here, and must "
        "exceed 0.2; the order of detections is the same",
        "torchvision's locations at P6 and P7 are image_size // map_size apart, which is their "
        "stride only if the sides of the image are multiples of 128",
    ]
    return name_map


def _take_body_and_neck(name_map: NameMap, checkpoint: Checkpoint) -> None:
    tensors = checkpoint.tensors
    take_resnet(name_map, checkpoint, "backbone.body.", "backbone.bottom_up.")
    # Before torchvision 0.13 a block of the neck was the convolution itself.
    inner = "" if "backbone.fpn.inner_blocks.0.weight" in tensors else ".0"
    for index in range(3):
        for theirs, ours in (("inner_blocks", "fpn_lateral"), ("layer_blocks", "fpn_output")):
            name_map.take(f"backbone.fpn.{theirs}.{index}{inner}", f"backbone.{ours}{index + 3}")
    for level in ("p6", "p7"):
        name_map.take(f"backbone.fpn.extra_blocks.{level}", f"backbone.top_block.{level}")
    p6 = tensors.get("backbone.fpn.extra_blocks.p6.weight")
    is_square = p6 is not None and p6.shape[0] == p6.shape[1]
    name_map.structure |= {
        "MODEL.FPN.TOP_BLOCK_IN_FEATURE": "p5" if is_square else "res5",
    }
    name_map.settings |= RGB_SETTINGS | {
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.FPN.TOP_BLOCK_RELU": True,
    }


def _take_classifier(
    name_map: NameMap,
    tensors: Mapping[str, Tensor],
    model: nn.Module,
    num_anchors: int,
    function: Callable[..., Tensor],
) -> None:
    """Map the classifier, by ``function(outputs, num_anchors, kept)`` if its classes fit."""
    names = "head.classification_head.cls_logits", "head.classifier"
    bias = tensors.get(f"{names[0]}.bias")
    num_outputs = 1 if bias is None else len(bias) // num_anchors
    kept = kept_outputs(num_outputs, model.num_classes)
    if kept is None:
        name_map.leave(*names)
        name_map.notes.append(note_of_other_classes(num_outputs, model.num_classes, names[1]))
    else:
        name_map.make(*names, partial(function, num_anchors=num_anchors, kept=kept))


def _ratios_then_sizes(outputs: Tensor, num_anchors: int, kept: Sequence[int]) -> Tensor:
    """As :func:`keep_rows`, and anchors that stood ratio by ratio then stand size by size."""
    by_ratio = keep_rows(outputs, num_anchors, kept).unflatten(0, (_NUM_RATIOS, _NUM_SIZES, -1))
    return by_ratio.transpose(0, 1).flatten(0, 2)


def _absorb_epsilon(name_map: NameMap) -> None:
    """Let w / sqrt(v + epsilon) be the file's w / sqrt(v)."""
    for name, entry in list(name_map.entries.items()):
        if name.endswith(".norm.weight"):
            (source,) = entry.sources
            variance = source.removesuffix("weight") + "running_var"
            name_map.entries[name] = Entry((source, variance), _weight_with_epsilon)
    name_map.notes.append(
        "torchvision evaluates this file without the epsilon of its normalisations: it is absorbed "
        "by their weights"
    )


def _weight_with_epsilon(weight: Tensor, variance: Tensor) -> Tensor:
    return weight * ((variance + _EPSILON) / variance).sqrt()
