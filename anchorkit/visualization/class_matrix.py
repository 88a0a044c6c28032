"""Tables of colours with a row and a column for each class, side by side on one scale."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.colors import Normalize

from .canvas import INK, NEUTRAL, Page

# Up to here texts are written into the cells, which are large enough for it.
NUMBERED_CLASSES = 20
# From here on cells are too small for a label each: every second class has one, or every third ...
LABELLED_CLASSES = 110

_DPI = 180
_MARGIN = 10.0
_TITLE_SIZE = 9.0
_TITLE_HEIGHT = 16.0
# A title has its room even where the matrix below it is small.
_LEAST_WIDTH = 130.0
_GAP = 14.0
_BAR_WIDTH, _BAR_GAP, _BAR_LABELS = 9.0, 12.0, 30.0
_TICK, _AXIS_TITLE = 5.0, 18.0
_LONGEST_NAME = 110.0
_COLOURS = "Blues"
_EMPTY = "#EFEFEF"


@dataclass(frozen=True)
class ClassMatrix:
    """What one table shows.

    Attributes:
        title: the line above it.
        shares: (K, K) in [0, 1]; what is not a number is grey.
        texts: K rows of K texts for the cells; "" for none.
    """

    title: str
    shares: np.ndarray
    texts: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Scale:
    """How shares become colours, and what is written beside the axes.

    Attributes:
        norm: from shares to the range of colours.
        ticks: of the colour bar, with their texts.
        rows, columns: what the classes of the rows and of the columns are.
    """

    norm: Normalize
    ticks: dict[float, str]
    rows: str
    columns: str


def draw_matrices(
    matrices: Sequence[ClassMatrix], class_names: Sequence[str], scale: Scale
) -> np.ndarray:
    """Draw tables beside each other, with one colour bar.

    Args:
        matrices: at least one.
        class_names: K of them; long ones are shortened in the middle.
        scale: of all of them.

    Returns:
        uint8 RGB (H, W, 3); wide enough that a label is at least 10 pixels high.
    """
    num_classes = len(class_names)
    cell, size = _cell_size(num_classes)
    side = cell * num_classes
    labels, room = _labels(class_names, size)
    width = max(side, _LEAST_WIDTH)
    first_left = _MARGIN + room
    right = first_left + len(matrices) * (width + _GAP) - _GAP
    top = _MARGIN + _TITLE_HEIGHT
    page = Page(right + _BAR_GAP + _BAR_WIDTH + _BAR_LABELS + _MARGIN, top + side + room + 4, _DPI)
    for index, matrix in enumerate(matrices):
        left = first_left + index * (width + _GAP)
        panel = page.panel(left + width - side, top, side, (0, 0, num_classes, num_classes))
        image = panel.axes.imshow(
            np.ma.masked_invalid(matrix.shares), norm=scale.norm,
            cmap=matplotlib.colormaps[_COLOURS].with_extremes(bad=_EMPTY),
            extent=(0, num_classes, num_classes, 0), interpolation="nearest", aspect="auto",
        )  # fmt: skip
        _label(panel.axes, labels, size, scale, has_rows=index == 0)
        if num_classes <= NUMBERED_CLASSES:
            _write(panel.axes, matrix, scale.norm, cell)
        _separate(panel.axes, num_classes)
        # One title alone may begin above the names of the rows, and end above the bar.
        start, end = (left, left + width) if len(matrices) > 1 else (_MARGIN, page.width - _MARGIN)
        title = page.shorten(matrix.title, _TITLE_SIZE, end - start)
        page.text(start, 4, title, _TITLE_SIZE)
    _draw_bar(page, image, right + _BAR_GAP, top, side, scale.ticks)
    return page.array()


def _cell_size(num_classes: int) -> tuple[float, float]:
    """Width of a cell and size of its label, in points."""
    if num_classes <= NUMBERED_CLASSES:
        return (34.0 if num_classes <= 12 else 27.0), 8.0
    if num_classes <= LABELLED_CLASSES:
        return max(7.5, 16.0 - num_classes / 10), max(5.5, 8.0 - num_classes / 40)
    return max(1.0, 7.5 * LABELLED_CLASSES / num_classes), 5.5


def _labels(class_names: Sequence[str], size: float) -> tuple[dict[float, str], float]:
    """The classes' labels by position, and the room in points that they and a title need."""
    step = -(-len(class_names) // LABELLED_CLASSES)
    ruler = Page(100, 100, _DPI)
    labels = {
        index + 0.5: ruler.shorten(str(class_names[index]), size, _LONGEST_NAME)
        for index in range(0, len(class_names), step)
    }
    longest = max(ruler.text_width(text, size) for text in labels.values())
    return labels, longest + _TICK + _AXIS_TITLE


def _label(axes, labels: dict[float, str], size: float, scale: Scale, *, has_rows: bool) -> None:
    places, names = list(labels), list(labels.values())
    is_short = all(len(name) <= 3 for name in names) and len(names) <= NUMBERED_CLASSES
    axes.set_xticks(places, names, fontsize=size, parse_math=False, rotation=0 if is_short else 90)
    axes.set_xlabel(scale.columns, fontsize=_TITLE_SIZE, color=INK, labelpad=3)
    if has_rows:
        axes.set_yticks(places, names, fontsize=size, parse_math=False)
        axes.set_ylabel(scale.rows, fontsize=_TITLE_SIZE, color=INK, labelpad=3)
    axes.tick_params(length=2, width=0.4, color=NEUTRAL, labelcolor=INK, pad=2)


def _write(axes, matrix: ClassMatrix, norm: Normalize, cell: float) -> None:
    longest = max(len(text) for row in matrix.texts for text in row)
    size = min(8.5, 1.5 * (cell - 4) / max(longest, 2))
    colour_of = matplotlib.colormaps[_COLOURS]
    for (row, column), share in np.ndenumerate(matrix.shares):
        if not matrix.texts[row][column]:
            continue
        red, green, blue, _ = colour_of(norm(share))
        is_dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.53
        axes.text(
            column + 0.5, row + 0.5, matrix.texts[row][column], fontsize=size, ha="center",
            va="center_baseline", color="white" if is_dark else INK,
            weight="bold" if row == column else "normal",
        )  # fmt: skip


def _separate(axes, num_classes: int) -> None:
    """Lines between cells, or those that guide the eye from a label to its row."""
    step = 1 if num_classes <= NUMBERED_CLASSES else 10
    edges = np.arange(step, num_classes, step)
    width = 0.8 if step == 1 else 0.3
    colour = "white" if step == 1 else "#C8C8C8"
    axes.hlines(edges, 0, num_classes, color=colour, linewidth=width)
    axes.vlines(edges, 0, num_classes, color=colour, linewidth=width)


def _draw_bar(
    page: Page, image, left: float, top: float, side: float, ticks: dict[float, str]
) -> None:
    height = min(side, 240.0)
    axes = page.figure.add_axes(
        (left / page.width, 1.0 - (top + height) / page.height, _BAR_WIDTH / page.width,
         height / page.height)
    )  # fmt: skip
    bar = page.figure.colorbar(image, cax=axes)
    places = list(ticks)
    if height <= 100:
        places = [places[0], places[len(places) // 2], places[-1]]
    bar.set_ticks(places, labels=[ticks[place] for place in places], fontsize=7)
    bar.outline.set(linewidth=0.4, edgecolor=NEUTRAL)
    axes.tick_params(length=2, width=0.4, color=NEUTRAL, labelcolor=INK, pad=2)
    axes.minorticks_off()
