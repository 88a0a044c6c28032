"""What the anchor-free label rules share: pairs of a location and a box around it, and winners."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.structures import Instances
from torch import Tensor

from ..geometry import box_area, ltrb_distances
from .base import Assigner, Assignment


class InsidePairs(NamedTuple):
    """Q pairs of a location and a box that it lies strictly inside.

    Attributes:
        location, box, level: (Q,) int64: index over the locations and over the boxes of all
            images, and of the level.
        ltrb: (Q, 4) distances from the location to the box's sides, pixels, all above 0.
    """

    location: Tensor
    box: Tensor
    level: Tensor
    ltrb: Tensor


class PointAssigner(Assigner):
    """A location belongs to the box around it that scores highest there; a subclass scores.

    Equal scores are decided by the smaller area, then by the lower index.

    Args:
        num_classes: C; the label C is background.
        size_ranges: for each level the lower and upper end of the box sizes it takes, in pixels;
            see :func:`level_size_ranges`.
        strides: of the levels, in pixels.
        center_sampling_radius: only locations nearer to the box's centre than this many strides,
            along x and along y, may belong to it; 0 puts no limit.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        size_ranges: Sequence[tuple[float, float]],
        strides: Sequence[float] | None = None,
        center_sampling_radius: float = 0.0,
    ):
        if center_sampling_radius > 0 and strides is None:
            raise ValueError("center sampling needs the strides of the levels; got none")
        if strides is not None and len(strides) != len(size_ranges):
            raise ValueError(
                f"expected one size range for each of {len(strides)} strides, got {size_ranges}"
            )
        self.num_classes = num_classes
        self.size_ranges = tuple((float(lower), float(upper)) for lower, upper in size_ranges)
        self.strides = None if strides is None else tuple(map(float, strides))
        self.center_sampling_radius = center_sampling_radius

    @torch.no_grad()
    def label_images(
        self, locations: Sequence[Tensor], gt_instances: Sequence[Instances]
    ) -> Assignment:
        """Label N images at once.

        Args:
            locations: for each level (P_l, 2), x and y in pixels.
            gt_instances: for each image ``gt_boxes`` (M boxes) and ``gt_classes`` (M,). Boxes
                without width or height, or not finite, get no location.

        Raises:
            ValueError: the number of levels does not fit ``size_ranges``.
        """
        if len(locations) != len(self.size_ranges):
            raise ValueError(
                f"{len(locations)} feature levels need as many size ranges, "
                f"got {len(self.size_ranges)}: {self.size_ranges}"
            )
        boxes = torch.cat([instances.gt_boxes.tensor for instances in gt_instances]).float()
        gt_classes = torch.cat([instances.gt_classes for instances in gt_instances])
        counts = torch.tensor([len(instances) for instances in gt_instances], device=boxes.device)
        image = torch.arange(len(counts), device=boxes.device).repeat_interleave(
            counts, output_size=len(boxes)
        )
        num_locations = sum(len(level) for level in locations)
        pairs = self._inside_pairs(locations, boxes, image * num_locations)
        score = self.pair_scores(pairs, boxes)
        if self.center_sampling_radius > 0:
            # Distances to opposite sides differ by twice the distance to the centre.
            off_center = (pairs.ltrb[:, 2:] - pairs.ltrb[:, :2]).abs() / 2
            reach = self.center_sampling_radius * boxes.new_tensor(self.strides)[pairs.level]
            score = torch.where((off_center < reach[:, None]).all(dim=1), score, 0.0)
        gt_index, score = _winners(pairs, score, boxes, len(gt_instances) * num_locations)
        labels = torch.full_like(gt_index, self.num_classes)
        positive = (gt_index >= 0).nonzero()[:, 0]
        labels[positive] = gt_classes[gt_index[positive]]
        return Assignment(labels, gt_index, score)

    def level_candidates(self, boxes: Tensor) -> Tensor:
        """(L, M) bool: boxes (M, 4) that may get a positive score at some location of a level."""
        raise NotImplementedError

    def pair_scores(self, pairs: InsidePairs, boxes: Tensor) -> Tensor:
        """(Q,) float32 in [0, 1]: the label of each pair's location if the box wins it."""
        raise NotImplementedError

    def bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """(L,) lower and upper ends of the levels' sizes, on the device of ``like``."""
        return like.new_tensor(self.size_ranges).unbind(1)

    def _inside_pairs(
        self, locations: Sequence[Tensor], boxes: Tensor, first_location: Tensor
    ) -> InsidePairs:
        """Pairs of boxes (M, 4) with locations, which count from (M,) for each box."""
        points = torch.cat(list(locations)).float()
        counts = torch.tensor([len(level) for level in locations], device=points.device)
        level_of_location = torch.arange(len(counts), device=points.device).repeat_interleave(
            counts, output_size=len(points)
        )
        # Comparisons of all pairs hold one byte each; distances are for the few that remain.
        x, y = points[:, None].unbind(2)
        x1, y1, x2, y2 = boxes.unbind(1)
        is_inside = (self.level_candidates(boxes) & boxes.isfinite().all(1))[level_of_location]
        for condition in (x > x1, x < x2, y > y1, y < y2):
            is_inside &= condition
        location, box = is_inside.nonzero().unbind(1)
        ltrb = ltrb_distances(points[location], boxes[box])
        level = level_of_location[location]
        return InsidePairs(location + first_location[box], box, level, ltrb)


def level_size_ranges(ends: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """Adjoining ranges from 0 to infinity: [64, 128] gives (0, 64), (64, 128), (128, inf)."""
    bounds = (0.0, *map(float, ends), math.inf)
    return tuple(zip(bounds[:-1], bounds[1:], strict=True))


def _winners(
    pairs: InsidePairs, score: Tensor, boxes: Tensor, num_locations: int
) -> tuple[Tensor, Tensor]:
    """For each location (P,) the winning box, -1 for none, and its score, 0 for none."""
    best = score.new_zeros(num_locations).scatter_reduce(0, pairs.location, score, "amax")
    wins = (score > 0) & (score == best[pairs.location])
    by_area = box_area(boxes).argsort(stable=True)
    rank = torch.empty_like(by_area)
    rank[by_area] = torch.arange(len(boxes), device=boxes.device)
    winner = rank.new_full((num_locations,), len(boxes)).scatter_reduce(
        0, pairs.location[wins], rank[pairs.box[wins]], "amin"
    )
    # Rank M stands for no box.
    return torch.cat([by_area, by_area.new_tensor([-1])])[winner], best
