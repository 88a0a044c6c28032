"""Pure loss functions: tensors in, unreduced losses out."""

from .focal import quality_focal_loss, smoothed_focal_loss, soft_anchor_targets
from .hard_negative import hard_negatives, mined_cross_entropy
from .iou import BOX_LOSSES, box_iou_loss
from .points import (
    BOX_WEIGHTS,
    CLASS_NORMALIZERS,
    PositiveLocations,
    dsla_losses,
    fcos_losses,
    foveabox_losses,
)
from .semi_anchored import ANCHOR_LOSSES, anchor_loss, location_loss, refined_labels

__all__ = [
    "ANCHOR_LOSSES",
    "BOX_LOSSES",
    "BOX_WEIGHTS",
    "CLASS_NORMALIZERS",
    "PositiveLocations",
    "anchor_loss",
    "box_iou_loss",
    "dsla_losses",
    "fcos_losses",
    "foveabox_losses",
    "hard_negatives",
    "location_loss",
    "mined_cross_entropy",
    "quality_focal_loss",
    "refined_labels",
    "smoothed_focal_loss",
    "soft_anchor_targets",
]
