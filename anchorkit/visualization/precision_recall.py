"""Precision over recall of a detector: a plot of all classes together and one of each."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from .canvas import INK, NEUTRAL, PALETTE, Page

# The plots of more classes would be too many to look at: those with the lowest area are shown.
MAX_CLASSES = 99

_DPI = 110
_SIDE = 96.0
_MARGIN, _TICKS, _GAP, _HEADING, _TOP = 8.0, 24.0, 12.0, 13.0, 36.0
_LEAST_WIDTH = 360.0
_TITLE, _NAME, _TICK = 10.0, 8.0, 6.5


def draw_precision_recall(
    recalls: np.ndarray,
    precision: Mapping[float, np.ndarray],
    class_names: Sequence[str],
    points: Sequence[tuple[float, float]],
    *,
    title: str,
) -> np.ndarray:
    """Draw the mean curve of all classes and that of each, with the area under it in per cent.

    Args:
        recalls: (R,) in [0, 1].
        precision: by IoU (R, C) in [0, 1]; not a number for a class without objects.
        class_names: C of them.
        points: recall and precision at the score threshold of each class and, last, of all
            together; not a number where there is none.
        title: a line above all plots.

    Returns:
        uint8 RGB (H, W, 3).
    """
    shown = _shown(precision, len(class_names))
    if len(shown) < len(class_names):
        title += f" (the {len(shown)} of {len(class_names)} classes with the lowest area)"
    number = len(shown) + 1
    columns = math.ceil(math.sqrt(1.4 * number))
    width = max(_LEAST_WIDTH, _TICKS + columns * (_SIDE + _GAP))
    row_height = _HEADING + _SIDE + _GAP
    page = Page(width, _TOP + -(-number // columns) * row_height + _MARGIN, _DPI)
    title = page.shorten(title, _TITLE, width - 2 * _MARGIN, bold=True)
    page.text(_MARGIN, 5, title, _TITLE, bold=True)
    _write_legend(page, list(precision))
    # One system of axes for the whole page: one for each plot would take many times as long.
    axes = page.panel(0, 0, width, (0, 0, width, page.height)).axes
    axes.axis("off")
    for place in range(number):
        row, column = divmod(place, columns)
        plot = _Plot(axes, _TICKS + column * (_SIDE + _GAP), _TOP + row * row_height + _HEADING)
        plot.frame(has_left=column == 0, has_bottom=place + columns >= number)
        # The last of the points is that of all classes.
        index = -1 if place == 0 else shown[place - 1]
        name = "all classes" if place == 0 else str(class_names[index])
        name = page.shorten(name, _NAME, _SIDE, bold=True)
        plot.text(0, 1.08, name, color=INK, weight="bold", va="center_baseline")
        for line, values in enumerate(precision.values()):
            plot.curve(recalls, values if place == 0 else values[:, [index]], line)
        plot.point(*points[index])
    return page.array()


def _shown(precision: Mapping[float, np.ndarray], num_classes: int) -> list[int]:
    """Classes that get a plot, in their order; of those without objects only if there is room."""
    area = next(iter(precision.values())).mean(axis=0)
    return sorted(np.argsort(area, kind="stable")[: min(num_classes, MAX_CLASSES)].tolist())


def _write_legend(page: Page, ious: Sequence[float]) -> None:
    x, y = _MARGIN, 19.0
    for colour, iou in zip(PALETTE, ious, strict=False):
        page.marks(x, y + 5.5).line(0, 12, 0, colour, linewidth=1.8)
        text = f"IoU {iou:g}, area in %"
        page.text(x + 16, y, text, _NAME)
        x += 30 + page.text_width(text, _NAME)
    page.marks(x, y + 5.5).dot(3, 0, 4.5, PALETTE[0])
    page.text(x + 10, y, "at the score threshold", _NAME)


class _Plot:
    """A square plot, with both axes from 0 to 1, whose top left corner is (left, top)."""

    def __init__(self, axes: Axes, left: float, top: float):
        self.axes, self.left, self.top = axes, left, top

    def frame(self, *, has_left: bool, has_bottom: bool) -> None:
        self._line([0, 1, 1, 0, 0], [0, 0, 1, 1, 0], color=NEUTRAL, linewidth=0.5, zorder=3)
        cross = [0.5, 0.5, np.nan, 0, 1], [0, 1, np.nan, 0.5, 0.5]
        self._line(*cross, color="#E6E6E6", linewidth=0.5)
        for tick in (0, 0.5, 1):
            label = {"color": INK, "fontsize": _TICK}
            if has_left:
                self.text(-0.03, tick, f"{tick:g}", ha="right", va="center_baseline", **label)
            if has_bottom:
                self.text(tick, -0.03, f"{tick:g}", ha="center", va="top", **label)

    def curve(self, recalls: np.ndarray, values: np.ndarray, line: int) -> None:
        """The mean of the values (R, .) that are numbers."""
        values = values[:, ~np.isnan(values).any(axis=0)]
        if values.shape[1] == 0:
            if line == 0:
                self.text(0.5, 0.5, "no objects", color=NEUTRAL, ha="center", va="center")
            return
        mean = values.mean(axis=1)
        self._line(recalls, mean, color=PALETTE[line], linewidth=1.4, zorder=4)
        self.text(0.06, 0.17 - 0.11 * line, f"{100 * mean.mean():.1f}", color=PALETTE[line],
                  weight="bold", zorder=5)  # fmt: skip

    def point(self, recall: float, precision: float) -> None:
        self._line([recall], [precision], marker="o", markersize=3.8, color=PALETTE[0], zorder=5)

    def text(self, x: float, y: float, text: str, *, fontsize: float = _NAME, **style) -> None:
        place = self.left + _SIDE * x, self.top + _SIDE * (1 - y)
        self.axes.text(*place, text, fontsize=fontsize, parse_math=False, **style)

    def _line(self, xs, ys, **style) -> None:
        xs, ys = np.asarray(xs, dtype=float), np.asarray(ys, dtype=float)
        self.axes.plot(self.left + _SIDE * xs, self.top + _SIDE * (1 - ys), **style)
