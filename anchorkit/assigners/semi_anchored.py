"""Labels of locations and of their anchors in the Semi-Anchored Detector."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from detectron2.structures import Instances
from torch import Tensor

from ..geometry import aligned_iou
from .base import Assigner, Assignment
from .matching import low_quality_anchors, match_images
from .points import PointAssigner


@dataclass(frozen=True)
class SemiAnchoredAssignment:
    """Labels of the P locations and R anchors of N images: by image, level and row.

    Locations, anchors and ground-truth boxes are counted through over the images.

    Attributes:
        locations: labels of the N P locations (eq. 1 or eq. 4).
        anchors: labels of the N R anchors by their overlap before regression.
        box_gt_index: (N R,) int64: the ground-truth box that an anchor is regressed to, -1 for
            none.
        anchor_location: (N R,) int64: the location of each anchor.
    """

    locations: Assignment
    anchors: Assignment
    box_gt_index: Tensor
    anchor_location: Tensor


class SemiAnchoredAssigner(Assigner):
    """Label a location by a vote of its anchors, and choose the anchors to regress.

    Args:
        num_classes: C; the label C is background.
        iou_thresholds: (background below, foreground from). An anchor between them is ignored.
        low_quality_matches: the best anchors of every box, all that tie, are positive, whatever
            their IoU above 0.
        ignore_locations: a location with ignored and no positive anchors is ignored, else it is
            background.
        gamma: background's weight in eq. 1, in [0, 1); 0 stands for eq. 4.
        regressed_anchors: at a positive location "positive" anchors of its class, "all", or "best".
        regression_target: "anchor" (a positive anchor learns the box it overlaps most) or
            "location". Anchors that are not positive always learn their location's box.
        location_labeler: labels the locations in place of the vote (Table 3). A positive location
            without a positive anchor of its class then regresses the anchor nearest to its box.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        iou_thresholds: Sequence[float] = (0.5, 0.5),
        low_quality_matches: bool = True,
        ignore_locations: bool = True,
        gamma: float = 0.0,
        regressed_anchors: str = "positive",
        regression_target: str = "anchor",
        location_labeler: PointAssigner | None = None,
    ):
        self.num_classes = num_classes
        self.background_below, self.foreground_from = iou_thresholds
        self.low_quality_matches = low_quality_matches
        self.ignore_locations = ignore_locations
        # eq. 1 is decided on whole numbers: 0.2 * 20 against 0.8 * 5 is an exact tie.
        self.gamma = Fraction(gamma).limit_denominator(10**6)
        self.regressed_anchors = regressed_anchors
        self.regression_target = regression_target
        self.location_labeler = location_labeler

    @torch.no_grad()
    def label_images(
        self, anchors: Sequence[Tensor], gt_instances: Sequence[Instances]
    ) -> SemiAnchoredAssignment:
        """Label N images at once.

        Args:
            anchors: for each level (H, W, K, 4), pixels, on a regular grid; K may differ.
            gt_instances: for each image ``gt_boxes`` (M boxes) and ``gt_classes`` (M,).
        """
        gt_boxes = [instances.gt_boxes.tensor for instances in gt_instances]
        gt_classes = torch.cat([instances.gt_classes for instances in gt_instances])
        num_locations = sum(level.shape[0] * level.shape[1] for level in anchors)
        first_location = torch.arange(len(gt_instances), device=gt_classes.device) * num_locations
        anchor_location = (_anchor_locations(anchors) + first_location[:, None]).flatten()
        iou, anchor_labels = self._label_anchors(anchors, gt_boxes, gt_classes)
        if self.location_labeler is None:
            locations, best_anchor = self._vote(
                anchor_labels, iou, anchor_location, len(gt_instances) * num_locations
            )
        else:
            centers = [
                (level[..., 0, :2] + level[..., 0, 2:]).flatten(0, 1) / 2 for level in anchors
            ]
            locations = self.location_labeler.label_images(centers, gt_instances)
            best_anchor = _best_anchor_of_location(
                anchors, anchor_location, locations, torch.cat(gt_boxes)
            )
        box_gt_index = self._choose_regressed(
            anchor_labels, locations, anchor_location, best_anchor
        )
        return SemiAnchoredAssignment(locations, anchor_labels, box_gt_index, anchor_location)

    def _label_anchors(
        self, anchors: Sequence[Tensor], gt_boxes: Sequence[Tensor], gt_classes: Tensor
    ) -> tuple[Tensor, Assignment]:
        match = match_images(anchors, gt_boxes)
        iou = match.iou
        is_positive = iou >= self.foreground_from
        if self.low_quality_matches:
            is_positive |= low_quality_anchors(anchors, gt_boxes, match, self.foreground_from)
        labels = torch.full_like(match.gt_index, self.num_classes)
        labels[(iou >= self.background_below) & (iou < self.foreground_from)] = -1
        gt_index = torch.full_like(labels, -1)
        positives = is_positive.nonzero()[:, 0]
        gt_index[positives] = match.gt_index[positives]
        labels[positives] = gt_classes[gt_index[positives]]
        return iou, Assignment(labels, gt_index, is_positive.float())

    def _vote(
        self, anchors: Assignment, iou: Tensor, anchor_location: Tensor, num_locations: int
    ) -> tuple[Assignment, Tensor]:
        """Eq. 1 or eq. 4: the class most of a location's anchors have, if it beats background.

        Equal counts are decided by the highest IoU, then by the lower class. Also returns (P,)
        the anchor that decides, whose box is the location's; -1 at locations without one.
        """
        positives = (anchors.gt_index >= 0).nonzero()[:, 0]
        group = anchor_location[positives] * self.num_classes + anchors.labels[positives]
        order = _sort_by(-iou[positives], group)
        positives, group = positives[order], group[order]
        group, counts = torch.unique_consecutive(group, return_counts=True)
        best_of_group = positives[counts.cumsum(0) - counts]
        location = group // self.num_classes
        order = _sort_by(-iou[best_of_group], -counts, location)
        winners = order[_is_first(location[order])]
        if self.gamma > 0:
            num_background = torch.bincount(
                anchor_location[anchors.labels == self.num_classes], minlength=num_locations
            )[location[winners]]
            share = self.gamma.denominator - self.gamma.numerator
            wins = share * counts[winners] > self.gamma.numerator * num_background
            winners = winners[wins]
        labels = torch.full((num_locations,), self.num_classes, device=iou.device)
        if self.ignore_locations and self.background_below < self.foreground_from:
            labels[anchor_location[anchors.labels == -1]] = -1
            labels[location] = self.num_classes
        best_anchor = torch.full_like(labels, -1)
        best_anchor[location[winners]] = best_of_group[winners]
        labels[location[winners]] = anchors.labels[best_of_group[winners]]
        gt_index = torch.full_like(labels, -1)
        gt_index[location[winners]] = anchors.gt_index[best_of_group[winners]]
        return Assignment(labels, gt_index, (gt_index >= 0).float()), best_anchor

    def _choose_regressed(
        self, anchors: Assignment, locations: Assignment, anchor_location: Tensor, best: Tensor
    ) -> Tensor:
        """(R,) the box each regressed anchor learns, -1 for anchors that learn none."""
        location_gt = locations.gt_index[anchor_location]
        at_positive = location_gt >= 0
        has_class = (anchors.gt_index >= 0) & at_positive
        has_class &= anchors.labels == locations.labels[anchor_location]
        is_best = torch.zeros_like(at_positive)
        is_best[best[best >= 0]] = True
        if self.regressed_anchors == "all":
            chosen = at_positive
        elif self.regressed_anchors == "best":
            chosen = is_best
        else:
            served = torch.zeros_like(locations.labels, dtype=torch.bool)
            served[anchor_location[has_class]] = True
            chosen = has_class | (is_best & ~served[anchor_location])
        target = location_gt
        if self.regression_target == "anchor":
            target = torch.where(has_class, anchors.gt_index, location_gt)
        return torch.where(chosen, target, -1)


def _anchor_locations(anchors: Sequence[Tensor]) -> Tensor:
    parts, start = [], 0
    for level in anchors:
        height, width, num_anchors, _ = level.shape
        index = torch.arange(start, start + height * width, device=level.device)
        parts.append(index.repeat_interleave(num_anchors))
        start += height * width
    return torch.cat(parts)


def _best_anchor_of_location(
    anchors: Sequence[Tensor], anchor_location: Tensor, locations: Assignment, gt_boxes: Tensor
) -> Tensor:
    """(P,) at each positive location the anchor with the highest IoU with the location's box."""
    best = torch.full_like(locations.labels, -1)
    candidates = (locations.gt_index[anchor_location] >= 0).nonzero()[:, 0]
    boxes = torch.cat([level.flatten(0, 2) for level in anchors])
    boxes = boxes[candidates % len(boxes)]
    location = anchor_location[candidates]
    iou = aligned_iou(boxes, gt_boxes[locations.gt_index[location]])
    order = _sort_by(-iou, location)
    first = order[_is_first(location[order])]
    best[location[first]] = candidates[first]
    return best


def _sort_by(*keys: Tensor) -> Tensor:
    """Indices that sort by the last key, equal ones by the key before it, and so on."""
    order = keys[0].argsort(stable=True)
    for key in keys[1:]:
        order = order[key[order].argsort(stable=True)]
    return order


def _is_first(values: Tensor) -> Tensor:
    """True where a sorted 1-D tensor shows a value for the first time."""
    is_first = torch.ones_like(values, dtype=torch.bool)
    is_first[1:] = values[1:] != values[:-1]
    return is_first
