"""Wide residual networks for small images (Zagoruyko and Komodakis, 2016)."""

import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

from ...errors import UserError

_STEM_CHANNELS = 16


class WideBlock(nn.Module):
    """BN - ReLU - 3x3 - BN - ReLU - dropout - 3x3, and a 1x1 shortcut where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.dropout = dropout
        self.shortcut = None
        if in_channels != out_channels or stride != 1:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.norm1(x))
        identity = x if self.shortcut is None else self.shortcut(activated)
        out = F.relu(self.norm2(self.conv1(activated)))
        if self.dropout > 0:
            out = F.dropout(out, self.dropout, self.training)
        return self.conv2(out) + identity


class WideResNet(Backbone):
    """WRN-depth-width: three groups of (depth - 4) / 6 blocks with 16, 32 and 64 width channels.

    Args:
        in_channels: of the images.
        depth: number of convolutions, 6 n + 4.
        width: factor of the channels.
        dropout: between the convolutions of a block.
    """

    def __init__(self, *, in_channels: int, depth: int, width: int, dropout: float = 0.0):
        super().__init__()
        num_blocks, rest = divmod(depth - 4, 6)
        if rest or num_blocks < 1:
            raise UserError(f"MODEL.WIDE_RESNET.DEPTH is {depth}; it must be 6 n + 4: 10, 16, 28")
        self.stem = nn.Conv2d(in_channels, _STEM_CHANNELS, 3, 1, 1, bias=False)
        blocks, channels = [], _STEM_CHANNELS
        for group in range(3):
            out_channels = _STEM_CHANNELS * width * 2**group
            for index in range(num_blocks):
                stride = 2 if group > 0 and index == 0 else 1
                blocks.append(WideBlock(channels, out_channels, stride, dropout))
                channels = out_channels
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """{"features": (B, 64 width, H / 4, W / 4)}, not negative, of images (B, C, H, W)."""
        return {"features": F.relu(self.norm(self.blocks(self.stem(images))))}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"features": ShapeSpec(channels=self.norm.num_features, stride=4)}


@BACKBONE_REGISTRY.register()
def build_wide_resnet(cfg, input_shape: ShapeSpec) -> WideResNet:
    """WRN with the depth, width and dropout of ``MODEL.WIDE_RESNET``."""
    keys = cfg.MODEL.WIDE_RESNET
    return WideResNet(
        in_channels=input_shape.channels, depth=keys.DEPTH, width=keys.WIDTH, dropout=keys.DROPOUT
    )
