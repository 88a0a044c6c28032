"""The simple CNN of the INDeeD paper: three convolutions and a hidden layer."""

from collections.abc import Sequence

import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

from ...config import require_fixed_size


class SimpleCNN(Backbone):
    """Three times 3 x 3 convolution, ReLU and 2 x 2 max pooling; then a hidden layer with ReLU.

    With the classifier's last layer these are the paper's two fully connected ones.

    Args:
        in_channels: of the images.
        image_size: side of the square images, pixels; at least 8.
        channels: of the three convolutions.
        hidden: D, number of features.
    """

    def __init__(self, *, in_channels: int, image_size: int, channels: Sequence[int], hidden: int):
        super().__init__()
        self.convs = nn.ModuleList()
        for out_channels in channels:
            self.convs.append(nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1))
            in_channels = out_channels
        side = image_size // 2 ** len(channels)
        self.hidden = nn.Linear(in_channels * side * side, hidden)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """{"features": (B, D)} of images (B, C, image_size, image_size)."""
        maps = images
        for conv in self.convs:
            # The maximum of ReLUs is the ReLU of the maximum, which has a quarter of the values.
            maps = F.relu(F.max_pool2d(conv(maps), 2))
        return {"features": F.relu(self.hidden(maps.flatten(1)))}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"features": ShapeSpec(channels=self.hidden.out_features)}


@BACKBONE_REGISTRY.register()
def build_simple_cnn(cfg, input_shape: ShapeSpec) -> SimpleCNN:
    """For images of ``INPUT.FIXED_SIZE``."""
    keys = cfg.MODEL.SIMPLE_CNN
    return SimpleCNN(
        in_channels=input_shape.channels,
        image_size=require_fixed_size(cfg, at_least=2 ** len(keys.CHANNELS)),
        channels=keys.CHANNELS,
        hidden=keys.HIDDEN,
    )
