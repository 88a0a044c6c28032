"""Head of FCOS and FoveaBox."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...layers import conv_tower, head_conv


class FCOSPredictions(NamedTuple):
    """Raw outputs, a list over feature levels of H x W maps for N images.

    Attributes:
        class_logits: (N, C, H, W).
        box_outputs: (N, 4, H, W), for the left, top, right and bottom side.
        centerness_logits: (N, 1, H, W); an empty list without a centerness branch.
    """

    class_logits: list[Tensor]
    box_outputs: list[Tensor]
    centerness_logits: list[Tensor]


class FCOSHead(nn.Module):
    """A class tower and a box tower shared by all levels.

    Args:
        in_channels: of every feature map.
        num_classes: C.
        num_levels: L.
        num_convs: convolutions in each tower.
        norm, conv_bias: of the towers, see :func:`anchorkit.layers.conv_tower`.
        prior_prob: initial score of the classifier.
        centerness_tower: the tower that predicts centerness: "class" (FCOS) or "box" (FCOSv2);
            None for no centerness branch.
        level_scales: multiply the box outputs of each level by a learned factor, 1 at first.
        deformable_tower: the last convolution of each tower is deformable.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        num_levels: int,
        num_convs: int = 4,
        norm: str = "GN",
        conv_bias: bool = False,
        prior_prob: float = 0.01,
        centerness_tower: str | None = "class",
        level_scales: bool = True,
        deformable_tower: bool = False,
    ):
        super().__init__()
        options = {"bias": conv_bias, "deformable": deformable_tower}
        self.class_tower = conv_tower(in_channels, num_convs, norm, **options)
        self.box_tower = conv_tower(in_channels, num_convs, norm, **options)
        self.classifier = head_conv(in_channels, num_classes, prior=prior_prob)
        self.box_regressor = head_conv(in_channels, 4)
        self.centerness_tower = centerness_tower
        if centerness_tower is not None:
            self.centerness = head_conv(in_channels, 1)
        self.scales = nn.Parameter(torch.ones(num_levels)) if level_scales else None

    def forward(self, features: Sequence[Tensor]) -> FCOSPredictions:
        """``features``: for each level (N, in_channels, H, W)."""
        predictions = FCOSPredictions([], [], [])
        for level, feature in enumerate(features):
            towers = {"class": self.class_tower(feature), "box": self.box_tower(feature)}
            predictions.class_logits.append(self.classifier(towers["class"]))
            box_outputs = self.box_regressor(towers["box"])
            if self.scales is not None:
                box_outputs = self.scales[level] * box_outputs
            predictions.box_outputs.append(box_outputs)
            if self.centerness_tower is not None:
                predictions.centerness_logits.append(self.centerness(towers[self.centerness_tower]))
        return predictions
