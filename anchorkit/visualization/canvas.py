"""White pages with images on them, and boxes, dots and labels that keep clear of each other.

Drawn with matplotlib's objects alone: no pyplot and so no state that threads would share, and no
display. Lengths on a page are points (1/72 inch), at the default resolution one pixel each;
coordinates in a panel are pixels of its image.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

# Colours that stay apart for the common kinds of colour blindness: Okabe and Ito's without black
# and vermilion, then the most distinct ones of Tol's muted and bright sets.
PALETTE = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#F0E442",
    "#7B52AB", "#999933", "#44AA99", "#AA6C39", "#332288", "#DDAACC",
)  # fmt: skip
# No class has this colour: it marks what went wrong, always together with a shape or a word.
WRONG = "#D7191C"
NEUTRAL = "#767676"
INK = "#222222"

_LABEL_PAD = 1.5
_LINE_HEIGHT = 1.25


def class_color(index: int) -> str:
    """The colour of a class, the same in every picture; classes share one from the 13th on."""
    return PALETTE[int(index) % len(PALETTE)]


def class_name(names: Sequence[str] | None, index: int) -> str:
    """The name of a class; its number where there is no name."""
    index = int(index)
    return str(names[index]) if names is not None and 0 <= index < len(names) else str(index)


class Page:
    """A white page of ``width`` x ``height`` points."""

    def __init__(self, width: float, height: float, dpi: float = 72.0):
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / 72.0, height / 72.0), dpi=dpi, facecolor="white")
        self._renderer = FigureCanvasAgg(self.figure).get_renderer()

    def text_width(self, text: str, size: float, bold: bool = False) -> float:
        """Width of one line in points."""
        font = FontProperties(size=size, weight="bold" if bold else "normal")
        width, _, _ = self._renderer.get_text_width_height_descent(text, font, False)
        return width * 72.0 / self.figure.dpi

    def text(
        self, x: float, y: float, text: str, size: float, *, color: str = INK, bold: bool = False
    ) -> None:
        """One line whose top left corner is (x, y), from the page's own top left corner."""
        self.figure.text(
            x / self.width, 1.0 - (y + 0.5 * _LINE_HEIGHT * size) / self.height, text,
            fontsize=size, color=color, weight="bold" if bold else "normal",
            va="center_baseline", parse_math=False,
        )  # fmt: skip

    def shorten(self, text: str, size: float, width: float, bold: bool = False) -> str:
        """``text``, with its middle left out if it is wider than ``width`` points."""
        keep = len(text)
        short = text
        while keep > 4 and self.text_width(short, size, bold) > width:
            keep -= 1
            short = text[: (keep + 1) // 2] + "…" + text[len(text) - keep // 2 :]
        return short

    def wrap(self, text: str, size: float, width: float) -> list[str]:
        """``text`` in lines of at most ``width`` points, broken at spaces."""
        lines = [""]
        for word in text.split(" "):
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and self.text_width(longer, size) > width:
                lines.append(word)
            else:
                lines[-1] = longer
        return lines

    def panel(
        self, x: float, y: float, width: float, extent: tuple[float, float, float, float]
    ) -> "Panel":
        """A frame ``width`` points wide that shows ``extent`` (left, top, right, bottom)."""
        return Panel(self, x, y, width, extent)

    def marks(self, x: float, y: float) -> "Marks":
        """Drawing in points from the page's top left corner moved by (x, y), as for legends."""
        return Marks(self, x, y)

    def array(self) -> np.ndarray:
        """The page as uint8 RGB (height, width, 3)."""
        canvas = self.figure.canvas
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


class Marks:
    """Dots and lines on the bare page, in points."""

    def __init__(self, page: Page, x: float, y: float):
        self._page, self._x, self._y = page, x, y

    def line(self, x1: float, x2: float, y: float, color: str, **style) -> None:
        self._add([x1, x2], [y, y], color=color, **style)

    def dot(self, x: float, y: float, diameter: float, color: str, **style) -> None:
        self._add([x], [y], marker="o", markersize=diameter, color=color, ls="", **style)

    def _add(self, xs: list[float], ys: list[float], **style) -> None:
        page = self._page
        xs = [(self._x + x) / page.width for x in xs]
        ys = [1.0 - (self._y + y) / page.height for y in ys]
        page.figure.add_artist(Line2D(xs, ys, solid_capstyle="butt", **style))


class Panel:
    """A framed part of a page, in the coordinates of an image."""

    def __init__(self, page, x, y, width, extent):
        left, top, right, bottom = extent
        self.page = page
        self.extent = extent
        self.scale = width / (right - left)
        height = self.scale * (bottom - top)
        self.axes = page.figure.add_axes(
            (x / page.width, 1.0 - (y + height) / page.height, width / page.width,
             height / page.height)
        )  # fmt: skip
        self.axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
        self.axes.set_facecolor("#F2F2F2")
        for spine in self.axes.spines.values():
            spine.set(linewidth=0.5, color=NEUTRAL)
        # Corners of labels and of dots, (.., 4), that stand already.
        self._labels, self._marks = np.empty((0, 4)), np.empty((0, 4))

    def image(self, image: np.ndarray, size: tuple[int, int], strength: float = 1.0) -> None:
        """Show uint8 RGB (H, W, 3) from (0, 0) to ``size`` (width, height).

        Below 1, ``strength`` fades it to white, so that marks stand out.
        """
        if strength < 1.0:
            image = (255.0 - (255.0 - image) * strength).astype(np.uint8)
        shown = size[0] * self.scale * self.page.figure.dpi / 72.0
        if abs(image.shape[1] - shown) < 1.0:
            interpolation = "nearest"
        else:
            interpolation = "bicubic" if image.shape[1] < shown else "antialiased"
        self.axes.imshow(
            image, extent=(0, size[0], size[1], 0), interpolation=interpolation, aspect="auto"
        )
        left, top, right, bottom = self.extent
        self.axes.set(xlim=(left, right), ylim=(bottom, top))

    def box(
        self, box: Sequence[float], color: str, *, width: float = 1.5, dashed: bool = False,
        halo: bool = True, alpha: float = 1.0,
    ) -> None:  # fmt: skip
        """A frame, by default on a thin white one, so that it shows on every background."""
        x1, y1, x2, y2 = (float(side) for side in box)
        corner, size = (x1, y1), (x2 - x1, y2 - y1)
        if halo:
            under = {"fill": False, "edgecolor": "white", "joinstyle": "miter"}
            self.axes.add_patch(Rectangle(corner, *size, linewidth=width * 1.9, alpha=0.8, **under))
        self.axes.add_patch(
            Rectangle(
                corner, *size, fill=False, edgecolor=color, linewidth=width, alpha=alpha,
                linestyle=(0, (3, 2)) if dashed else "-", joinstyle="miter",
            )
        )  # fmt: skip

    def keep_clear(self, centers: np.ndarray, diameter: float) -> None:
        """Ask later labels not to stand on dots: centres (D, 2), diameter in points."""
        radius = diameter / 2 / self.scale
        self._marks = np.concatenate([self._marks, np.hstack([centers - radius, centers + radius])])

    def label(
        self, text: str, box: Sequence[float], color: str, size: float, *, wrong: bool = False
    ) -> None:
        """Write ``text`` on a plate beside a box, where no other label of this panel stands.

        The plate has the colour ``color``; with ``wrong`` it is white with a red frame. Where all
        places at the box are taken, it goes to the nearest free one, with a line to its box.
        """
        box = [float(side) for side in box]
        width = (self.page.text_width(text, size) + 2 * _LABEL_PAD) / self.scale
        height = (_LINE_HEIGHT * size + _LABEL_PAD) / self.scale
        place, is_beside = self._free_place(box, width, height)
        self._labels = np.concatenate([self._labels, [place]])
        x1, y1, x2, y2 = place
        if not is_beside:
            self.axes.plot(
                [(x1 + x2) / 2, (box[0] + box[2]) / 2], [(y1 + y2) / 2, (box[1] + box[3]) / 2],
                color=color, linewidth=0.1 * size, zorder=3.8,
            )  # fmt: skip
        back = "white" if wrong else color
        self.axes.add_patch(
            Rectangle(
                (x1, y1), x2 - x1, y2 - y1, facecolor=back, edgecolor=WRONG if wrong else "white",
                linewidth=0.1 * size if wrong else 0.04 * size, zorder=4,
            )
        )  # fmt: skip
        self.axes.text(
            (x1 + x2) / 2, (y1 + y2) / 2, text, fontsize=size, zorder=5, parse_math=False,
            color=WRONG if wrong else _readable_on(back), ha="center", va="center_baseline",
        )  # fmt: skip

    def _free_place(self, box, width, height):
        """A place (x1, y1, x2, y2) for a label, and whether it stands at its box.

        Labels never stand on each other unless the panel is full. Dots are kept clear too, as long
        as there is a place for that at the box or not further away than a third of the panel.
        """
        x1, y1, x2, y2 = box
        gap = 1.0 / self.scale
        beside = self._places([
            (x1, y1 - height - gap), (x1, y2 + gap), (x2 - width, y1 - height - gap),
            (x2 - width, y2 + gap), (x2 + gap, y1), (x1 - width - gap, y1),
            (x2 + gap, y2 - height), (x1 - width - gap, y2 - height), (x1, y1), (x1, y2 - height),
        ], width, height)  # fmt: skip
        everything = np.concatenate([self._labels, self._marks])
        free = np.flatnonzero(_overlaps(beside, everything) == 0)
        if len(free):
            return beside[free[0]], True
        left, top, right, bottom = self.extent
        ys, xs = np.arange(top, bottom, height * 1.05), np.arange(left, right, width * 0.5)
        around = self._places([(x, y) for y in ys for x in xs], width, height)
        distances = np.abs((around[:, :2] + around[:, 2:] - [x1 + x2, y1 + y2]) / 2).sum(axis=1)
        around = around[np.argsort(distances, kind="stable")]
        near = around[np.sort(distances) < max(right - left, bottom - top) / 3]
        for places, taken, is_beside in (
            (near, everything, False), (beside, self._labels, True), (around, self._labels, False)
        ):  # fmt: skip
            free = np.flatnonzero(_overlaps(places, taken) == 0)
            if len(free):
                return places[free[0]], is_beside
        return beside[_overlaps(beside, self._labels).argmin()], True

    def _places(self, corners: list[tuple[float, float]], width: float, height: float):
        """(Q, 4) places of labels with these top left corners, moved into the panel."""
        left, top, right, bottom = self.extent
        low = np.maximum(
            np.minimum(np.array(corners), [right - width, bottom - height]), [left, top]
        )
        return np.hstack([low, low + [width, height]])


def _overlaps(places: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """(Q,) the area that each place (Q, 4) shares with the taken ones (T, 4)."""
    low = np.maximum(places[:, None, :2], taken[None, :, :2])
    high = np.minimum(places[:, None, 2:], taken[None, :, 2:])
    return np.clip(high - low, 0, None).prod(axis=2).sum(axis=1)


def _readable_on(color: str) -> str:
    red, green, blue = to_rgb(color)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.53 else "white"
