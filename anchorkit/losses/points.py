"""Losses of detectors that label locations: FCOS, FoveaBox, and DSLA on either.

Each function returns ``{name: (sum, count)}``; a loss is the sum divided by the count, which the
caller averages over processes.
"""

from typing import NamedTuple

import torch
from fvcore.nn import sigmoid_focal_loss
from torch import Tensor
from torch.nn import functional as F

from ..geometry import aligned_iou, centerness
from .focal import quality_focal_loss

LossTerms = dict[str, tuple[Tensor, Tensor]]

BOX_WEIGHTS = ("label", "coupled", "ones", "class_score")
CLASS_NORMALIZERS = ("label_sum", "num_positives")


class PositiveLocations(NamedTuple):
    """The Q positive locations of a batch of N images with P locations each.

    Attributes:
        index: (Q,) int64: place among the N P locations.
        classes: (Q,) int64.
        labels: (Q,) float32 in (0, 1]: the assigner's score.
        target_ltrb: (Q, 4) distances to the sides of the location's box, pixels.
        gt_boxes, pred_boxes: (Q, 4), pixels; ``pred_boxes`` carry no gradient.
        box_losses: (Q,) float32, not weighted.
        centerness_logits: (Q,), None for a detector without centerness branch.
    """

    index: Tensor
    classes: Tensor
    labels: Tensor
    target_ltrb: Tensor
    gt_boxes: Tensor
    pred_boxes: Tensor
    box_losses: Tensor
    centerness_logits: Tensor | None


def fcos_losses(
    class_logits: Tensor, positives: PositiveLocations, num_images: int, *,
    focal_alpha: float, focal_gamma: float,
) -> LossTerms:  # fmt: skip
    """FCOS, eq. 2, with centerness: boxes weigh as much as their location is central.

    Args:
        class_logits: (N P, C) float32.
    """
    targets = centerness(positives.target_ltrb)
    centerness_loss = F.binary_cross_entropy_with_logits(
        positives.centerness_logits.float(), targets, reduction="sum"
    )
    num_positives = _count(positives)
    class_loss = _focal_loss(class_logits, positives, focal_alpha, focal_gamma)
    return {
        "loss_class": (class_loss, num_positives),
        "loss_box": ((positives.box_losses * targets).sum(), targets.sum()),
        "loss_centerness": (centerness_loss, num_positives),
    }


def foveabox_losses(
    class_logits: Tensor, positives: PositiveLocations, num_images: int, *,
    focal_alpha: float, focal_gamma: float,
) -> LossTerms:  # fmt: skip
    """FoveaBox: focal loss over positives and images, and the mean of the box losses."""
    num_positives = _count(positives)
    class_loss = _focal_loss(class_logits, positives, focal_alpha, focal_gamma)
    return {
        "loss_class": (class_loss, num_positives + num_images),
        "loss_box": (positives.box_losses.sum(), num_positives),
    }


def dsla_losses(
    class_logits: Tensor, positives: PositiveLocations, num_images: int, *,
    iou_coupling: bool = True, iou_only: bool = False, quality_focal_beta: float = 2.0,
    class_loss_weight: float = 1.0, class_normalizer: str = "label_sum", box_weight: str = "label",
) -> LossTerms:  # fmt: skip
    """DSLA, eqs 8 and 9: quality focal loss towards smooth labels, boxes weighted by them.

    Args:
        class_logits: (N P, C) float32.
        iou_coupling: labels are multiplied by the IoU of the predicted box with its ground truth
            (eq. 8), which passes no gradient to the box.
        iou_only: that IoU alone is the label.
        quality_focal_beta: exponent of the quality focal loss.
        class_loss_weight: its weight.
        class_normalizer: "label_sum", the sum of the coupled labels, or "num_positives" (eq. 9 as
            printed).
        box_weight: of a location's box loss, and what they are divided by the sum of: "label"
            before coupling, "coupled", "ones" (eq. 9 as printed) or "class_score".
    """
    iou = aligned_iou(positives.pred_boxes, positives.gt_boxes)
    coupled = iou if iou_only else positives.labels * iou if iou_coupling else positives.labels
    rows = positives.index, positives.classes
    targets = torch.zeros_like(class_logits)
    targets[rows] = coupled
    class_loss = quality_focal_loss(class_logits, targets, targets > 0, beta=quality_focal_beta)
    weights = {
        "label": positives.labels,
        "coupled": coupled,
        "ones": torch.ones_like(coupled),
        "class_score": class_logits[rows].detach().sigmoid(),
    }[box_weight]
    class_count = coupled.sum() if class_normalizer == "label_sum" else _count(positives)
    return {
        "loss_class": (class_loss_weight * class_loss.sum(), class_count),
        "loss_box": ((positives.box_losses * weights).sum(), weights.sum()),
    }


def _focal_loss(logits: Tensor, positives: PositiveLocations, alpha: float, gamma: float) -> Tensor:
    targets = torch.zeros_like(logits)
    targets[positives.index, positives.classes] = 1
    return sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma, reduction="sum")


def _count(positives: PositiveLocations) -> Tensor:
    return positives.labels.new_tensor(float(len(positives.labels)))
