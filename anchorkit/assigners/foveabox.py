"""Label rule of FoveaBox (Kong et al., 2020)."""

from torch import Tensor

from ..geometry import box_area, box_size
from .points import InsidePairs, PointAssigner


class FoveaBoxAssigner(PointAssigner):
    """A location in the fovea, the middle of a box of its level's size, belongs to the box.

    The size of a box is the square root of its area; a level takes ``lower <= size <= upper``, and
    ranges of neighbouring levels overlap. Of several boxes the smallest wins.

    Args:
        sigma: side of the fovea relative to the box's.
        arguments: see :class:`PointAssigner`.
    """

    def __init__(self, *, sigma: float = 0.4, **arguments):
        super().__init__(**arguments)
        self.sigma = sigma

    def level_candidates(self, boxes: Tensor) -> Tensor:
        lower, upper = self.bounds(boxes)
        size = box_area(boxes).sqrt()
        return (size >= lower[:, None]) & (size <= upper[:, None])

    def pair_scores(self, pairs: InsidePairs, boxes: Tensor) -> Tensor:
        # Distances to opposite sides differ by twice the distance to the centre.
        off_center = (pairs.ltrb[:, 2:] - pairs.ltrb[:, :2]).abs()
        return (off_center <= self.sigma * box_size(boxes)[pairs.box]).all(dim=1).float()
