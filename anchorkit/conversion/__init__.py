"""Checkpoints of torchvision, of detectron2's model zoo and of mmdetection, for models of here.

Those that were trained here are taken too: of them the weights alone are kept. One module for each
kind of source says which tensor goes where (:class:`NameMap`); nothing is guessed. Their order here
is that in which a file is told by its names.
"""

from collections.abc import Mapping

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from ..errors import UserError, quoted
from .caffe2 import caffe2_map
from .library_body import has_library_body, library_body_map
from .mmdetection import mmdetection_map
from .name_map import Checkpoint, Conversion, Entry, NameMap, apply
from .report import format_report
from .resnet import resnet_map
from .torchvision_dense import fcos_map, retinanet_map
from .torchvision_ssd import SSD_PIXEL_MEAN, convert_ssd300, ssd300_map, vgg16_map

__all__ = [
    "SSD_PIXEL_MEAN",
    "Checkpoint",
    "Conversion",
    "NameMap",
    "convert",
    "convert_ssd300",
    "convertible_names",
    "format_report",
    "halve",
]

# Names that only files of one kind have, what they are, and their map.
_SOURCES = (
    ("backbone.scale_weight", ssd300_map),
    ("features.28.weight", vgg16_map),
    ("head.regression_head.bbox_ctrness.weight", fcos_map),
    ("head.regression_head.bbox_reg.weight", retinanet_map),
    ("bbox_head.cls_convs.0.conv.weight", mmdetection_map),
    ("res2_0_branch2a_w", caffe2_map),
    ("layer1.0.conv1.weight", resnet_map),
)
_KNOWN = (
    "torchvision's ResNet, VGG-16, SSD300, RetinaNet or FCOS, Caffe2's ResNet, or mmdetection's "
    "FCOS, DSLA or FoveaBox"
)
# The first two need no model.
_TORCHVISION_MODELS = (
    *("vgg16", "ssd300_vgg16", "fcos_resnet50_fpn"),
    *("retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2"),
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    *("wide_resnet50_2", "wide_resnet101_2"),
)
# Names of weights that MODEL.WEIGHTS reads as they are.
_NATIVE = ("stem.conv1.weight", "backbone.bottom_up.stem.conv1.weight")


def convertible_names(model: nn.Module | None) -> list[str]:
    """torchvision's names of models whose weights :func:`convert` can bring into this model."""
    if has_library_body(model):
        return torchvision.models.list_models(module=torchvision.models)
    return list(_TORCHVISION_MODELS if model is not None else _TORCHVISION_MODELS[:2])


def convert(
    content: Mapping[str, object], model: nn.Module | None = None, *, sha256: str = ""
) -> Conversion:
    """Convert what a file holds; its kind is told by its names.

    Args:
        content: a state dict, or a dict that holds one under "model", "state_dict" or "blobs".
        model: that the weights are for. VGG-16 and SSD300 can do without.
        sha256: of the file, or its first digits; it tells torchvision's published RetinaNet.

    Raises:
        UserError: no known kind, or not one for this model. Tensors that are missing, unexpected
            or of another shape are no error here: see :attr:`Conversion.problem`.
    """
    tensors = _tensors(content)
    checkpoint = Checkpoint(tensors, _config_text(content), sha256)
    if model is not None and model.state_dict().keys() <= tensors.keys():
        return apply(_own_map(content, model), tensors, model)
    if has_library_body(model):
        return apply(library_body_map(checkpoint, model), tensors, model)
    for name, make_map in _SOURCES:
        if name in tensors:
            return apply(make_map(checkpoint, model), tensors, model)
    shown = ", ".join(list(tensors)[:3])
    if any(name in tensors for name in _NATIVE):
        raise UserError(f"MODEL.WEIGHTS reads this file as it is: it has tensors such as {shown}")
    raise UserError(f"expected {_KNOWN}; got tensors such as {shown}")


def halve(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights in half precision; whole numbers stay as they are.

    Raises:
        UserError: a number is beyond the range of half precision (65,504), such as a variance of
            batch normalisation can be.
    """
    halves = {name: w.half() if w.is_floating_point() else w for name, w in weights.items()}
    beyond = [
        name for name, half in halves.items()
        if half.is_floating_point() and not half.isfinite().all() and weights[name].isfinite().all()
    ]  # fmt: skip
    if beyond:
        raise UserError(f"half precision has no numbers as large as those of {quoted(beyond, 3)}")
    return halves


def _own_map(content: Mapping[str, object], model: nn.Module) -> NameMap:
    """Of a checkpoint that ``tools/train_net.py`` wrote for this model."""
    name_map = NameMap("trained by anchorkit")
    name_map.entries |= {name: Entry((name,)) for name in model.state_dict()}
    if "ema" in content:
        name_map.notes.append("these are the averaged weights (SOLVER.EMA)")
    return name_map


def _tensors(content: Mapping[str, object]) -> dict[str, Tensor]:
    """The state dict of a file, its arrays as tensors; averaged weights where it has them."""
    content = content.get("ema", content)
    for key in ("state_dict", "model", "blobs"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    tensors = {}
    for name, value in content.items():
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(value)
        if not isinstance(value, Tensor):
            raise UserError(
                f"expected tensors by name, got {type(value).__name__} under the name {name!r}"
            )
        tensors[name] = value
    return tensors


def _config_text(content: Mapping[str, object]) -> str:
    """The config that mmdetection 2 ("config") and 3 ("cfg") write into their files."""
    meta = content.get("meta")
    texts = [meta.get(key) for key in ("config", "cfg")] if isinstance(meta, Mapping) else []
    return next((text for text in texts if isinstance(text, str)), "")
