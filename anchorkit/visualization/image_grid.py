"""Images side by side, each with a caption and, if it has objects, with their boxes."""

from collections.abc import Sequence

import numpy as np

from .canvas import Page

_DPI = 144
_GAP, _MARGIN = 10.0, 10.0
_CAPTION_SIZE, _LABEL_SIZE = 7.5, 6.5
_LINE = 1.3 * _CAPTION_SIZE
_MAX_LINES = 4

# A box (XYXY, in pixels of its image), what is written beside it, and its colour.
LabelledBox = tuple[Sequence[float], str, str]


def draw_image_grid(
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    *,
    columns: int = 4,
    boxes: Sequence[Sequence[LabelledBox]] | None = None,
    image_width: int = 256,
) -> np.ndarray:
    """Draw images in rows, with their captions below them.

    Args:
        images: uint8, (H, W, 3) RGB, or (H, W) or (H, W, 1) grey; their sizes may differ.
        captions: one for each; broken at spaces, and shortened where a word is too long.
        columns: images side by side.
        boxes: for each image those drawn on it; None: none.
        image_width: of every image on the page, in pixels.

    Returns:
        uint8 RGB (H', W', 3).
    """
    if len(images) != len(captions) or len(images) == 0 or columns < 1:
        raise ValueError(
            f"expected images with a caption each and at least one column, got {len(images)} "
            f"images, {len(captions)} captions, {columns} columns"
        )
    columns = min(columns, len(images))
    panel_width = image_width * 72.0 / _DPI
    boxes = boxes or [[]] * len(images)
    images = [_rgb(image) for image in images]
    ruler = Page(100, 100, _DPI)
    lines = [_lines(ruler, caption, panel_width) for caption in captions]
    heights = [panel_width * image.shape[0] / image.shape[1] for image in images]
    tops, bottom = [], _MARGIN
    for first in range(0, len(images), columns):
        row = slice(first, first + columns)
        tops.append(bottom)
        bottom += max(heights[row]) + _LINE * max(map(len, lines[row])) + 3 + _GAP
    width = 2 * _MARGIN + columns * (panel_width + _GAP) - _GAP
    page = Page(width, bottom - _GAP + _MARGIN, _DPI)
    for index, image in enumerate(images):
        left = _MARGIN + (index % columns) * (panel_width + _GAP)
        # The images of a row stand on one line, above their captions.
        first = index // columns * columns
        floor = tops[index // columns] + max(heights[first : first + columns])
        size = image.shape[1], image.shape[0]
        panel = page.panel(left, floor - heights[index], panel_width, (0, 0, *size))
        panel.image(image, size)
        for box, _, colour in boxes[index]:
            panel.box(box, colour, width=1.0)
        for box, text, colour in boxes[index]:
            panel.label(text, box, colour, _LABEL_SIZE)
        for number, line in enumerate(lines[index]):
            page.text(left, floor + 3 + number * _LINE, line, _CAPTION_SIZE)
    return page.array()


def _rgb(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3) or not image.size:
        raise ValueError(f"expected uint8 (H, W, 3) or (H, W), got {image.dtype} {image.shape}")
    return np.repeat(image, 3 // image.shape[2], axis=2)


def _lines(ruler: Page, caption: str, width: float) -> list[str]:
    lines = ruler.wrap(caption, _CAPTION_SIZE, width)
    if len(lines) > _MAX_LINES:
        lines = [*lines[: _MAX_LINES - 1], " ".join(lines[_MAX_LINES - 1 :])]
    return [ruler.shorten(line, _CAPTION_SIZE, width) for line in lines]
