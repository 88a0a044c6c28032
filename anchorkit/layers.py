"""Small network parts that several heads share."""

import math
from collections.abc import Sequence

import torch
from detectron2.layers import get_norm
from torch import Tensor, nn


def conv_tower(channels: int, num_convs: int, norm: str, *, bias: bool = False) -> nn.Sequential:
    """``num_convs`` times 3x3 convolution, normalisation, ReLU, shared by all feature levels.

    Args:
        channels: of the input and of every convolution.
        num_convs: 0 gives an empty tower that returns its input.
        norm: "GN" (32 groups), or "" for none. Batch normalisation shared by levels would mix
            their statistics and is refused.
        bias: of convolutions that a normalisation follows; the others always have one.

    Raises:
        ValueError: a normalisation other than "GN" or "".
    """
    if norm not in ("GN", ""):
        raise ValueError(f"towers are shared by feature levels: norm is 'GN' or '', not {norm!r}")
    layers: list[nn.Module] = []
    for _ in range(num_convs):
        layers.append(head_conv(channels, channels, bias=bias or not norm))
        if norm:
            layers.append(get_norm(norm, channels))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def head_conv(in_channels: int, out_channels: int, bias: bool = True, prior: float = 0.5):
    """3x3 convolution initialised as RetinaNet's heads are: weights N(0, 0.01).

    Args:
        prior: the probability that the sigmoid of the output starts with (0.5 is a zero bias).
    """
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=bias)
    nn.init.normal_(conv.weight, std=0.01)
    if bias:
        nn.init.constant_(conv.bias, math.log(prior / (1 - prior)))
    return conv


def flatten_levels(maps: Sequence[Tensor], size: int) -> Tensor:
    """Join maps (N, A size, H_l, W_l) of all levels to (N, sum of H_l W_l A, size)."""
    return torch.cat(
        [
            level.view(len(level), -1, size, *level.shape[-2:])
            .permute(0, 3, 4, 1, 2)
            .reshape(len(level), -1, size)
            for level in maps
        ],
        dim=1,
    )
