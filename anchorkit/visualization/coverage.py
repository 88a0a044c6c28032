"""How well a detector's anchors or locations cover the boxes of a data set, as tables to print."""

from collections.abc import Sequence

import numpy as np
from tabulate import tabulate

from .canvas import class_name
from .level_labels import ImageLabels

# COCO's small, medium and large boxes, by their area in the file.
_AREAS = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, np.inf)}
_MIN_IOU = 0.5
_NUM_BINS = 10
_BAR = 40
_MAX_CLASSES = 20


class BoxCoverage:
    """Figures of all boxes that were added.

    Args:
        class_names: names by class; classes without one are numbered.
    """

    def __init__(self, class_names: Sequence[str] | None):
        self.class_names = class_names
        self._rows = []  # of each image: class, area in the file, best IoU, has a location, side
        self._levels = {}  # by name: stride; of each image: locations, positives, sides served

    def add(self, labels: ImageLabels, areas: np.ndarray) -> None:
        """Add an image.

        Args:
            labels: of :func:`label_levels`.
            areas: (M,) of its boxes in the file, pixels.
        """
        boxes = labels.gt_boxes.double().numpy()
        sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
        self._rows.append(
            np.stack([labels.gt_classes.numpy(), areas, labels.best_iou.numpy(),
                      labels.has_location.numpy(), sides], axis=1)
        )  # fmt: skip
        for level in labels.levels:
            served = level.gt_index[level.is_positive].unique().numpy()
            counts = (level.labels.numel(), int(level.is_positive.sum()), sides[served])
            self._levels.setdefault(level.name, (level.stride, []))[1].append(counts)

    @property
    def share_uncovered(self) -> float:
        """Share of boxes that no anchor overlaps by more than 0.5; not a number without boxes."""
        return _mean(self._boxes[:, 2] <= _MIN_IOU)

    @property
    def mean_iou(self) -> float:
        """Mean IoU of boxes with their best anchors; not a number without anchors."""
        return _mean(self._boxes[:, 2])

    @property
    def _boxes(self) -> np.ndarray:
        return np.concatenate([np.zeros((0, 5)), *self._rows])

    def tables(self, ranges: dict[str, str] | None = None) -> str:
        """Levels, sizes, and with anchors the histogram of the best IoU.

        Args:
            ranges: by the name of a level, which boxes it is for.
        """
        boxes = self._boxes
        areas = boxes[:, 1]
        by_size = {"all": np.ones(len(boxes), dtype=bool)}
        by_size |= {n: (areas >= low) & (areas < high) for n, (low, high) in _AREAS.items()}
        parts = [
            self._level_table(ranges),
            _box_table("boxes", {n: boxes[r] for n, r in by_size.items()}, self._has_anchors),
        ]
        if self._has_anchors:
            parts.append(_histogram(boxes[:, 2]))
        return "\n\n".join(parts)

    def class_table(self) -> str:
        """The classes, least covered first."""
        boxes, title = self._boxes, "class"
        groups = {
            class_name(self.class_names, label): boxes[boxes[:, 0] == label]
            for label in np.unique(boxes[:, 0])
        }
        column, least = (2, _MIN_IOU) if self._has_anchors else (3, 0.0)
        worst = sorted(groups, key=lambda name: (groups[name][:, column] > least).mean())
        if len(worst) > _MAX_CLASSES:
            title = f"the {_MAX_CLASSES} least covered of {len(worst)} classes"
        rows = {name: groups[name] for name in worst[:_MAX_CLASSES]}
        return _box_table(title, rows, self._has_anchors)

    @property
    def _has_anchors(self) -> bool:
        return not np.isnan(self._boxes[:, 2]).any()

    def _level_table(self, ranges: dict[str, str] | None) -> str:
        rows = []
        for name, (stride, images) in self._levels.items():
            locations, positives = (sum(one[column] for one in images) for column in (0, 1))
            sides = np.concatenate([one[2] for one in images])
            spread = "—"
            if len(sides):
                spread = " – ".join(f"{x:.0f}" for x in np.percentile(sides, (5, 95)))
            per_box = f"{positives / len(sides):.1f}" if len(sides) else "—"
            rows.append([name, f"{stride:g}", *([ranges[name]] if ranges else []),
                         _percent(positives, locations), len(sides), per_box, spread])  # fmt: skip
        headers = ["level", "stride", *(["its range, px"] if ranges else []), "positive locations",
                   "boxes they stand for", "per box", "sides, px, 5 – 95 %"]  # fmt: skip
        return _right_aligned(rows, headers)


def _box_table(title: str, groups: dict[str, np.ndarray], has_anchors: bool) -> str:
    rows = []
    for name, boxes in groups.items():
        number = len(boxes)
        row = [name, number, f"{np.median(boxes[:, 4]):.0f}" if number else "—"]
        if has_anchors:
            row += [f"{boxes[:, 2].mean():.3f}" if number else "—",
                    _percent(int((boxes[:, 2] <= _MIN_IOU).sum()), number)]  # fmt: skip
        rows.append([*row, _percent(int((boxes[:, 3] == 0).sum()), number)])
    anchors = ["mean best IoU", "no anchor > 0.5"] if has_anchors else []
    headers = [title, "number", "median side, px", *anchors, "no positive location"]
    return _right_aligned(rows, headers)


def _right_aligned(rows: list[list], headers: list[str]) -> str:
    alignment = ("left", *["right"] * (len(headers) - 1)) if rows else None
    return tabulate(rows, headers, disable_numparse=True, colalign=alignment)


def _histogram(iou: np.ndarray) -> str:
    counts, edges = np.histogram(iou, bins=_NUM_BINS, range=(0, 1))
    tallest = max(counts.max(), 1)
    rows = [
        [f"{low:.1f} – {high:.1f}", _percent(count, len(iou)), "█" * round(_BAR * count / tallest)]
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ]
    return tabulate(rows, ["best IoU", "boxes", ""], disable_numparse=True,
                    colalign=("left", "right", "left"))  # fmt: skip


def _percent(part: int, whole: int) -> str:
    return f"{100.0 * part / whole:.2f} %" if whole else "—"


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
