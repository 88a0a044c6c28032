"""Label rule of FCOS (Tian et al., 2019), with the shrunk boxes of the Semi-Anchored Table 3."""

from torch import Tensor

from ..geometry import box_size
from .points import InsidePairs, PointAssigner


class FCOSAssigner(PointAssigner):
    """A location inside a box of its level's size belongs to it; the smallest box wins.

    The size of a box at a location is the largest distance to its sides, m; a level takes
    ``lower < m <= upper``.

    Args:
        shrink: locations must lie in the box scaled by this factor around its centre; 1 is FCOS.
        arguments: see :class:`PointAssigner`.
    """

    def __init__(self, *, shrink: float = 1.0, **arguments):
        super().__init__(**arguments)
        self.shrink = shrink

    def level_candidates(self, boxes: Tensor) -> Tensor:
        return largest_distance_candidates(boxes, *self.bounds(boxes))

    def pair_scores(self, pairs: InsidePairs, boxes: Tensor) -> Tensor:
        lower, upper = (bound[pairs.level] for bound in self.bounds(boxes))
        largest = pairs.ltrb.amax(dim=1)
        matches = (largest > lower) & (largest <= upper)
        if self.shrink < 1:
            margin = box_size(boxes) * (1 - self.shrink) / 2
            matches &= (pairs.ltrb > margin.repeat(1, 2)[pairs.box]).all(dim=1)
        return matches.float()


def largest_distance_candidates(boxes: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """(L, M) bool: boxes (M, 4) with which a largest side distance within the bounds can occur.

    Inside a box it lies between half of the longer side and the longer side.
    """
    longer = box_size(boxes).amax(dim=1)
    return (longer > lower[:, None]) & (longer / 2 <= upper[:, None])
