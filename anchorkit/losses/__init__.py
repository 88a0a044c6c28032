"""Pure loss functions: tensors in, unreduced losses out."""

from .focal import quality_focal_loss, smoothed_focal_loss, soft_anchor_targets
from .hard_negative import hard_negatives
from .iou import BOX_LOSSES, box_iou_loss
from .points import (
    BOX_WEIGHTS,
    CLASS_NORMALIZERS,
    PositiveLocations,
    dsla_losses,
    fcos_losses,
    foveabox_losses,
)

__all__ = [
    "BOX_LOSSES",
    "BOX_WEIGHTS",
    "CLASS_NORMALIZERS",
    "PositiveLocations",
    "box_iou_loss",
    "dsla_losses",
    "fcos_losses",
    "foveabox_losses",
    "hard_negatives",
    "quality_focal_loss",
    "smoothed_focal_loss",
    "soft_anchor_targets",
]
