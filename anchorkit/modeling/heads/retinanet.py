"""RetinaNet's head on the towers that all of anchorkit's detectors use."""

from collections.abc import Sequence

from torch import Tensor, nn

from ...layers import conv_tower, head_conv


class RetinaNetHead(nn.Module):
    """Class scores and box deltas of A anchors at each location (Lin et al., 2017).

    Args:
        in_channels: of every feature map.
        num_classes: C.
        num_anchors: A, the same on every level.
        num_convs: convolutions in each of the two towers.
        norm: of the towers, see :func:`anchorkit.layers.conv_tower`.
        prior_prob: initial score of the classifier.
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
    ):
        super().__init__()
        self.class_tower = conv_tower(in_channels, num_convs, norm)
        self.box_tower = conv_tower(in_channels, num_convs, norm)
        self.classifier = head_conv(in_channels, num_anchors * num_classes, prior=prior_prob)
        self.box_regressor = head_conv(in_channels, num_anchors * 4)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Logits (N, A C, H, W) and deltas (N, 4 A, H, W) for each level."""
        logits = [self.classifier(self.class_tower(feature)) for feature in features]
        deltas = [self.box_regressor(self.box_tower(feature)) for feature in features]
        return logits, deltas
