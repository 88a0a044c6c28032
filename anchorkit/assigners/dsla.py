"""Labels of Dynamic Smooth Label Assignment (DSLA): eqs 3 to 7, before they meet predictions."""

from torch import Tensor

from ..geometry import box_area, centerness
from .fcos import largest_distance_candidates
from .points import InsidePairs, PointAssigner


class DSLAAssigner(PointAssigner):
    """A location's label is its centerness times how well the box's size suits the level.

    Args:
        kappa: the levels' ranges are relaxed by this share of their ends; 0 keeps them hard.
        core_zone: the label in the middle of a box, one stride wide, is that of its centre.
        size: what is compared with the ranges: "max_distance", the largest distance to the box's
            sides (FCOS), or "sqrt_area", the square root of the box's area (FoveaBox).
        arguments: see :class:`PointAssigner`; the strides are needed.
    """

    def __init__(
        self,
        *,
        kappa: float = 0.2,
        core_zone: bool = True,
        size: str = "max_distance",
        **arguments,
    ):
        super().__init__(**arguments)
        if self.strides is None:
            raise ValueError("the core zone needs the strides of the levels; got none")
        if not 0 <= kappa < 1:
            raise ValueError(f"kappa must lie in [0, 1), got {kappa}")
        if size not in ("max_distance", "sqrt_area"):
            raise ValueError(f"size is {size!r}; expected 'max_distance' or 'sqrt_area'")
        self.kappa = kappa
        self.core_zone = core_zone
        self.size = size

    def level_candidates(self, boxes: Tensor) -> Tensor:
        lower, upper = self.bounds(boxes)
        lower, upper = lower * (1 - self.kappa), upper * (1 + self.kappa)
        if self.size == "max_distance":
            return largest_distance_candidates(boxes, lower, upper)
        size = box_area(boxes).sqrt()
        return (size >= lower[:, None]) & (size <= upper[:, None])

    def pair_scores(self, pairs: InsidePairs, boxes: Tensor) -> Tensor:
        lower, upper = (bound[pairs.level] for bound in self.bounds(boxes))
        if self.size == "max_distance":
            suits = interval_score(pairs.ltrb.amax(dim=1), lower, upper, self.kappa)
        elif self.kappa == 0:
            # FoveaBox's ranges are closed at both ends, and the candidates respect them.
            suits = 1.0
        else:
            suits = interval_score(box_area(boxes).sqrt()[pairs.box], lower, upper, self.kappa)
        label = centerness(pairs.ltrb)
        if self.core_zone:
            stride = boxes.new_tensor(self.strides)[pairs.level]
            label = label.masked_fill(in_core_zone(pairs.ltrb, stride), 1.0)
        return label * suits


def interval_score(size: Tensor, lower: Tensor, upper: Tensor, kappa: float) -> Tensor:
    """Eqs 3 and 4: 1 for sizes within a level's range, falling linearly to 0 outside of it.

    The ramps end at ``lower (1 - kappa)`` and ``upper (1 + kappa)``, so that bounds of 0 and
    infinity have none. Eq. 4 as printed has both ramps turned round; this is the text's version.

    Args:
        size: (...), pixels, above 0.
        lower, upper: (...), pixels; 0 and infinity are allowed.
        kappa: in [0, 1); 0 gives the hard rule ``lower < size <= upper``.

    Returns:
        (...) in [0, 1].
    """
    if kappa == 0:
        return ((size > lower) & (size <= upper)).float()
    # In this form both are exactly 1 at the old bounds, where rounding must not break ties.
    rising = 1 - (lower - size) / (lower * kappa)
    falling = 1 - (size - upper) / (upper * kappa)
    return rising.minimum(falling.masked_fill(upper.isinf(), 1.0)).clamp(0, 1)


def in_core_zone(ltrb: Tensor, stride: Tensor) -> Tensor:
    """Eq. 5: whether locations inside a box are at most half a stride from its centre.

    Distances to opposite sides differ by twice the distance to the centre.

    Args:
        ltrb: (Q, 4), pixels.
        stride: (Q,), of the location's level, pixels.
    """
    return ((ltrb[:, 2:] - ltrb[:, :2]).abs() <= stride[:, None]).all(dim=1)
