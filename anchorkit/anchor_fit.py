"""Anchor tables fitted to the boxes of a data set."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .modeling.anchor_generator import ssd_shapes

_STEPS = 200
_LEARNING_RATE = 0.03
_SCALES = 2.0 ** torch.linspace(-2, 2, 33)
# What a box lacks to this IoU counts more than what others have above it: boxes above 0.5 are
# what makes anchors positive.
_WANTED_IOU, _WEIGHT = 0.55, 10.0

Rows = Sequence[Sequence[float]]


class AnchorTable:
    """Sizes and aspect ratios as a config has them, and the anchors that they make.

    Args:
        sizes: rows of sizes, pixels.
        ratios: rows of aspect ratios.
        strides: of the L levels, pixels.
        offset: of the first location from the image's corner, in strides.
    """

    def __init__(self, sizes: Rows, ratios: Rows, strides: Sequence[float], offset: float = 0.5):
        self.log_sizes = [torch.tensor(row, dtype=torch.float32).log() for row in sizes]
        self.log_ratios = [torch.tensor(row, dtype=torch.float32).log() for row in ratios]
        self.strides = list(strides)
        self.offset = offset

    def shapes(self) -> list[Tensor]:
        """Width and height (K, 2) of the anchors at a location of each level."""
        raise NotImplementedError

    def keys(self) -> dict:
        """The table as keys of a config, below "MODEL"."""
        raise NotImplementedError

    def limits(self) -> list[tuple[float, float]]:
        """For each row of sizes the logarithms between which it does not meet other levels'."""
        return _limits(self.log_sizes)

    def ratio_quantiles(self, boxes: Tensor) -> list[Tensor]:
        """Rows of ratios as long as the table's, evenly spread over those of the boxes (M, 4)."""
        logs = self._as_ratio(((boxes[:, 3] - boxes[:, 1]) / (boxes[:, 2] - boxes[:, 0])).log())
        return [logs.quantile((torch.arange(len(r)) + 0.5) / len(r)) for r in self.log_ratios]

    def _as_ratio(self, log_height_to_width: Tensor) -> Tensor:
        return log_height_to_width

    def state(self) -> list[Tensor]:
        """Copies of the logarithms: rows of sizes, then rows of ratios."""
        return [row.detach().clone() for row in (*self.log_sizes, *self.log_ratios)]

    def load(self, state: Sequence[Tensor]) -> None:
        """Take the rows of :meth:`state`."""
        number = len(self.log_sizes)
        self.log_sizes, self.log_ratios = list(state[:number]), list(state[number:])

    def sizes(self) -> list[list[float]]:
        return [_plain(row) for row in self.log_sizes]

    def ratios(self) -> list[list[float]]:
        return [_plain(row) for row in self.log_ratios]


class GridAnchorTable(AnchorTable):
    """detectron2's: each size with each ratio, height : width. One row stands for all levels."""

    def shapes(self) -> list[Tensor]:
        shapes = []
        for level in range(len(self.strides)):
            size = self.log_sizes[min(level, len(self.log_sizes) - 1)].exp()[:, None]
            root = (self.log_ratios[min(level, len(self.log_ratios) - 1)] / 2).exp()
            shapes.append(torch.stack([size / root, size * root], dim=2).view(-1, 2))
        return shapes

    def keys(self) -> dict:
        sizes, ratios = (list(map(sorted, rows)) for rows in (self.sizes(), self.ratios()))
        return {"ANCHOR_GENERATOR": {"SIZES": sizes, "ASPECT_RATIOS": ratios}}


class SSDAnchorTable(AnchorTable):
    """SSD's: one row of L + 1 sizes, and L rows of ratios; see ``SSDAnchorGenerator``.

    Args:
        largest: upper bound of widths and heights, pixels.
    """

    def __init__(
        self, sizes: Sequence[float], ratios: Rows, strides: Sequence[float],
        largest: float = math.inf,
    ):  # fmt: skip
        super().__init__([sizes], ratios, strides)
        self.largest = largest

    def shapes(self) -> list[Tensor]:
        sizes = self.log_sizes[0].exp()
        return [
            # A ratio and its inverse are the same pair of anchors.
            ssd_shapes(sizes[level], sizes[level + 1], ratios.abs().exp()).clamp(max=self.largest)
            for level, ratios in enumerate(self.log_ratios)
        ]

    def _as_ratio(self, log_height_to_width: Tensor) -> Tensor:
        return log_height_to_width.abs()

    def limits(self) -> list[tuple[Tensor, Tensor]]:
        low, high = zip(*_limits(self.log_sizes[0][:, None]), strict=True)
        return [(torch.tensor(low), torch.tensor(high))]

    def keys(self) -> dict:
        ratios = [sorted(max(ratio, 1 / ratio) for ratio in row) for row in self.ratios()]
        ratios = [[round(ratio, 4) for ratio in row] for row in ratios]
        return {"SSD": {"SIZES": self.sizes()[0], "ASPECT_RATIOS": ratios}}


def best_overlaps(table: AnchorTable, boxes: Tensor, image_sizes: Tensor) -> Tensor:
    """IoU of each box with its best anchor, without building the grids.

    On each level the best location of a box is the one nearest to its centre, whatever the
    anchor's shape is.

    Args:
        table: of the anchors.
        boxes: (M, 4), pixels.
        image_sizes: (M, 2), width and height of each box's image in pixels.

    Returns:
        (M,) float32, with gradients to the table's rows.
    """
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    best = []
    for stride, shapes in zip(table.strides, table.shapes(), strict=True):
        last = (image_sizes / stride - 1e-3).ceil() - 1
        place = (centers / stride - table.offset).round().clamp(min=0).minimum(last)
        distance = (centers - (place + table.offset) * stride).abs()[:, None]
        anchor = shapes / 2  # (K, 2)
        overlap = (
            torch.minimum(half[:, None], distance + anchor)
            - torch.maximum(-half[:, None], distance - anchor)
        ).clamp(min=0)
        intersection = overlap.prod(dim=2)
        union = 4 * (half.prod(dim=1)[:, None] + anchor.prod(dim=1)) - intersection
        best.append((intersection / union).amax(dim=1))
    return torch.stack(best).amax(dim=0)


def fit_anchors(table: AnchorTable, boxes: Tensor, image_sizes: Tensor) -> None:
    """Change a table, in place, so that the IoU of boxes with their best anchors is high.

    What is raised is the mean over the boxes, of which those below 0.55 count more. The table is
    scaled as a whole first, with its own ratios and with quantiles of the boxes'; then each size
    and ratio follows the gradient, the sizes of a level between those of its neighbours. The
    counts of sizes and ratios stay, and so do the shapes of a model's weights. The outcome depends
    on the arguments alone, and is the given table if none is found to be better.

    Args:
        table, boxes, image_sizes: as in :func:`best_overlaps`; at least one box.
    """
    with torch.no_grad():
        found = [(float(_score(table, boxes, image_sizes)), table.state())]
    log_sizes = table.log_sizes
    for log_ratios in (table.log_ratios, table.ratio_quantiles(boxes)):
        _, scaled = _best_scale(table, log_sizes, log_ratios, boxes, image_sizes)
        table.load(scaled)
        found.append(_climb(table, boxes, image_sizes))
    table.load(max(found, key=lambda one: one[0])[1])


def _score(table: AnchorTable, boxes: Tensor, image_sizes: Tensor) -> Tensor:
    overlaps = best_overlaps(table, boxes, image_sizes)
    return (overlaps - _WEIGHT * (_WANTED_IOU - overlaps).clamp(min=0)).mean()


@torch.no_grad()
def _best_scale(
    table: AnchorTable, log_sizes: list[Tensor], log_ratios: list[Tensor], boxes: Tensor,
    image_sizes: Tensor,
) -> tuple[float, list[Tensor]]:  # fmt: skip
    found = []
    for scale in _SCALES.log():
        table.load([*(row + scale for row in log_sizes), *log_ratios])
        found.append((float(_score(table, boxes, image_sizes)), table.state()))
    return max(found, key=lambda one: one[0])


def _climb(table: AnchorTable, boxes: Tensor, image_sizes: Tensor) -> tuple[float, list[Tensor]]:
    """The best table on the way up the gradient, from the table as it is."""
    limits, rows = table.limits(), [row.requires_grad_() for row in table.state()]
    table.load(rows)
    optimizer = torch.optim.Adam(rows, lr=_LEARNING_RATE)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, _STEPS)
    best = (-math.inf, table.state())
    for _ in range(_STEPS):
        score = _score(table, boxes, image_sizes)
        if score.item() > best[0]:
            best = (score.item(), table.state())
        optimizer.zero_grad()
        (-score).backward()
        optimizer.step()
        with torch.no_grad():
            for row, (low, high) in zip(table.log_sizes, limits, strict=True):
                row.clamp_(low, high)
        decay.step()
    return best


def _limits(rows: Sequence[Tensor]) -> list[tuple[float, float]]:
    """For each row the middles to its neighbours; none beyond the first and the last."""
    lows = [float(row.min()) for row in rows]
    highs = [float(row.max()) for row in rows]
    middles = [(high + low) / 2 for high, low in zip(highs, lows[1:], strict=False)]
    return [
        (min(own_low, low), max(own_high, high))  # rows of a table may overlap from the start
        for own_low, own_high, low, high in zip(
            lows, highs, [-math.inf, *middles], [*middles, math.inf], strict=True
        )
    ]


def _plain(logs: Tensor) -> list[float]:
    return [round(value, 4) for value in logs.detach().exp().tolist()]
