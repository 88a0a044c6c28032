"""Weights of torchvision's VGG-16 and SSD300 under the names of anchorkit's SSD."""

from collections.abc import Mapping, Sequence

import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from torch import Tensor

from .errors import UserError

# Where torchvision's VGG-16 has the convolutions of its five stages.
_STAGE_CONVS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
_NUM_EXTRAS = 4
# Classifiers of its SSD300 on COCO have the background and all 90 category ids.
_COCO_OUTPUTS = 91
# torchvision's VGG-16 sees pixels less this mean, divided by this deviation; from SSD's pixels only
# a mean is subtracted, that of the configs.
_IMAGENET_MEAN, _IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
SSD_PIXEL_MEAN = (123.0, 117.0, 104.0)


def convert_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a state dict of torchvision's ``ssd300_vgg16`` or ``vgg16``, told by its names.

    Raises:
        UserError: the state dict is of another model.
    """
    if "backbone.scale_weight" in state:
        return convert_ssd300(state)
    if "features.28.weight" in state:
        return convert_vgg16(state)
    raise UserError(
        "expected a state dict of torchvision's ssd300_vgg16 or vgg16 (without normalisation), got "
        f"tensors such as {', '.join(list(state)[:3])}"
    )


def convert_ssd300(
    state: Mapping[str, Tensor], kept_outputs: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """Rename ``ssd300_vgg16``'s tensors, and put the background behind the classes.

    Args:
        state: its state dict.
        kept_outputs: outputs of the classifier that become the classes 0, 1, 2 ...; output 0 is
            the background. By default COCO's 80 categories if there are 91 outputs, else all.

    Returns:
        A state dict of :class:`anchorkit.modeling.meta_arch.SSD`.

    Raises:
        UserError: a tensor is missing.
    """
    places = {f"backbone.features.{index}": _stage_conv(index) for index in _indices(range(4))}
    # The pool after stage 4 stands first in what torchvision calls its first extra layer.
    places |= {f"backbone.extra.0.{index - 23}": _stage_conv(index) for index in _indices((4,))}
    places |= {"backbone.extra.0.7.1": "backbone.conv6", "backbone.extra.0.7.3": "backbone.conv7"}
    for extra in range(_NUM_EXTRAS):
        for half in (0, 1):
            places[f"backbone.extra.{extra + 1}.{2 * half}"] = (
                f"backbone.extras.{extra}.conv{8 + extra}_{half + 1}"
            )
    for level in range(_NUM_EXTRAS + 2):
        places[f"head.regression_head.module_list.{level}"] = f"head.box_regressors.{level}"
    converted = {"backbone.l2_norm.scale": state["backbone.scale_weight"]}
    for old, new in places.items():
        for part in ("weight", "bias"):
            converted[f"{new}.{part}"] = _tensor(state, f"{old}.{part}")
    for level, num_anchors in enumerate((4, 6, 6, 6, 4, 4)):
        for part in ("weight", "bias"):
            old = f"head.classification_head.module_list.{level}.{part}"
            converted[f"head.classifiers.{level}.{part}"] = _reorder_classes(
                _tensor(state, old), num_anchors, kept_outputs
            )
    return converted


def convert_vgg16(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make SSD's body of ``vgg16``: conv6 and conv7 are every fourth channel of fc6 and fc7.

    conv6 keeps every third row and column of fc6's 7 x 7 kernel, as the paper does with its
    dilation of 6. The first convolution is changed to take pixels less :data:`SSD_PIXEL_MEAN`,
    with ``MODEL.PIXEL_STD`` 1; only where the image is padded it sees zeros that stood for another
    grey level, by less than 1. torchvision's file without a classifier (there the weights are not
    a number) takes such pixels already, and gives no conv6 and conv7.

    Returns:
        The part of a state dict of :class:`anchorkit.modeling.meta_arch.SSD`, or of its
        semi-anchored version, that the body fills.

    Raises:
        UserError: a tensor is missing.
    """
    converted = {}
    for index in _indices(range(5)):
        for part in ("weight", "bias"):
            converted[f"{_stage_conv(index)}.{part}"] = _tensor(state, f"features.{index}.{part}")
    fc6, fc7 = _tensor(state, "classifier.0.weight"), _tensor(state, "classifier.3.weight")
    if fc6.isnan().all():
        return converted
    first = "backbone.stages.0.conv1_1"
    kernel = converted[f"{first}.weight"] / torch.tensor(_IMAGENET_STD)[:, None, None]
    shift = torch.tensor(SSD_PIXEL_MEAN) - torch.tensor(_IMAGENET_MEAN)
    converted[f"{first}.weight"] = kernel
    converted[f"{first}.bias"] = converted[f"{first}.bias"] + kernel.sum(dim=(2, 3)) @ shift
    channels = len(fc6) // 4
    kernels = fc6.view(len(fc6), -1, 7, 7)[::4, :, ::3, ::3]
    return converted | {
        "backbone.conv6.weight": kernels.contiguous(),
        "backbone.conv6.bias": _tensor(state, "classifier.0.bias")[::4].contiguous(),
        "backbone.conv7.weight": fc7[::4, ::4].reshape(channels, channels, 1, 1),
        "backbone.conv7.bias": _tensor(state, "classifier.3.bias")[::4].contiguous(),
    }


def _indices(stages: Sequence[int]) -> list[int]:
    return [index for stage in stages for index in _STAGE_CONVS[stage]]


def _stage_conv(index: int) -> str:
    """Our name of the convolution at this place of torchvision's VGG-16."""
    stage = next(number for number, convs in enumerate(_STAGE_CONVS) if index in convs)
    return f"backbone.stages.{stage}.conv{stage + 1}_{_STAGE_CONVS[stage].index(index) + 1}"


def _tensor(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise UserError(f"the state dict has no tensor {name}; it is not a whole model's")
    return state[name]


def _reorder_classes(
    outputs: Tensor, num_anchors: int, kept_outputs: Sequence[int] | None
) -> Tensor:
    """Rows of a classifier, anchor by anchor: the classes, then the background."""
    by_anchor = outputs.unflatten(0, (num_anchors, -1))
    if kept_outputs is None:
        kept_outputs = range(1, by_anchor.shape[1])
        if by_anchor.shape[1] == _COCO_OUTPUTS:
            kept_outputs = sorted(c["id"] for c in COCO_CATEGORIES if c["isthing"])
    return by_anchor[:, [*kept_outputs, 0]].flatten(0, 1)
