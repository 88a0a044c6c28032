"""Losses of the Semi-Anchored Detector (Chen et al., 2020), not yet divided by their counts."""

import torch
from fvcore.nn import sigmoid_focal_loss
from torch import Tensor

from .focal import quality_focal_loss, smoothed_focal_loss, soft_anchor_targets

ANCHOR_LOSSES = ("smoothed_focal", "focal", "quality_focal")


def location_loss(
    logits: Tensor, labels: Tensor, *, alpha: float, beta: float
) -> tuple[Tensor, Tensor]:
    """Sum of the focal losses of all locations that are not ignored.

    Args:
        logits: (P, C) float32, of all images.
        labels: (P,) int64: class, C for background, -1 for ignored.
        alpha, beta: weight of positives and focusing exponent.

    Returns:
        The sum, and the number of positive locations.
    """
    positives = ((labels >= 0) & (labels < logits.shape[1])).nonzero()[:, 0]
    targets = torch.zeros_like(logits)
    targets[positives, labels[positives]] = 1
    losses = sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=beta)
    return (losses.sum(dim=1) * (labels >= 0)).sum(), labels.new_tensor(len(positives))


def anchor_loss(
    logits: Tensor, soft_targets: Tensor, is_positive: Tensor, kind: str, *, alpha: float,
    beta: float,
) -> Tensor:  # fmt: skip
    """Sum of the anchor classifier's losses over the anchors (Q,) of positive locations.

    Args:
        soft_targets, is_positive: of :func:`refined_labels`.
        kind: "smoothed_focal" (eq. 3), "focal" (hard labels) or "quality_focal".
    """
    if kind == "quality_focal":
        return quality_focal_loss(logits, soft_targets, is_positive, beta=beta).sum()
    if kind == "focal":
        soft_targets = torch.ones_like(soft_targets)
    return smoothed_focal_loss(logits, soft_targets, is_positive, alpha=alpha, beta=beta).sum()


def refined_labels(
    iou: Tensor, location: Tensor, num_anchors: int, *, threshold: float, sigma: float,
    force_best: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Which refined anchors are positive, and their soft targets by eq. 2.

    Args:
        iou: (Q,) of the refined anchors with their boxes.
        location: (Q,) int64: which anchors belong together; those of one stand side by side.
        num_anchors: the most that a location has.
        threshold: IoU from which on an anchor is positive.
        sigma: exponent of eq. 2.
        force_best: where no anchor of a location is positive, the best one becomes it.

    Returns:
        (Q,) bool and (Q,) float32 in [0, 1].
    """
    is_positive = iou >= threshold
    _, row, counts = location.unique_consecutive(return_inverse=True, return_counts=True)
    column = torch.arange(len(iou), device=iou.device) - (counts.cumsum(0) - counts)[row]
    # Levels may differ in the number of anchors: the table is filled up with IoU 0.
    table = iou.new_zeros(len(counts), num_anchors)
    table[row, column] = iou
    if force_best:
        has_none = (table < threshold).all(dim=1)
        is_best = (iou > 0) & (iou == table.amax(dim=1)[row])
        is_positive = is_positive | (is_best & has_none[row])
    return is_positive, soft_anchor_targets(table, sigma)[row, column]
