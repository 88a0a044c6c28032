"""What a classifier takes the images of each class for, as a table of colours."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.colors import PowerNorm

from .canvas import INK, NEUTRAL, Page

# Up to here counts are written into the cells, which are large enough for it.
NUMBERED_CLASSES = 20
# From here on cells are too small for a label each: every second class has one, or every third ...
LABELLED_CLASSES = 110

_DPI = 180
_MARGIN = 10.0
_TITLE_SIZE = 9.0
_BAR_WIDTH, _BAR_GAP, _BAR_LABELS = 9.0, 12.0, 30.0
_TICK, _AXIS_TITLE = 5.0, 18.0
_LONGEST_NAME = 110.0
# Few errors among many images stay visible: a colour stands for the square root of the share.
_NORM = PowerNorm(0.5, vmin=0, vmax=1)
_COLOURS = "Blues"
_EMPTY = "#EFEFEF"


def draw_confusion(counts: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Draw a confusion matrix: rows are the truth, columns what was predicted.

    A cell's colour is its share of the images of its row; rows of classes without images are grey.

    Args:
        counts: (K, K) integers.
        class_names: K of them; long ones are shortened in the middle.

    Returns:
        uint8 RGB (H, W, 3); wide enough that a label is at least 10 pixels high.
    """
    counts = np.asarray(counts)
    num_classes = len(class_names)
    if counts.shape != (num_classes, num_classes) or num_classes == 0:
        raise ValueError(f"expected ({num_classes}, {num_classes}) counts, got {counts.shape}")
    cell, size = _cell_size(num_classes)
    side = cell * num_classes
    page, labels = _page(side, size, class_names)
    left, top = page.width - _MARGIN - _BAR_LABELS - _BAR_WIDTH - _BAR_GAP - side, _MARGIN + 16
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    panel = page.panel(left, top, side, (0, 0, num_classes, num_classes))
    image = panel.axes.imshow(
        np.ma.masked_where((counts.sum(axis=1) == 0)[:, None] & (shares == 0), shares),
        cmap=matplotlib.colormaps[_COLOURS].with_extremes(bad=_EMPTY), norm=_NORM,
        extent=(0, num_classes, num_classes, 0), interpolation="nearest", aspect="auto",
    )  # fmt: skip
    _label(panel.axes, labels, size)
    if num_classes <= NUMBERED_CLASSES:
        _write_counts(panel.axes, counts, shares, cell)
    _separate(panel.axes, num_classes)
    _draw_bar(page, image, left + side + _BAR_GAP, top, side)
    total, correct = int(counts.sum()), int(counts.trace())
    share = f" ({100 * correct / total:.2f} %)" if total else ""
    note = f"{total} images, {correct} correct{share}"
    page.text(_MARGIN, 4, page.shorten(note, _TITLE_SIZE, page.width - 2 * _MARGIN), _TITLE_SIZE)
    return page.array()


def _cell_size(num_classes: int) -> tuple[float, float]:
    """Width of a cell and size of its label, in points."""
    if num_classes <= NUMBERED_CLASSES:
        return (34.0 if num_classes <= 12 else 27.0), 8.0
    if num_classes <= LABELLED_CLASSES:
        return max(7.5, 16.0 - num_classes / 10), max(5.5, 8.0 - num_classes / 40)
    return max(1.0, 7.5 * LABELLED_CLASSES / num_classes), 5.5


def _page(side: float, size: float, class_names: Sequence[str]) -> tuple[Page, dict[float, str]]:
    """A page with room for a square of ``side`` and its labels; and the labels by position."""
    step = -(-len(class_names) // LABELLED_CLASSES)
    ruler = Page(100, 100, _DPI)
    labels = {
        index + 0.5: ruler.shorten(str(class_names[index]), size, _LONGEST_NAME)
        for index in range(0, len(class_names), step)
    }
    room = max(ruler.text_width(text, size) for text in labels.values()) + _TICK + _AXIS_TITLE
    # The note above the matrix has its room even where the matrix is small.
    width = _MARGIN + room + max(side, 130.0) + _BAR_GAP + _BAR_WIDTH + _BAR_LABELS + _MARGIN
    return Page(width, _MARGIN + 16 + side + room + 4, _DPI), labels


def _label(axes, labels: dict[float, str], size: float) -> None:
    places, names = list(labels), list(labels.values())
    is_short = all(len(name) <= 3 for name in names) and len(names) <= NUMBERED_CLASSES
    axes.set_yticks(places, names, fontsize=size, parse_math=False)
    axes.set_xticks(places, names, fontsize=size, parse_math=False, rotation=0 if is_short else 90)
    axes.tick_params(length=2, width=0.4, color=NEUTRAL, labelcolor=INK, pad=2)
    for set_title in (axes.set_ylabel, axes.set_xlabel):
        text = "truth" if set_title == axes.set_ylabel else "prediction"
        set_title(text, fontsize=_TITLE_SIZE, color=INK, labelpad=3)


def _write_counts(axes, counts: np.ndarray, shares: np.ndarray, cell: float) -> None:
    digits = len(str(counts.max()))
    size = min(8.5, 1.5 * (cell - 4) / max(digits, 2))
    colour_of = matplotlib.colormaps[_COLOURS]
    for row, column in np.ndindex(counts.shape):
        count = counts[row, column]
        if count == 0:
            continue
        red, green, blue, _ = colour_of(_NORM(shares[row, column]))
        is_dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.53
        axes.text(
            column + 0.5, row + 0.5, f"{count}", fontsize=size, ha="center", va="center_baseline",
            color="white" if is_dark else INK, weight="bold" if row == column else "normal",
        )  # fmt: skip


def _separate(axes, num_classes: int) -> None:
    """Lines between cells, or those that guide the eye from a label to its row."""
    step = 1 if num_classes <= NUMBERED_CLASSES else 10
    edges = np.arange(step, num_classes, step)
    width = 0.8 if step == 1 else 0.3
    colour = "white" if step == 1 else "#C8C8C8"
    axes.hlines(edges, 0, num_classes, color=colour, linewidth=width)
    axes.vlines(edges, 0, num_classes, color=colour, linewidth=width)


def _draw_bar(page: Page, image, left: float, top: float, side: float) -> None:
    height = min(side, 240.0)
    axes = page.figure.add_axes(
        (left / page.width, 1.0 - (top + height) / page.height, _BAR_WIDTH / page.width,
         height / page.height)
    )  # fmt: skip
    bar = page.figure.colorbar(image, cax=axes)
    ticks = [0, 0.01, 0.05, 0.2, 0.5, 1] if height > 100 else [0, 0.2, 1]
    bar.set_ticks(ticks, labels=[f"{100 * tick:g} %" for tick in ticks], fontsize=7)
    bar.outline.set(linewidth=0.4, edgecolor=NEUTRAL)
    axes.tick_params(length=2, width=0.4, color=NEUTRAL, labelcolor=INK, pad=2)
    axes.minorticks_off()
