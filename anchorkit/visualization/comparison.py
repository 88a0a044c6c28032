"""Training labels of several detectors on one image, as in DSLA's Figure 1(b)."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .canvas import INK, NEUTRAL, Page, Panel, class_color, class_name
from .level_labels import ImageLabels, LevelLabels

_PAGE_WIDTH = 504.0
_MARGIN, _GAP = 6.0, 6.0
_TITLE, _HEADING, _NOTE, _VALUE = 8.5, 7.5, 6.5, 4.5
_FADED = 0.45
_COLORS = colormaps["viridis"]


def draw_label_comparison(
    image: np.ndarray,
    detectors: Sequence[tuple[str, ImageLabels]],
    class_names: Sequence[str] | None,
    *,
    title: str = "",
) -> Figure:
    """One row of panels for each detector, one column for each level that any of them uses.

    Every positive location is a cell of its level's grid, coloured by its training label from 0 to
    1, so that hard labels are flat and smooth ones fall from the middle of an object to its border.

    Args:
        image: uint8 RGB (H, W, 3), the network's input, the same for all detectors.
        detectors: names and labels; their levels have the same strides.
        class_names: names by class, written in the first panel of each row.
        title: a line above all panels.

    Returns:
        A figure 7 inches wide, for :func:`save_figure`.

    Raises:
        ValueError: the detectors' levels differ.
    """
    grids = [[level.labels.shape for level in labels.levels] for _, labels in detectors]
    if any(grid != grids[0] for grid in grids):
        raise ValueError(f"the detectors' levels differ: {grids}")
    used = [
        index
        for index in range(len(grids[0]))
        if any(labels.levels[index].is_positive.any() for _, labels in detectors)
    ] or [0]
    columns = max(2, len(used))
    width = (_PAGE_WIDTH - 2 * _MARGIN - (columns - 1) * _GAP) / columns
    height = width * image.shape[0] / image.shape[1]
    row_height = height + 20.0
    page = Page(_PAGE_WIDTH, 15.0 + len(detectors) * (row_height + 4.0) + 18.0)
    usable = _PAGE_WIDTH - 2 * _MARGIN
    page.text(_MARGIN, 3, page.shorten(title, _TITLE, usable, bold=True), _TITLE, bold=True)
    for row, (name, labels) in enumerate(detectors):
        top = 15.0 + row * (row_height + 4.0)
        for column, index in enumerate(used):
            left = _MARGIN + column * (width + _GAP)
            level = labels.levels[index]
            heading = f"{name}, {level.name}" if column == 0 else level.name
            page.text(left, top, page.shorten(heading, _HEADING, width, True), _HEADING, bold=True)
            note = f"{int(level.is_positive.sum())} of {level.labels.numel()} positive"
            page.text(left, top + 9, page.shorten(note, _NOTE, width), _NOTE, color=NEUTRAL)
            panel = page.panel(left, top + 19, width, (0, 0, image.shape[1], image.shape[0]))
            panel.image(image, (image.shape[1], image.shape[0]), strength=_FADED)
            _draw_cells(panel, level, labels.training_labels(level).numpy())
            _draw_boxes(panel, labels, class_names if column == 0 else None, column == 0)
    _draw_scale(page)
    return page.figure


def _draw_cells(panel: Panel, level: LevelLabels, values: np.ndarray) -> None:
    side = level.stride
    has_room = side * panel.scale > 3.0 * _VALUE
    for location in zip(*level.is_positive.numpy().nonzero(), strict=True):
        x, y = level.centers[location].tolist()
        color = _COLORS(float(values[location]))
        panel.axes.add_patch(
            Rectangle(
                (x - side / 2, y - side / 2), side, side, facecolor=color, alpha=0.85,
                edgecolor="white", linewidth=0.2, zorder=2,
            )
        )  # fmt: skip
        if has_room:
            panel.axes.text(
                x, y, f"{values[location]:.2f}", fontsize=_VALUE, zorder=3, ha="center",
                va="center", color="white" if values[location] < 0.6 else INK, clip_on=True,
            )  # fmt: skip


def _draw_boxes(
    panel: Panel, labels: ImageLabels, names: Sequence[str] | None, is_named: bool
) -> None:
    for box, label in zip(labels.gt_boxes.tolist(), labels.gt_classes.tolist(), strict=True):
        panel.box(box, class_color(label), width=0.9)
        if is_named:
            panel.label(class_name(names, label), box, class_color(label), _NOTE)


def _draw_scale(page: Page) -> None:
    top = page.height - 14.0
    page.text(_MARGIN, top, "training label  0", _NOTE)
    left = _MARGIN + page.text_width("training label  0", _NOTE) + 4.0
    steps = 50
    for step in range(steps):
        marks = page.marks(left + 2.0 * step, top + 4.0)
        marks.line(0, 2.2, 0, _COLORS(step / (steps - 1)), linewidth=6)
    page.text(left + 2.0 * steps + 4.0, top, "1", _NOTE)
