"""ResNets of Detectron's and detectron2's model zoo, under the names that Caffe2 gave them."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import UserError
from .name_map import Checkpoint, Entry, NameMap
from .resnet import BATCH_NORM, count_blocks, resnet_keys, resnet_prefix

_CONVS = {"branch2a": "conv1", "branch2b": "conv2", "branch2c": "conv3"}
# What the files call a normalisation's weight, bias, mean and variance. In Detectron's own files
# the statistics are part of weight and bias.
_NORM_PARTS = (
    ("gamma", "beta", "running_mean", "running_var"),
    ("s", "b", "rm", "riv"),
    ("s", "b"),
)
# detectron2's FrozenBatchNorm2d adds this to the variance.
_EPSILON = 1e-5
_MEAN, _STD = [103.53, 116.28, 123.675], [57.375, 57.12, 58.395]


def caffe2_map(checkpoint: Checkpoint, model: nn.Module | None) -> NameMap:
    """Of R-50.pkl, R-101.pkl, X-101-32x8d.pkl and their like, with batch normalisation."""
    name_map = NameMap("Caffe2's ResNet")
    tensors = checkpoint.tensors
    prefix = resnet_prefix(model, name_map.source)
    parts = _norm_parts(tensors)
    _check_norm(name_map.source, parts, model, prefix)
    _take_conv(name_map, "conv1", "res_conv1", f"{prefix}stem.conv1", parts)
    num_blocks = count_blocks(tensors, "res{stage}_{block}_branch2a_w", first_stage=2)
    for stage, blocks in enumerate(num_blocks, start=2):
        for block in range(blocks):
            theirs, ours = f"res{stage}_{block}", f"{prefix}res{stage}.{block}"
            convs = _CONVS | ({"branch1": "shortcut"} if block == 0 else {})
            for old, new in convs.items():
                name = f"{theirs}_{old}"
                _take_conv(name_map, name, name, f"{ours}.{new}", parts)
    name_map.fill_only(prefix, model)
    # Classifiers, a bias before a normalisation that has none of its own, and solver's state.
    name_map.unused |= {"fc1000_w", "fc1000_b", "pred_w", "pred_b", "conv1_b"}
    name_map.unused |= {name for name in tensors if name.endswith("_momentum")}
    kernel = tensors.get("res2_0_branch2b_w")
    width, group = (0, 0) if kernel is None else kernel.shape[:2]
    name_map.structure |= resnet_keys(name_map.source, 3, num_blocks, width, group)
    # MSRA's were trained in Caffe, with fc1000; FAIR's in Caffe2, with pred. Detectron's files take
    # no deviation, whoever trained them.
    is_msra = "pred_w" not in tensors and width == group
    name_map.settings |= {
        "INPUT.FORMAT": "BGR",
        "MODEL.PIXEL_MEAN": _MEAN,
        "MODEL.PIXEL_STD": [1.0, 1.0, 1.0] if is_msra or len(parts) == 2 else _STD,
        "MODEL.RESNETS.STRIDE_IN_1X1": is_msra,
    }
    return name_map


def _norm_parts(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    for parts in _NORM_PARTS:
        if all(f"res_conv1_bn_{part}" in tensors for part in parts):
            return parts
    known = " or ".join(f"res_conv1_bn_{parts[0]}" for parts in _NORM_PARTS[:2])
    raise UserError(
        f"expected a ResNet of Caffe2 with batch normalisation, got one without {known}; group "
        "normalisation is not converted"
    )


def _check_norm(source: str, parts: tuple[str, ...], model: nn.Module, prefix: str) -> None:
    trains_norm = f"{prefix}stem.conv1.norm.num_batches_tracked" in model.state_dict()
    if len(parts) == 2 and trains_norm:
        raise UserError(
            f"this {source} holds no statistics of its normalisations, which a model that trains "
            "them needs; set MODEL.RESNETS.NORM FrozenBN"
        )


def _take_conv(name_map: NameMap, conv: str, norm: str, new: str, parts: tuple[str, ...]) -> None:
    name_map.entries[f"{new}.weight"] = Entry((f"{conv}_w",))
    names = {part: f"{norm}_bn_{theirs}" for part, theirs in zip(BATCH_NORM, parts, strict=False)}
    for part, theirs in names.items():
        name_map.entries[f"{new}.norm.{part}"] = Entry((theirs,))
    if len(parts) == 2:
        for part, statistic in (("running_mean", _no_mean), ("running_var", _no_variance)):
            name_map.entries[f"{new}.norm.{part}"] = Entry((names["weight"],), statistic)
    name_map.optional.add(f"{new}.norm.num_batches_tracked")


def _no_mean(weight: Tensor) -> Tensor:
    return torch.zeros_like(weight)


def _no_variance(weight: Tensor) -> Tensor:
    return torch.ones_like(weight) - _EPSILON
