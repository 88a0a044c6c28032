"""The lightweight CNN of the OAT paper: two convolutions and two hidden layers."""

import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

from ...config import require_fixed_size

_KERNEL = 5
_CHANNELS = (6, 16)
_HIDDEN = (128, 64)


class LightweightCNN(Backbone):
    """conv 6 - pool - conv 16 - pool - 128 - 64, kernels 5 x 5 without padding, ReLU.

    Args:
        in_channels: of the images.
        image_size: side of the square images, pixels; at least 16.
    """

    def __init__(self, *, in_channels: int, image_size: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, _CHANNELS[0], _KERNEL)
        self.conv2 = nn.Conv2d(_CHANNELS[0], _CHANNELS[1], _KERNEL)
        side = image_size
        for _ in _CHANNELS:
            side = (side - _KERNEL + 1) // 2
        self.hidden1 = nn.Linear(_CHANNELS[1] * side * side, _HIDDEN[0])
        self.hidden2 = nn.Linear(_HIDDEN[0], _HIDDEN[1])

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """{"features": (B, 64)} of images (B, C, image_size, image_size)."""
        maps = F.max_pool2d(F.relu(self.conv1(images)), 2)
        maps = F.max_pool2d(F.relu(self.conv2(maps)), 2)
        hidden = F.relu(self.hidden1(maps.flatten(1)))
        return {"features": F.relu(self.hidden2(hidden))}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"features": ShapeSpec(channels=_HIDDEN[1])}


@BACKBONE_REGISTRY.register()
def build_lightweight_cnn(cfg, input_shape: ShapeSpec) -> LightweightCNN:
    """For images of ``INPUT.FIXED_SIZE``."""
    size = require_fixed_size(cfg, at_least=16)
    return LightweightCNN(in_channels=input_shape.channels, image_size=size)
