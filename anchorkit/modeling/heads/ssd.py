"""Heads of SSD and of its semi-anchored version: every feature map has its own convolutions."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from ...layers import conv_tower, head_conv
from .semi_anchored import SemiAnchoredPredictions


class SSDPredictions(NamedTuple):
    """Raw outputs, a list over feature maps of H x W maps for N images.

    Attributes:
        class_logits: (N, A (C + 1), H, W), the logits of an anchor side by side, background last.
        box_deltas: (N, 4 A, H, W), the four deltas of an anchor side by side.
    """

    class_logits: list[Tensor]
    box_deltas: list[Tensor]


class SSDHead(nn.Module):
    """Two 3x3 convolutions for each map (Liu et al., 2016).

    Args:
        in_channels: of each map.
        num_anchors: anchors at a location of each map.
        num_classes: C.
    """

    def __init__(self, *, in_channels: Sequence[int], num_anchors: Sequence[int], num_classes: int):
        super().__init__()
        self.classifiers, self.box_regressors = nn.ModuleList(), nn.ModuleList()
        for channels, count in zip(in_channels, num_anchors, strict=True):
            for convs, size in ((self.classifiers, num_classes + 1), (self.box_regressors, 4)):
                conv = nn.Conv2d(channels, count * size, kernel_size=3, padding=1)
                nn.init.xavier_uniform_(conv.weight)
                nn.init.zeros_(conv.bias)
                convs.append(conv)

    def forward(self, features: Sequence[Tensor]) -> SSDPredictions:
        """``features``: for each map (N, in_channels, H, W)."""
        return SSDPredictions(
            [conv(x) for conv, x in zip(self.classifiers, features, strict=True)],
            [conv(x) for conv, x in zip(self.box_regressors, features, strict=True)],
        )


class SemiAnchoredSSDHead(nn.Module):
    """The Semi-Anchored Detector's three predictions on each of SSD's maps.

    Args:
        in_channels: of each map.
        num_anchors: K, anchors at a location of each map.
        num_classes: C, or C + 1 where background has a logit of its own.
        num_convs, norm: of two towers for each map, see :func:`anchorkit.layers.conv_tower`; SSD
            has none.
        prior_prob, anchor_prior_prob: initial scores of the two classifiers.
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        num_anchors: Sequence[int],
        num_classes: int,
        num_convs: int = 0,
        norm: str = "",
        prior_prob: float = 0.01,
        anchor_prior_prob: float = 0.01,
    ):
        super().__init__()
        self.location_towers, self.box_towers = nn.ModuleList(), nn.ModuleList()
        self.location_classifiers, self.box_regressors = nn.ModuleList(), nn.ModuleList()
        self.anchor_classifiers = nn.ModuleList()
        for channels, count in zip(in_channels, num_anchors, strict=True):
            self.location_towers.append(conv_tower(channels, num_convs, norm))
            self.box_towers.append(conv_tower(channels, num_convs, norm))
            self.location_classifiers.append(head_conv(channels, num_classes, prior=prior_prob))
            self.box_regressors.append(head_conv(channels, 4 * count))
            self.anchor_classifiers.append(head_conv(channels, count, prior=anchor_prior_prob))

    def forward(self, features: Sequence[Tensor]) -> SemiAnchoredPredictions:
        """``features``: for each map (N, in_channels, H, W)."""
        predictions = SemiAnchoredPredictions([], [], [])
        for level, feature in enumerate(features):
            location_feature = self.location_towers[level](feature)
            box_feature = self.box_towers[level](feature)
            predictions.location_logits.append(self.location_classifiers[level](location_feature))
            predictions.box_deltas.append(self.box_regressors[level](box_feature))
            predictions.anchor_logits.append(self.anchor_classifiers[level](box_feature))
        return predictions
