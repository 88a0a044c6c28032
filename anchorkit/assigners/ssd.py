"""Label rule of SSD (Liu et al., 2016, section 2.2)."""

from collections.abc import Sequence

import torch
from detectron2.structures import Instances
from torch import Tensor

from .base import Assigner, Assignment
from .matching import match_images


class SSDAssigner(Assigner):
    """An anchor belongs to the box it overlaps most, and every box gets its best anchor.

    Args:
        num_classes: C; the label C is background.
        iou_threshold: IoU with its box from which on an anchor is positive.
    """

    def __init__(self, *, num_classes: int, iou_threshold: float = 0.5):
        self.num_classes = num_classes
        self.iou_threshold = iou_threshold

    @torch.no_grad()
    def label_images(
        self, anchors: Sequence[Tensor], gt_instances: Sequence[Instances]
    ) -> Assignment:
        """Label the R anchors of each image, level by level, row by row.

        A box's best anchor is its own whatever the overlap, if there is one at all. An anchor that
        is the best one of several boxes goes to the box with the highest IoU, then to the first.

        Args:
            anchors: for each level (H, W, K, 4), pixels, on a regular grid; K may differ.
            gt_instances: for each image ``gt_boxes`` (M boxes) and ``gt_classes`` (M,).
        """
        match = match_images(anchors, [instances.gt_boxes.tensor for instances in gt_instances])
        gt_classes = torch.cat([instances.gt_classes for instances in gt_instances])
        gt_index = torch.where(match.iou >= self.iou_threshold, match.gt_index, -1)
        claim = torch.zeros_like(match.iou)
        claim.scatter_reduce_(0, match.best_anchor, match.best_iou, "amax")
        is_winner = (match.best_iou > 0) & (match.best_iou == claim[match.best_anchor])
        winner = is_winner.nonzero()[:, 0]
        gt_index.scatter_reduce_(0, match.best_anchor[winner], winner, "amin", include_self=False)
        is_positive = gt_index >= 0
        labels = torch.full_like(gt_index, self.num_classes)
        labels[is_positive] = gt_classes[gt_index[is_positive]]
        return Assignment(labels, gt_index, is_positive.float())
