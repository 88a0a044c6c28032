"""Drawing of one digit scene: background, clutter, and digits of all sizes and shapes."""

from collections.abc import Iterator

import cv2
import numpy as np

# Side lengths (square root of width times height) of digits, for scenes of this size.
REFERENCE_SIZE = 160
SIDE_RANGE = (12.0, 100.0)
# A digit's width over height is its writer's times a log-uniform factor of this range.
STRETCH_RANGE = (0.6, 1.6)
# Share of a digit's ink that later digits leave to be seen.
MIN_VISIBLE_SHARE = 0.75
# A pixel belongs to a digit, and so to its box, if the digit covers at least this part of it.
INK_THRESHOLD = 0.25
# Digits are light on dark, as chalk is: backgrounds and clutter have no colour channel above this,
BRIGHTEST_BACKGROUND = 160.0
# and four fifths of a digit's surroundings are darker than it by this much luminance, of 255.
MIN_CONTRAST = 60.0
LUMINANCE = np.array([0.114, 0.587, 0.299], dtype=np.float32)  # of B, G, R


def draw_scene(
    glyphs: np.ndarray, labels: np.ndarray, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[tuple[int, list[int]]]]:
    """Draw one scene.

    Args:
        glyphs: (D, H, W) float ink of the digits to draw from, see :func:`load_glyphs`.
        labels: (D,) digits that they show.
        size: width and height of the scene in pixels.
        rng: the only source of randomness.

    Returns:
        The BGR image, (size, size, 3) uint8, and a list of (digit, [x, y, width, height]) with
        boxes in whole pixels, tight around the ink that can be seen.
    """
    objects = []
    while not objects:
        image = _background(size, rng)
        objects = _place_digits(image, glyphs, labels, rng)
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (3, 3), rng.uniform(0.3, 0.8))
    # Grain of one value for the three channels.
    grain = rng.standard_normal((size, size, 1), dtype=np.float32) * np.float32(rng.uniform(1, 9))
    image += grain
    return np.clip(image, 0, 255, out=image).astype(np.uint8), objects


def _background(size: int, rng: np.random.Generator) -> np.ndarray:
    """Float (size, size, 3) image: a colour gradient with texture and clutter."""
    low, high = sorted(rng.uniform(0, BRIGHTEST_BACKGROUND, 2))
    cells = int(rng.integers(2, 5))
    colours = rng.uniform(low, high, (cells, cells, 3)).astype(np.float32)
    image = cv2.resize(colours, (size, size), interpolation=cv2.INTER_LINEAR)
    grid = int(rng.integers(6, 40))
    texture = rng.standard_normal((grid, grid), dtype=np.float32) * np.float32(rng.uniform(2, 12))
    image += cv2.resize(texture, (size, size), interpolation=cv2.INTER_LINEAR)[..., None]
    image = np.ascontiguousarray(np.clip(image, 0, 255))
    for _ in range(rng.integers(2, 11)):
        _draw_clutter(image, rng)
    return image


def _draw_clutter(image: np.ndarray, rng: np.random.Generator) -> None:
    """Draw one line, arc, curve, blob or rectangle: strokes as thick as those of digits."""
    size = len(image)
    colour = tuple(float(value) for value in rng.uniform(0, BRIGHTEST_BACKGROUND, 3))
    centre = tuple(int(value) for value in rng.uniform(0, size, 2))
    extent = np.exp(rng.uniform(np.log(0.03), np.log(0.3))) * size
    axes = tuple(max(1, int(value)) for value in extent * rng.uniform(0.3, 1, 2))
    stroke = max(1, int(extent * rng.uniform(0.05, 0.3)))
    angle = rng.uniform(0, 360)
    kind = rng.choice(["line", "arc", "curve", "blob", "rectangle"])
    if kind == "line":
        offset = extent * np.array([np.cos(angle), np.sin(angle)])
        end = tuple(int(value) for value in np.array(centre) + 2 * offset)
        cv2.line(image, centre, end, colour, stroke, cv2.LINE_AA)
    elif kind == "arc":
        cv2.ellipse(image, centre, axes, angle, 0, rng.uniform(60, 300), colour, stroke)
    elif kind == "curve":
        steps = rng.normal(0, extent / 2, (int(rng.integers(3, 7)), 2))
        points = (np.array(centre) + steps.cumsum(axis=0)).astype(np.int32)
        cv2.polylines(image, [points], False, colour, stroke)
    elif kind == "blob":
        cv2.ellipse(image, centre, axes, angle, 0, 360, colour, -1)
    else:
        corners = cv2.boxPoints((centre, axes, angle)).astype(np.int32)
        cv2.polylines(image, [corners], True, colour, stroke)


def _place_digits(
    image: np.ndarray, glyphs: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> list[tuple[int, list[int]]]:
    """Draw 1 to 8 digits into ``image``, large ones first, and return (digit, box) of each."""
    size = len(image)
    number = int(rng.integers(1, 9))
    sides = np.exp(rng.uniform(*np.log(SIDE_RANGE), number)) * size / REFERENCE_SIZE
    stretches = np.exp(rng.uniform(*np.log(STRETCH_RANGE), number))
    objects, placed = [], []
    for side, stretch in sorted(zip(sides, stretches, strict=True), reverse=True):
        index = int(rng.integers(len(glyphs)))
        ink = _shape_glyph(glyphs[index], side, stretch, 0.9 * size)
        height, width = ink.shape
        for x, y in _positions(size, ink.shape, rng):
            patch = image[y : y + height, x : x + width]
            colour = _contrasting_colour(patch, rng)
            if colour is None:
                continue
            digit = _Digit(x, y, ink >= INK_THRESHOLD)
            if not all(other.stays_visible_under(digit) for other in placed):
                continue
            patch += (colour - patch) * ink[..., None]
            for other in placed:
                other.cover(digit)
            placed.append(digit)
            objects.append((int(labels[index]), [x, y, width, height]))
            break
    return objects


class _Digit:
    """A digit in a scene, and what can be seen of it; its mask has ink in each outer row."""

    def __init__(self, x: int, y: int, mask: np.ndarray):
        self.x, self.y = x, y
        self.mask = mask
        self.seen = mask.copy()

    def stays_visible_under(self, other: "_Digit") -> bool:
        """Whether it keeps enough ink, and its whole extent, when ``other`` is drawn over it."""
        own, others = self._overlap(other)
        if not (self.seen[own] & other.mask[others]).any():
            return True
        left = self.seen.copy()
        left[own] &= ~other.mask[others]
        if np.count_nonzero(left) < MIN_VISIBLE_SHARE * np.count_nonzero(self.mask):
            return False
        return all(edge.any() for edge in (left[0], left[-1], left[:, 0], left[:, -1]))

    def cover(self, other: "_Digit") -> None:
        """Draw ``other`` over it."""
        own, others = self._overlap(other)
        self.seen[own] &= ~other.mask[others]

    def _overlap(self, other: "_Digit") -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Rows and columns that both have, counted in each one's mask; they may be empty."""
        own, others = [], []
        for start, length, other_start, other_length in zip(
            (self.y, self.x), self.mask.shape, (other.y, other.x), other.mask.shape, strict=True
        ):
            first = max(start, other_start)
            last = max(first, min(start + length, other_start + other_length))
            own.append(slice(first - start, last - start))
            others.append(slice(first - other_start, last - other_start))
        return tuple(own), tuple(others)


def _positions(
    size: int, shape: tuple[int, int], rng: np.random.Generator, tries: int = 20
) -> Iterator[tuple[int, int]]:
    for _ in range(tries):
        yield int(rng.integers(size - shape[1] + 1)), int(rng.integers(size - shape[0] + 1))


def _shape_glyph(glyph: np.ndarray, side: float, stretch: float, limit: float) -> np.ndarray:
    """Crop a glyph to its ink, make it ``stretch`` times as wide and scale it to ``side`` ** 2.

    Returns:
        (h, w) float32 ink in [0, 1], cropped such that no outer row or column lacks ink.
    """
    x, y, width, height = _extent(glyph >= 0.5)
    aspect = stretch * width / height
    new_width = max(4, round(min(side * aspect**0.5, limit)))
    new_height = max(4, round(min(side / aspect**0.5, limit)))
    crop = glyph[y : y + height, x : x + width]
    ink = cv2.resize(crop, (new_width, new_height), interpolation=cv2.INTER_AREA)
    x, y, width, height = _extent(ink >= INK_THRESHOLD)
    return ink[y : y + height, x : x + width]


def _contrasting_colour(patch: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """A random colour lighter than ``patch``, or None if ten tries give none."""
    colours = rng.uniform(60, 255, (10, 3)).astype(np.float32)
    step = max(1, min(patch.shape[:2]) // 12)
    surroundings = (patch[::step, ::step] @ LUMINANCE).ravel()
    difference = (colours @ LUMINANCE)[:, None] - surroundings
    is_clear = np.count_nonzero(difference >= MIN_CONTRAST, axis=1) >= 0.8 * surroundings.size
    return colours[is_clear.argmax()] if is_clear.any() else None


def _extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(x, y, width, height) of the True pixels."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y
