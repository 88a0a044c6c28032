"""Head of the Semi-Anchored Detector (paper, figure 4)."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from ...layers import conv_tower, head_conv


class SemiAnchoredPredictions(NamedTuple):
    """Raw outputs, a list over feature levels of H x W maps for N images.

    Attributes:
        location_logits: (N, C, H, W), or (N, C + 1, H, W) with background last.
        box_deltas: (N, 4 K, H, W), the four deltas of an anchor side by side.
        anchor_logits: (N, K, H, W).
    """

    location_logits: list[Tensor]
    box_deltas: list[Tensor]
    anchor_logits: list[Tensor]


class SemiAnchoredHead(nn.Module):
    """Two towers shared by all levels: one classifies locations, one regresses and picks anchors.

    Args:
        in_channels: of every feature map.
        num_classes: C, or C + 1 where background has a logit of its own.
        num_anchors: K, anchors at a location, the same on every level.
        num_convs: convolutions in each tower.
        norm: of the towers, see :func:`anchorkit.layers.conv_tower`.
        prior_prob, anchor_prior_prob: initial scores of the two classifiers.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        num_anchors: int,
        num_convs: int = 4,
        norm: str = "GN",
        prior_prob: float = 0.01,
        anchor_prior_prob: float = 0.01,
    ):
        super().__init__()
        self.location_tower = conv_tower(in_channels, num_convs, norm)
        self.box_tower = conv_tower(in_channels, num_convs, norm)
        self.location_classifier = head_conv(in_channels, num_classes, prior=prior_prob)
        self.box_regressor = head_conv(in_channels, 4 * num_anchors)
        self.anchor_classifier = head_conv(in_channels, num_anchors, prior=anchor_prior_prob)

    def forward(self, features: Sequence[Tensor]) -> SemiAnchoredPredictions:
        """``features``: for each level (N, in_channels, H, W)."""
        predictions = SemiAnchoredPredictions([], [], [])
        for feature in features:
            predictions.location_logits.append(
                self.location_classifier(self.location_tower(feature))
            )
            box_feature = self.box_tower(feature)
            predictions.box_deltas.append(self.box_regressor(box_feature))
            predictions.anchor_logits.append(self.anchor_classifier(box_feature))
        return predictions
