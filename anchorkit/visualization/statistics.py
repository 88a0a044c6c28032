"""How many locations and anchors of a set of images are positive, as a table to print."""

from dataclasses import dataclass, field

from tabulate import tabulate

from .level_labels import ImageLabels


@dataclass
class _LevelCounts:
    stride: float
    locations: int = 0
    positive: int = 0
    ignored: int = 0
    anchors: int = 0
    positive_anchors: int = 0


@dataclass
class AssignmentStatistics:
    """Counts over all images that were added.

    Attributes:
        levels: counts by the name of the level.
        num_images: images added.
        num_boxes: their ground-truth boxes.
        num_poorly_covered: boxes whose best anchor has an IoU below 0.5.
        num_without_location: boxes that no location stands for.
    """

    levels: dict[str, _LevelCounts] = field(default_factory=dict)
    num_images: int = 0
    num_boxes: int = 0
    num_poorly_covered: int = 0
    num_without_location: int = 0

    def add(self, labels: ImageLabels) -> None:
        """Count one image."""
        for level in labels.levels:
            counts = self.levels.setdefault(level.name, _LevelCounts(level.stride))
            counts.locations += level.labels.numel()
            counts.positive += int(level.is_positive.sum())
            counts.ignored += int((level.labels == -1).sum())
            counts.anchors += level.num_anchors
            counts.positive_anchors += level.num_positive_anchors
        self.num_images += 1
        self.num_boxes += len(labels.gt_boxes)
        self.num_poorly_covered += int((labels.best_iou < 0.5).sum())
        self.num_without_location += int((~labels.has_location).sum())

    def table(self) -> str:
        """Positives of each level and of all, then the figures that sum the images up."""
        rows = [
            [name, f"{c.stride:g}", c.locations, c.positive, c.ignored, c.anchors,
             c.positive_anchors]
            for name, c in self.levels.items()
        ]  # fmt: skip
        total = [sum(column) for column in zip(*(row[2:] for row in rows), strict=True)]
        rows.append(["all", "", *(total or [0] * 5)])
        headers = ["level", "stride", "locations", "positive", "ignored", "anchors",
                   "positive anchors"]  # fmt: skip
        locations, positive, _, anchors, positive_anchors = rows[-1][2:]
        facts = [
            ["images", self.num_images],
            ["ground-truth boxes", self.num_boxes],
            ["locations, positive : all", _ratio(positive, locations)],
            ["boxes without a positive location", self._share(self.num_without_location)],
        ]
        if anchors:
            facts += [
                ["anchors, positive : all", _ratio(positive_anchors, anchors)],
                ["locations : anchors, positive ones",
                 _ratio(positive, positive_anchors, digits=2)],
                ["boxes whose best anchor has IoU < 0.5", self._share(self.num_poorly_covered)],
            ]  # fmt: skip
        else:
            headers, rows = headers[:5], [row[:5] for row in rows]
        return f"{tabulate(rows, headers)}\n\n{tabulate(facts, tablefmt='plain')}"

    def _share(self, count: int) -> str:
        return f"{count} ({100.0 * count / self.num_boxes:.1f} %)" if self.num_boxes else "0"


def _ratio(part: int, whole: int, digits: int = 0) -> str:
    return f"1 : {whole / part:.{digits}f}" if part else f"0 : {whole}"
