"""Pure loss functions: tensors in, unreduced losses out."""

from .focal import quality_focal_loss, smoothed_focal_loss, soft_anchor_targets
from .iou import BOX_LOSSES, box_iou_loss

__all__ = [
    "BOX_LOSSES",
    "box_iou_loss",
    "quality_focal_loss",
    "smoothed_focal_loss",
    "soft_anchor_targets",
]
