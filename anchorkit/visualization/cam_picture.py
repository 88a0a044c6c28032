"""Class activation maps over their images, those of several models side by side."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from .cam import ActivationMaps
from .canvas import INK, NEUTRAL, Page, Panel

PAGE_WIDTH = 504.0
_WIDEST_PANEL = 100.0
# Maps side by side, one for each class and model.
_MOST_MAPS = 6
_MARGIN, _GAP, _INNER_GAP = 8.0, 11.0, 3.0
_TITLE_SIZE, _HEADING_SIZE, _NOTE_SIZE, _MODEL_SIZE = 8.5, 7.5, 6.5, 6.0
_TITLE_HEIGHT, _HEADING_HEIGHT, _MODEL_HEIGHT, _LINE = 18.0, 11.0, 8.5, 9.0
_BAR_WIDTH, _BAR_HEIGHT = 150.0, 7.0
_MOST_LINES = 4
# The image is grey and faded under a map, so that all colours are the map's.
_FADED, _STRENGTH = 0.5, 0.6
_COLOURS = colormaps["RdBu_r"]
_NOT_THERE = {0: " (not there)", -1: " (not known)"}


def draw_activation_maps(
    images: Tensor,
    captions: Sequence[str],
    labels: Tensor,
    classes: Tensor,
    models: Sequence[tuple[str, ActivationMaps]],
    class_names: Sequence[str],
    *,
    title: str = "",
) -> Figure:
    """A row for each image: the image, then for each class the map of each model, with its score.

    All maps of the picture have one scale, from -m to m, where m is the largest magnitude among
    them: red speaks for the class, blue against it.

    Args:
        images: (B, 1 or 3, H, W) uint8.
        captions: B short names of the images.
        labels: (B, K): 1 for a class that is there, 0 for one that is not, -1 if it is not known.
        classes: (B, S) classes to show; -1 shows none.
        models: names, and maps of these classes.
        class_names: K.
        title: a line above all rows.

    Returns:
        A figure at most 7 inches wide, for :func:`save_figure`.
    """
    layout = _Layout(images, classes, len(models))
    notes = _notes(models)
    legend = [line for note in notes for line in layout.ruler.wrap(note, _NOTE_SIZE, layout.usable)]
    blocks = [
        layout.block_height(int((row >= 0).sum()), _true_classes(label, class_names))
        for row, label in zip(classes, labels, strict=True)
    ]
    bar_top = _TITLE_HEIGHT + sum(blocks)
    page = Page(layout.page_width, bar_top + 24.0 + _LINE * len(legend) + 4.0)
    title = page.shorten(title, _TITLE_SIZE, layout.usable, bold=True)
    page.text(_MARGIN, 4, title, _TITLE_SIZE, bold=True)
    scale = Normalize(*_limits([maps.maps for _, maps in models]))
    top = _TITLE_HEIGHT
    for index, height in enumerate(blocks):
        pixels = _rgb(images[index])
        _draw_image(page, layout, top, pixels, captions[index])
        for number, line in enumerate(layout.lines(_true_classes(labels[index], class_names))):
            y = top + layout.image_bottom + number * _LINE
            page.text(_MARGIN, y, line, _NOTE_SIZE)
        shown = [(slot, label) for slot, label in enumerate(classes[index].tolist()) if label >= 0]
        for place, (slot, label) in enumerate(shown):
            heading = f"{class_names[label]}{_NOT_THERE.get(int(labels[index, label]), '')}"
            cells = [
                (name, maps.maps[index, slot], f"{maps.score_name} {maps.scores[index, label]:.2f}")
                for name, maps in models
            ]
            is_there = bool(labels[index, label] == 1)
            left, upper = layout.group(place)
            _draw_group(page, layout, left, top + upper, pixels, heading, is_there, cells, scale)
        top += height
    _draw_scale(page, bar_top, scale)
    for number, line in enumerate(legend):
        page.text(_MARGIN, bar_top + 24.0 + number * _LINE, line, _NOTE_SIZE, color=NEUTRAL)
    return page.figure


class _Layout:
    """Where the parts of a row stand, in points; its groups of maps flow to the right and down."""

    def __init__(self, images: Tensor, classes: Tensor, num_models: int):
        most = int((classes >= 0).sum(dim=1).max())
        self.num_models = num_models
        self.columns = max(1, min(most, _MOST_MAPS // num_models))
        gaps = self.columns * (_GAP + (num_models - 1) * _INNER_GAP)
        room = (PAGE_WIDTH - 2 * _MARGIN - gaps) / (1 + self.columns * num_models)
        self.width = min(_WIDEST_PANEL, room)
        self.height = self.width * images.shape[2] / images.shape[3]
        self.group_width = num_models * (self.width + _INNER_GAP) - _INNER_GAP
        # Narrow pictures keep room for the scale and its notes.
        used = 2 * _MARGIN + self.width + self.columns * (_GAP + self.group_width)
        self.page_width = max(used, 2.0 * _BAR_WIDTH)
        self.usable = self.page_width - 2 * _MARGIN
        self.panel_top = _HEADING_HEIGHT + (_MODEL_HEIGHT if num_models > 1 else 0.0)
        self.image_bottom = self.panel_top + self.height + 2.0
        self.line_height = self.image_bottom + _LINE + 5.0
        self.ruler = Page(100, 100)

    def group(self, place: int) -> tuple[float, float]:
        """Left and upper end of the group of maps at a place of its row."""
        line, column = divmod(place, self.columns)
        left = _MARGIN + self.width + _GAP + column * (self.group_width + _GAP)
        return left, line * self.line_height

    def lines(self, text: str) -> list[str]:
        """``text`` below an image."""
        lines = self.ruler.wrap(text, _NOTE_SIZE, self.width)
        lines = [*lines[: _MOST_LINES - 1], " ".join(lines[_MOST_LINES - 1 :])]
        return [self.ruler.shorten(line, _NOTE_SIZE, self.width) for line in lines if line]

    def block_height(self, num_groups: int, text: str) -> float:
        num_lines = -(-num_groups // self.columns)
        below_image = self.image_bottom + _LINE * len(self.lines(text)) + 5.0
        return max(num_lines * self.line_height, below_image) + 3.0


def _draw_image(page: Page, layout: _Layout, top: float, pixels: np.ndarray, caption: str) -> None:
    caption = page.shorten(caption, _NOTE_SIZE, layout.width, bold=True)
    page.text(_MARGIN, top + 1.0, caption, _NOTE_SIZE, bold=True)
    _panel(page, layout, _MARGIN, top, pixels, 1.0)


def _draw_group(
    page: Page, layout: _Layout, left: float, top: float, pixels: np.ndarray, heading: str,
    is_there: bool, cells: list[tuple[str, Tensor, str]], scale: Normalize,
) -> None:  # fmt: skip
    """The maps of one class: names of the models, maps and scores, side by side."""
    color = INK if is_there else NEUTRAL
    heading = page.shorten(heading, _HEADING_SIZE, layout.group_width, bold=True)
    page.text(left, top, heading, _HEADING_SIZE, bold=True, color=color)
    grey = np.repeat(pixels.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    for number, (name, values, score) in enumerate(cells):
        x = left + number * (layout.width + _INNER_GAP)
        if layout.num_models > 1:
            name = page.shorten(name, _MODEL_SIZE, layout.width)
            page.text(x, top + _HEADING_HEIGHT, name, _MODEL_SIZE, color=NEUTRAL)
        panel = _panel(page, layout, x, top, grey, _FADED)
        height, width = pixels.shape[:2]
        # Each value stands in the middle of its place; bilinear between them.
        panel.axes.imshow(
            values.cpu().numpy(), cmap=_COLOURS, norm=scale, alpha=_STRENGTH,
            extent=(0, width, height, 0), interpolation="bilinear", aspect="auto",
        )  # fmt: skip
        page.text(x, top + layout.image_bottom, score, _NOTE_SIZE, color=color)


def _panel(
    page: Page, layout: _Layout, left: float, top: float, pixels: np.ndarray, strength: float
) -> Panel:
    size = pixels.shape[1], pixels.shape[0]
    panel = page.panel(left, top + layout.panel_top, layout.width, (0, 0, *size))
    panel.image(pixels, size, strength)
    return panel


def _limits(maps: Sequence[Tensor]) -> tuple[float, float]:
    """The scale of all maps; what is not finite does not count."""
    values = torch.cat([one.flatten().cpu() for one in maps])
    values = values[values.isfinite()]
    largest = float(values.abs().max()) if len(values) else 0.0
    return (-largest, largest) if largest > 0 else (-1.0, 1.0)


def _draw_scale(page: Page, top: float, scale: Normalize) -> None:
    text = "activation, logits"
    page.text(_MARGIN, top, text, _NOTE_SIZE)
    left = _MARGIN + page.text_width(text, _NOTE_SIZE) + 12.0
    axes = page.figure.add_axes(
        (left / page.width, 1.0 - (top + 1.0 + _BAR_HEIGHT) / page.height,
         _BAR_WIDTH / page.width, _BAR_HEIGHT / page.height)
    )  # fmt: skip
    # As strong as on the panels.
    colours = ScalarMappable(scale, _COLOURS)
    bar = page.figure.colorbar(colours, cax=axes, orientation="horizontal", alpha=_STRENGTH)
    ticks = [scale.vmin, scale.vmin / 2, 0.0, scale.vmax / 2, scale.vmax]
    bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks], fontsize=_MODEL_SIZE)
    bar.outline.set(linewidth=0.4, edgecolor=NEUTRAL)
    axes.tick_params(length=2, width=0.4, color=NEUTRAL, labelcolor=INK, pad=2)
    axes.minorticks_off()


def _notes(models: Sequence[tuple[str, ActivationMaps]]) -> list[str]:
    kinds = {}
    for name, maps in models:
        kind = "CAM, whose mean over the image is the logit of the class"
        if maps.layer:
            kind = f"Grad-CAM at {maps.layer}, which shows what speaks for the class alone"
        kinds.setdefault(kind, []).append(name)
    notes = [f"{', '.join(names)}: {kind}." for kind, names in kinds.items()]
    return ["One scale for all maps. Red speaks for the class, blue against it.", *notes]


def _true_classes(labels: Tensor, names: Sequence[str]) -> str:
    return ", ".join(str(names[index]) for index in (labels == 1).nonzero()[:, 0]) or "no class"


def _rgb(image: Tensor) -> np.ndarray:
    pixels = image.cpu().permute(1, 2, 0).numpy()
    return np.repeat(pixels, 3 // pixels.shape[2], axis=2)
