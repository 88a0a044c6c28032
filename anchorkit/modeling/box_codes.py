"""How four outputs of a location become the distances to the sides of its box."""

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from ..geometry import boxes_from_ltrb, ltrb_distances
from ..losses import BOX_LOSSES, box_iou_loss

# exp of larger outputs is a box far outside every image, and soon not finite.
_MAX_EXPONENT = math.log(1e5)


class DistanceCode:
    """Distances are exp(x) or ReLU(x) in a unit of length of the level.

    Args:
        units: of each level, pixels.
        activation: "exp" or "relu".
        loss: an IoU loss of the decoded boxes, see :func:`box_iou_loss`.
    """

    def __init__(self, *, units: Sequence[float], activation: str, loss: str):
        if activation not in ("exp", "relu"):
            raise ValueError(f"activation is {activation!r}; expected 'exp' or 'relu'")
        if loss not in BOX_LOSSES:
            raise ValueError(f"loss is {loss!r}; expected one of {BOX_LOSSES}")
        self.units = tuple(map(float, units))
        self.activation = activation
        self.loss = loss

    def decode(self, outputs: Tensor, points: Tensor, units: Tensor) -> Tensor:
        """Boxes (..., Q, 4) float32 of locations ``points`` (Q, 2) with ``outputs`` (..., Q, 4).

        ``units`` (Q,) holds the unit of each location's level.
        """
        outputs = outputs.float()
        if self.activation == "exp":
            distances = outputs.clamp(max=_MAX_EXPONENT).exp()
        else:
            distances = outputs.relu()
        return boxes_from_ltrb(points, distances * units[:, None])

    def losses(self, outputs: Tensor, points: Tensor, units: Tensor, gt_boxes: Tensor) -> Tensor:
        """(Q,) float32; the arguments are those of :meth:`decode`."""
        return box_iou_loss(self.decode(outputs, points, units), gt_boxes, self.loss)


class FoveaCode(DistanceCode):
    """FoveaBox: distances are exp(x) base edges, learned with smooth L1 on their logarithms.

    Args:
        base_edges: of each level, pixels.
        beta: where smooth L1 turns from a square into a line.
    """

    # Base edges that a target may be small or large; others are pulled to the next of these.
    _LARGEST = 16.0

    def __init__(self, *, base_edges: Sequence[float], beta: float):
        super().__init__(units=base_edges, activation="exp", loss="iou_log")
        self.beta = beta

    def losses(self, outputs: Tensor, points: Tensor, units: Tensor, gt_boxes: Tensor) -> Tensor:
        relative = ltrb_distances(points, gt_boxes) / units[:, None]
        targets = relative.clamp(1 / self._LARGEST, self._LARGEST).log()
        losses = F.smooth_l1_loss(outputs.float(), targets, beta=self.beta, reduction="none")
        return losses.sum(dim=1)
