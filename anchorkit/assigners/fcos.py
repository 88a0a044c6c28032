"""Label rule of FCOS (Tian et al., 2019), with the shrunk boxes of the Semi-Anchored Table 3."""

from collections.abc import Sequence

import torch
from detectron2.structures import Instances
from torch import Tensor

from ..geometry import box_area
from .base import Assignment


class FCOSAssigner:
    """A location inside a box of its level's size belongs to it; the smallest box wins.

    Args:
        num_classes: C; the label C is background.
        ranges: upper ends, in pixels, of all levels but the last: a location of level i can belong
            to a box if the largest distance to its sides is above ``ranges[i - 1]`` and at most
            ``ranges[i]``.
        shrink: locations must lie in the box scaled by this factor around its centre; 1 is FCOS.
    """

    def __init__(self, *, num_classes: int, ranges: Sequence[float], shrink: float = 1.0):
        self.num_classes = num_classes
        self.ranges = tuple(ranges)
        self.shrink = shrink

    @torch.no_grad()
    def __call__(self, locations: Sequence[Tensor], gt_instances: Instances) -> Assignment:
        """Label one image.

        Args:
            locations: for each level (P_l, 2), x and y in pixels.
            gt_instances: with ``gt_boxes`` (M boxes) and ``gt_classes`` (M,).

        Raises:
            ValueError: the number of levels does not fit ``ranges``.
        """
        if len(locations) != len(self.ranges) + 1:
            raise ValueError(
                f"{len(locations)} feature levels need {len(locations) - 1} range ends, "
                f"got {len(self.ranges)}: {self.ranges}"
            )
        boxes = gt_instances.gt_boxes.tensor
        points = torch.cat(list(locations))
        labels = torch.full((len(points),), self.num_classes, device=points.device)
        if len(boxes) == 0:
            return Assignment(labels, torch.full_like(labels, -1), torch.zeros_like(points[:, 0]))
        lower, upper = self._range_of_location(locations)
        side = torch.cat([points[:, None] - boxes[:, :2], boxes[:, 2:] - points[:, None]], dim=2)
        largest = side.amax(2)
        margin = (boxes[:, 2:] - boxes[:, :2]) * (1 - self.shrink) / 2
        is_inside = ((side[..., :2] > margin) & (side[..., 2:] > margin)).all(2)
        can_match = is_inside & (largest > lower[:, None]) & (largest <= upper[:, None])
        area, gt_index = torch.where(can_match, box_area(boxes), torch.inf).min(1)
        is_positive = area.isfinite()
        labels = torch.where(is_positive, gt_instances.gt_classes[gt_index], labels)
        gt_index = torch.where(is_positive, gt_index, -1)
        return Assignment(labels, gt_index, is_positive.float())

    def _range_of_location(self, locations: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        ends = locations[0].new_tensor([0.0, *self.ranges, torch.inf])
        repeats = torch.tensor([len(level) for level in locations], device=ends.device)
        return ends[:-1].repeat_interleave(repeats), ends[1:].repeat_interleave(repeats)
