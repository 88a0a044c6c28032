"""Batch normalisation folded into the convolutions before it, where its statistics are fixed."""

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import Tensor, nn

from ...layers import evaluation_order


class FoldingConv2d(Conv2d):
    """detectron2's convolution, whose normalisation costs nothing where it learns nothing.

    norm(w * x) = (s w) * x + b - m s with s = weight / sqrt(variance + eps), b its bias and m its
    mean: the kernel is multiplied, which is small, in place of the map. So it is in evaluation, and
    in the frozen stages in training.

    Args:
        conv: the layer to take over, with its weights and its normalisation.
    """

    def __init__(self, conv: Conv2d):
        super().__init__(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding,
            conv.dilation, conv.groups, bias=False, norm=conv.norm, activation=conv.activation,
            device="meta",  # draws no weights: a seed gives the network that it gives unfolded
        )  # fmt: skip
        self.weight = conv.weight

    def forward(self, x: Tensor) -> Tensor:
        """(N, out_channels, H', W') of maps (N, in_channels, H, W)."""
        norm = self.norm
        learns = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        if learns or (norm.training and isinstance(norm, nn.BatchNorm2d)):
            return super().forward(x)
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        kernel = self.weight * scale.view(-1, 1, 1, 1)
        geometry = self.stride, self.padding, self.dilation, self.groups
        x = F.conv2d(evaluation_order(x), kernel, shift, *geometry)
        return x if self.activation is None else self.activation(x)


def fold_norms(module: nn.Module) -> None:
    """Make a :class:`FoldingConv2d` of every convolution with batch normalisation, in place."""
    for name, child in module.named_children():
        if (
            type(child) is Conv2d
            and child.bias is None
            and isinstance(child.norm, (FrozenBatchNorm2d, nn.BatchNorm2d))
        ):
            setattr(module, name, FoldingConv2d(child))
        else:
            fold_norms(child)
