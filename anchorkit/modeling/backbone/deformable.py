"""Deformable convolution in detectron2's ResNets, without its compiled operators."""

from collections.abc import Sequence

import torch.nn.functional as F
from detectron2.modeling.backbone import ResNet
from detectron2.modeling.backbone.resnet import BottleneckBlock, CNNBlockBase
from torch import Tensor, nn

from ...layers import DeformConv


class DeformBottleneckBlock(CNNBlockBase):
    """A bottleneck block whose 3x3 convolution is deformable.

    The tensors have the names and the meaning of those in detectron2's block of this name. At first
    nothing is shifted, and if the convolution is modulated all samples count one half.

    Args:
        block: the plain block; its layers and their weights are taken over.
        modulated: samples are weighted.
        num_groups: of channels that are sampled alike.
    """

    def __init__(self, block: BottleneckBlock, *, modulated: bool, num_groups: int):
        super().__init__(block.in_channels, block.out_channels, block.stride)
        self.shortcut, self.conv1, self.conv3 = block.shortcut, block.conv1, block.conv3
        plain = block.conv2
        geometry = {name: getattr(plain, name) for name in ("stride", "padding", "dilation")}
        self.conv2_offset = nn.Conv2d(
            plain.in_channels, (27 if modulated else 18) * num_groups, 3, **geometry
        )
        nn.init.zeros_(self.conv2_offset.weight)
        nn.init.zeros_(self.conv2_offset.bias)
        self.conv2 = DeformConv(
            plain.in_channels, plain.out_channels, 3, groups=plain.groups, bias=False,
            modulated=modulated, **geometry,
        )  # fmt: skip
        self.conv2.weight = plain.weight
        self.conv2.norm = nn.Identity() if plain.norm is None else plain.norm

    def forward(self, x: Tensor) -> Tensor:
        """(N, out_channels, H', W') of maps (N, in_channels, H, W)."""
        out = F.relu_(self.conv1(x))
        out = F.relu_(self.conv2.norm(self.conv2(out, self.conv2_offset(out))))
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return F.relu_(self.conv3(out) + shortcut)


def deform(body: ResNet, stages: Sequence[bool], *, modulated: bool, num_groups: int) -> None:
    """Make the 3x3 convolutions of some stages, res2 being the first, deformable.

    Args:
        body: of bottleneck blocks; changed in place.
        stages: for each stage, whether it is deformable.
        modulated, num_groups: as of :class:`DeformBottleneckBlock`.
    """
    # A body that ends before res5 has fewer stages.
    for stage, is_deformed in zip(body.stages, stages, strict=False):
        for index, block in enumerate(stage if is_deformed else ()):
            stage[index] = DeformBottleneckBlock(block, modulated=modulated, num_groups=num_groups)
