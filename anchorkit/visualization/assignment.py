"""Which locations are positive at which level, as in the Semi-Anchored paper's Figures 2 and 3."""

from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from .canvas import NEUTRAL, WRONG, Marks, Page, Panel, class_color, class_name
from .level_labels import ImageLabels, LevelLabels

# Seven inches: the text width of a two-column paper.
PAGE_WIDTH = 504.0
_MARGIN = 6.0
_GAP = 8.0
_TITLE_SIZE, _HEADING_SIZE, _NOTE_SIZE, _LABEL_SIZE, _SCORE_SIZE = 8.5, 7.5, 6.5, 6.0, 5.0
_TITLE_HEIGHT, _HEADING_HEIGHT, _LINE = 15.0, 21.0, 10.0
# Images are faded behind the marks of the levels.
_FADED = 0.45
_CROWDED = 6


def draw_assignment(
    image: np.ndarray,
    labels: ImageLabels,
    class_names: Sequence[str] | None,
    *,
    title: str = "",
    columns: int = 3,
) -> Figure:
    """Draw an image's ground truth, and a panel for each level with its locations.

    Dots are the grid's locations: large ones in the colour of their class are positive, their area
    grows with the score, hollow ones are ignored. The best anchor of every positive location is a
    thin frame, the best one of each ground-truth box a thick dashed one. Boxes without a positive
    location are red and listed below.

    Args:
        image: uint8 RGB (H, W, 3), the network's input.
        labels: of :func:`label_levels`.
        class_names: names by class; classes without one are numbered.
        title: a line above all panels.
        columns: at most so many panels stand side by side; the rows are evenly filled.

    Returns:
        A figure 7 inches wide, for :func:`save_figure`.
    """
    extent = _extent(image, labels)
    num_panels = len(labels.levels) + 1
    num_rows = -(-num_panels // columns)
    columns = -(-num_panels // num_rows)
    width = (PAGE_WIDTH - 2 * _MARGIN - (columns - 1) * _GAP) / columns
    height = width * (extent[3] - extent[1]) / (extent[2] - extent[0])
    rows_end = _TITLE_HEIGHT + num_rows * (height + _HEADING_HEIGHT + 4.0)
    legend, missing = _legend(labels), _missing(labels, class_names)
    page = Page(PAGE_WIDTH, 10.0)
    usable = PAGE_WIDTH - 2 * _MARGIN
    legend_places, legend_height = _flow(page, legend, usable)
    missing_lines = page.wrap(missing, _NOTE_SIZE, usable) if missing else []
    page = Page(PAGE_WIDTH, rows_end + 4 + legend_height + len(missing_lines) * _LINE + 4)

    title = page.shorten(title, _TITLE_SIZE, usable, bold=True)
    page.text(_MARGIN, 3, title, _TITLE_SIZE, bold=True)
    for index in range(num_panels):
        left = _MARGIN + (index % columns) * (width + _GAP)
        top = _TITLE_HEIGHT + (index // columns) * (height + _HEADING_HEIGHT + 4.0)
        panel = page.panel(left, top + _HEADING_HEIGHT, width, extent)
        size = image.shape[1], image.shape[0]
        if index == 0:
            panel.image(image, size)
            heading, note = _draw_ground_truth(panel, labels, class_names)
        else:
            panel.image(image, size, strength=_FADED)
            heading, note = _draw_level(panel, labels, index - 1, class_names)
        page.text(left, top, page.shorten(heading, _HEADING_SIZE, width, True), _HEADING_SIZE,
                  bold=True)  # fmt: skip
        page.text(left, top + 10, page.shorten(note, _NOTE_SIZE, width), _NOTE_SIZE, color=NEUTRAL)
    for (draw, text), (x, y) in zip(legend, legend_places, strict=True):
        draw(page.marks(_MARGIN + x, rows_end + 4 + y + 5.0))
        page.text(_MARGIN + x + 20, rows_end + 4 + y + 1, text, _NOTE_SIZE)
    for index, line in enumerate(missing_lines):
        top = rows_end + 4 + legend_height + index * _LINE
        page.text(_MARGIN, top, line, _NOTE_SIZE, color=WRONG)
    return page.figure


def save_figure(figure: Figure, path: str, *, dpi: float = 220.0) -> None:
    """Write a figure; the ending of ``path`` says the format. PDFs embed their fonts as text."""
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        figure.savefig(path, dpi=dpi)


def _extent(image: np.ndarray, labels: ImageLabels) -> tuple[float, float, float, float]:
    """The image, and positive locations that lie in the padding to its right or below it."""
    right, bottom = float(image.shape[1]), float(image.shape[0])
    for level in labels.levels:
        centers = level.centers[level.is_positive]
        if len(centers):
            x, y = centers.amax(dim=0).tolist()
            right, bottom = max(right, x + 8.0), max(bottom, y + 8.0)
    return 0.0, 0.0, right, bottom


def _draw_ground_truth(
    panel: Panel, labels: ImageLabels, names: Sequence[str] | None
) -> tuple[str, str]:
    boxes, classes = labels.gt_boxes.tolist(), labels.gt_classes.tolist()
    has_location = labels.has_location.tolist()
    size = _SCORE_SIZE if len(boxes) > _CROWDED else _LABEL_SIZE
    for box, label, is_served in zip(boxes, classes, has_location, strict=True):
        panel.box(box, class_color(label) if is_served else WRONG, width=0.2 * size)
    for box, label, is_served in zip(boxes, classes, has_location, strict=True):
        name = class_name(names, label)
        panel.label(name, box, class_color(label), size, wrong=not is_served)
    missing = len(boxes) - sum(has_location)
    note = f"{len(boxes)} boxes" if len(boxes) != 1 else "1 box"
    return "Ground truth", f"{note}, {missing} without a positive location" if missing else note


def _draw_level(
    panel: Panel, labels: ImageLabels, index: int, names: Sequence[str] | None
) -> tuple[str, str]:
    level = labels.levels[index]
    is_positive = level.is_positive.numpy()
    _draw_dots(panel, level)
    chosen = _best_locations(level)
    # Many boxes on one panel get finer lines and shorter labels.
    is_crowded = len(chosen) > _CROWDED
    width, size = (0.6, _SCORE_SIZE) if is_crowded else (1.0, _LABEL_SIZE)
    for location in zip(*is_positive.nonzero(), strict=True):
        color = class_color(level.labels[location])
        _draw_anchor(panel, level, location, color, width=0.4, alpha=0.35, halo=False)
    for gt_index in chosen:
        color = class_color(labels.gt_classes[gt_index])
        panel.box(labels.gt_boxes[gt_index].tolist(), color, width=width)
    for gt_index, location in chosen.items():
        color = class_color(labels.gt_classes[gt_index])
        text = f"{class_name(names, labels.gt_classes[gt_index])}: {level.scores[location]:.2f}"
        if _best_level(labels, gt_index) == index and level.best_iou[location] > 0:
            _draw_anchor(panel, level, location, color, width=1.1 * width, dashed=True)
            text += f" / {'' if is_crowded else 'IoU '}{level.best_iou[location]:.2f}"
        panel.label(text, labels.gt_boxes[gt_index].tolist(), color, size)
    num_positive, num_ignored = int(is_positive.sum()), int((level.labels == -1).sum())
    note = f"{num_positive or 'none'} of {level.labels.numel()} locations positive"
    return f"{level.name}, stride {level.stride:g}", (
        f"{note}, {num_ignored} ignored" if num_ignored else note
    )


def _draw_dots(panel: Panel, level: LevelLabels) -> None:
    spacing = level.stride * panel.scale
    is_positive, is_ignored = level.is_positive.numpy(), (level.labels == -1).numpy()
    centers = level.centers.numpy()
    plain = centers[~is_positive & ~is_ignored]
    diameter = min(1.6, max(0.35, 0.2 * spacing))
    panel.axes.plot(
        *plain.T, "o", markersize=diameter, color="#404040", markeredgewidth=0, alpha=0.7, zorder=2
    )
    ignored_size = min(4.5, max(1.4, 0.55 * spacing))
    panel.axes.plot(
        *centers[is_ignored].T, "o", markersize=ignored_size, markerfacecolor="none",
        markeredgecolor=NEUTRAL, markeredgewidth=0.5, zorder=2,
    )  # fmt: skip
    largest = min(7.0, max(2.0, 0.95 * spacing))
    scores = level.scores.numpy()[is_positive]
    # The largest score of a level fills the room there is; no dot is less than a fifth of it.
    areas = largest**2 * np.clip(scores / max(scores.max(initial=0.0), 1e-6), 0.2, 1.0)
    colors = [class_color(label) for label in level.labels.numpy()[is_positive]]
    panel.axes.scatter(
        *centers[is_positive].T, s=areas, c=colors or None, edgecolors="black",
        linewidths=0.06 * largest, zorder=3,
    )  # fmt: skip
    panel.keep_clear(centers[is_positive], largest)
    if spacing > 4.0 * _SCORE_SIZE:
        panel.keep_clear(centers[is_positive] + [0, (largest + 2.0) / panel.scale], _SCORE_SIZE)
        for (x, y), score in zip(centers[is_positive], scores, strict=True):
            _write_score(panel, x, y + (0.5 * largest + 1.0) / panel.scale, f"{score:.2f}")


def _write_score(panel: Panel, x: float, y: float, text: str) -> None:
    panel.axes.text(
        x, y, text, fontsize=_SCORE_SIZE, ha="center", va="top", zorder=3.5, clip_on=True,
        bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.4},
    )  # fmt: skip


def _draw_anchor(panel: Panel, level: LevelLabels, location: tuple, color: str, **style) -> None:
    box = level.best_boxes[location].tolist()
    if all(np.isfinite(box)):
        panel.box(box, color, **style)


def _best_locations(level: LevelLabels) -> dict[int, tuple[int, int]]:
    """For each box with locations at this level, the one with the best anchor, or score."""
    ranking = level.best_iou if bool((level.best_iou > 0).any()) else level.scores
    chosen = {}
    for gt_index in level.gt_index[level.is_positive].unique().tolist():
        masked = ranking.masked_fill(level.gt_index != gt_index, -1.0)
        chosen[gt_index] = tuple(divmod(int(masked.argmax()), level.labels.shape[1]))
    return chosen


def _best_level(labels: ImageLabels, gt_index: int) -> int:
    best = [
        level.best_iou.masked_fill(level.gt_index != gt_index, -1.0).max().item()
        for level in labels.levels
    ]
    return int(np.argmax(best))


def _missing(labels: ImageLabels, names: Sequence[str] | None) -> str:
    """The boxes without a positive location in words; "" if there are none."""
    parts = []
    for index in (~labels.has_location).nonzero()[:, 0].tolist():
        x1, y1, x2, y2 = labels.gt_boxes[index].tolist()
        name = class_name(names, labels.gt_classes[index])
        size = f"{x2 - x1:.0f} × {y2 - y1:.0f} px at ({x1:.0f}, {y1:.0f})"
        best_iou = labels.best_iou[index]
        anchor = "" if best_iou.isnan() else f", best anchor IoU {best_iou:.2f}"
        parts.append(f"{name}, {size}{anchor}")
    return "Without a positive location: " + "; ".join(parts) if parts else ""


def _legend(labels: ImageLabels) -> list[tuple[Callable[[Marks], None], str]]:
    blue = class_color(0)
    has_anchors = any(level.num_anchors for level in labels.levels)
    items = [
        (lambda marks: marks.dot(9, 0, 1.6, "#404040"), "location"),
        (
            lambda marks: marks.dot(9, 0, 6, blue, markeredgecolor="black", markeredgewidth=0.4),
            f"positive location in its class's colour; its area is {labels.score_name}",
        ),
        (lambda marks: marks.line(1, 17, 0, blue, linewidth=1.2), "ground truth"),
    ]
    if has_anchors:
        items += [
            (
                lambda marks: marks.line(1, 17, 0, blue, linewidth=0.5, alpha=0.5),
                "best anchor of a positive location, before regression",
            ),
            (
                lambda marks: marks.line(1, 17, 0, blue, linewidth=1.2, linestyle=(0, (3, 2))),
                "best anchor of a ground-truth box",
            ),
        ]
    text = "score of the best location" + (" / IoU of the best anchor" if has_anchors else "")
    items.append((_draw_plate, f"class: {text}"))
    if any((level.labels == -1).any() for level in labels.levels):
        hollow = {"markerfacecolor": "none", "markeredgewidth": 0.6}
        items.append((lambda marks: marks.dot(9, 0, 4.5, NEUTRAL, **hollow), "ignored location"))
    if not labels.has_location.all():
        items.append(
            (
                lambda marks: marks.line(1, 17, 0, WRONG, linewidth=1.2),
                "ground truth without a positive location",
            )
        )
    return items


def _draw_plate(marks: Marks) -> None:
    marks.line(3, 15, 0, class_color(0), linewidth=6)


def _flow(page: Page, items: list, width: float) -> tuple[list[tuple[float, float]], float]:
    """Places of legend entries in lines of at most ``width``, and the height of all lines."""
    places, x, y = [], 0.0, 0.0
    for _, text in items:
        needed = 20 + page.text_width(text, _NOTE_SIZE) + 10
        if x and x + needed - 10 > width:
            x, y = 0.0, y + _LINE
        places.append((x, y))
        x += needed
    return places, y + _LINE
