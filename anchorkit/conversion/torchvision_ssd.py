"""torchvision's VGG-16 and SSD300, for anchorkit's SSD and its semi-anchored version."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..modeling.meta_arch import SSD
from .class_outputs import keep_rows, kept_outputs, note_of_other_classes
from .name_map import Checkpoint, Entry, NameMap, apply, require_model
from .resnet import IMAGENET_MEAN, IMAGENET_STD

# Where torchvision's VGG-16 has the convolutions of its five stages.
_STAGE_CONVS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
_NUM_EXTRAS = 4
_NUM_ANCHORS = (4, 6, 6, 6, 4, 4)
# torchvision's VGG-16 divides pixels by a deviation; from SSD's pixels only a mean is subtracted,
# that of the configs.
SSD_PIXEL_MEAN = (123.0, 117.0, 104.0)
_SSD_SETTINGS = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": list(SSD_PIXEL_MEAN),
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
}


def ssd300_map(
    checkpoint: Checkpoint, model: nn.Module | None, kept: Sequence[int] | None = None
) -> NameMap:
    """Of ``ssd300_vgg16``; its background moves behind the classes.

    Args:
        model: None takes COCO's 80 categories if there are 91 outputs, else all classes.
        kept: outputs of the classifier that become the classes 0, 1, 2 ..., whatever the model is.
    """
    name_map = NameMap("torchvision's SSD300")
    if model is not None:
        require_model(name_map.source, model, SSD)
    name_map.entries["backbone.l2_norm.scale"] = Entry(("backbone.scale_weight",))
    for index in _indices(range(4)):
        name_map.take(f"backbone.features.{index}", _stage_conv(index))
    # The pool after stage 4 stands first in what torchvision calls its first extra layer.
    for index in _indices((4,)):
        name_map.take(f"backbone.extra.0.{index - 23}", _stage_conv(index))
    name_map.take("backbone.extra.0.7.1", "backbone.conv6")
    name_map.take("backbone.extra.0.7.3", "backbone.conv7")
    for extra in range(_NUM_EXTRAS):
        for half in (0, 1):
            name_map.take(
                f"backbone.extra.{extra + 1}.{2 * half}",
                f"backbone.extras.{extra}.conv{8 + extra}_{half + 1}",
            )
    _take_head(name_map, checkpoint.tensors, model, kept)
    name_map.settings |= _SSD_SETTINGS
    return name_map


def _take_head(
    name_map: NameMap,
    tensors: Mapping[str, Tensor],
    model: nn.Module | None,
    kept: Sequence[int] | None,
) -> None:
    theirs = "head.classification_head.module_list"
    bias = tensors.get(f"{theirs}.0.bias")
    num_outputs = 1 if bias is None else len(bias) // _NUM_ANCHORS[0]
    num_classes = None if model is None else model.num_classes
    if kept is None:
        kept = kept_outputs(num_outputs, num_classes)
    if kept is None:
        name_map.notes.append(note_of_other_classes(num_outputs, num_classes, "head.classifiers"))
    for level, num_anchors in enumerate(_NUM_ANCHORS):
        name_map.take(f"head.regression_head.module_list.{level}", f"head.box_regressors.{level}")
        names = f"{theirs}.{level}", f"head.classifiers.{level}"
        if kept is None:
            name_map.leave(*names)
        else:
            name_map.make(*names, partial(keep_rows, num_anchors=num_anchors, kept=[*kept, 0]))


def vgg16_map(checkpoint: Checkpoint, model: nn.Module | None) -> NameMap:
    """Of ``vgg16``: conv6 and conv7 are every fourth channel of fc6 and fc7.

    conv6 keeps every third row and column of fc6's 7 x 7 kernel, as the paper does with its
    dilation of 6. The first convolution is changed to take pixels less :data:`SSD_PIXEL_MEAN`,
    with ``MODEL.PIXEL_STD`` 1; only where the image is padded it sees zeros that stood for another
    grey level, by less than 1. torchvision's file without a classifier (there the weights are not
    a number) takes such pixels already, and gives no conv6 and conv7.
    """
    name_map = NameMap("torchvision's VGG-16 (without normalisation)")
    for index in _indices(range(5)):
        name_map.take(f"features.{index}", _stage_conv(index))
    _take_classifier(name_map, checkpoint.tensors)
    # The scale of conv4_3's map and the layers after conv7 are SSD's own.
    name_map.fill_only(("backbone.stages.", "backbone.conv"), model)
    name_map.settings |= _SSD_SETTINGS
    return name_map


def _take_classifier(name_map: NameMap, tensors: Mapping[str, Tensor]) -> None:
    layers = (("classifier.0", "conv6"), ("classifier.3", "conv7"))
    name_map.unused |= {"classifier.6.weight", "classifier.6.bias"}
    fc6 = tensors.get("classifier.0.weight")
    if fc6 is not None and fc6.isnan().all():
        for old, new in layers:
            name_map.leave(old, f"backbone.{new}")
        name_map.notes.append("the file has no classifier: conv6 and conv7 start anew")
        return
    first = "backbone.stages.0.conv1_1"
    name_map.make("features.0", first, _without_deviation, ("weight",))
    name_map.entries[f"{first}.bias"] = Entry(
        ("features.0.bias", "features.0.weight"), _with_other_mean
    )
    name_map.make("classifier.0", "backbone.conv6", _fc6_kernels, ("weight",))
    name_map.make("classifier.3", "backbone.conv7", _fc7_kernels, ("weight",))
    for old, new in layers:
        name_map.make(old, f"backbone.{new}", _every_fourth, ("bias",))


def _without_deviation(kernel: Tensor) -> Tensor:
    return kernel / torch.tensor(IMAGENET_STD)[:, None, None]


def _with_other_mean(bias: Tensor, kernel: Tensor) -> Tensor:
    shift = torch.tensor(SSD_PIXEL_MEAN) - torch.tensor(IMAGENET_MEAN)
    return bias + _without_deviation(kernel).sum(dim=(2, 3)) @ shift


def _fc6_kernels(weight: Tensor) -> Tensor:
    return weight.view(len(weight), -1, 7, 7)[::4, :, ::3, ::3]


def _fc7_kernels(weight: Tensor) -> Tensor:
    return weight[::4, ::4, None, None]


def _every_fourth(bias: Tensor) -> Tensor:
    return bias[::4]


def convert_ssd300(
    state: Mapping[str, Tensor], kept_outputs: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """A state dict of :class:`anchorkit.modeling.meta_arch.SSD` from one of ``ssd300_vgg16``.

    Raises:
        UserError: a tensor is missing, or is not known.
    """
    checkpoint = Checkpoint(state)
    conversion = apply(ssd300_map(checkpoint, None, kept_outputs), state, None)
    if conversion.problem:
        raise UserError(conversion.problem)
    return conversion.weights


def _indices(stages: Sequence[int]) -> list[int]:
    return [index for stage in stages for index in _STAGE_CONVS[stage]]


def _stage_conv(index: int) -> str:
    """Our name of the convolution at this place of torchvision's VGG-16."""
    stage = next(number for number, convs in enumerate(_STAGE_CONVS) if index in convs)
    return f"backbone.stages.{stage}.conv{stage + 1}_{_STAGE_CONVS[stage].index(index) + 1}"
