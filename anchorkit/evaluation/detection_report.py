"""A detector's precision and recall, what it takes for what, and its worst images."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools.cocoeval import COCOeval

from ..visualization.detections import GroundTruth, match_objects
from .image_result import ImageResult, image_results
from .pictures import write_picture
from .predictions import distinct_names, write_rows
from .score_thresholds import thresholds_of_classes

# Overlaps whose curves of precision over recall are drawn.
CURVE_IOUS = (0.5, 0.75)
TABLE_HEADER = (
    "class", "objects", "AP", "AP50", "AP75", "threshold", "precision", "recall", "F1",
)  # fmt: skip


@dataclass(frozen=True)
class DetectionReport:
    """Detections of a data set; all but the curves at IoU 0.5 and one threshold for each class.

    Attributes:
        class_names: C of them, all different.
        recalls: (R,) of the curves.
        precision: (2, R, C) at the overlaps of ``CURVE_IOUS``, as COCO's evaluation has it: the
            highest one at a recall or above it. Not a number for a class without objects.
        ap: (3, C) average precision, COCO's and at each of ``CURVE_IOUS``.
        thresholds: (C,) lowest score that counts.
        confusion: (C + 1, C + 1) how many objects of a class (row) were taken for a class (column).
            The last row are detections without an object, the last column missed objects.
        images: from the one with the most errors to the one with the fewest; of equal ones that
            with fewer objects is first.
    """

    class_names: list[str]
    recalls: np.ndarray
    precision: np.ndarray
    ap: np.ndarray
    thresholds: np.ndarray
    confusion: np.ndarray
    images: list[ImageResult]

    def figures(self) -> list[tuple]:
        """A row of ``TABLE_HEADER`` for each class and one for "all"; all but scores in per cent.

        The AP of all is the mean over classes, as COCO's; precision, recall and F1 of all are those
        of all detections together. Not a number where there is nothing to divide by.
        """
        correct = self.confusion.diagonal()[:-1]
        found, objects = self.confusion.sum(axis=0)[:-1], self.confusion.sum(axis=1)[:-1]
        rows = zip(
            self.class_names, objects, self.ap.T, self.thresholds, correct, found, strict=True
        )
        ranked = self.ap[:, objects > 0]
        mean = ranked.mean(axis=1) if ranked.size else np.full(3, np.nan)
        every = ("all", objects.sum(), mean, np.nan, correct.sum(), found.sum())
        return [_row(*values) for values in (*rows, every)]

    def table(self) -> list[list[str]]:
        """The figures as texts, "—" where there is none."""
        digits = [4 if name == "threshold" else 2 for name in TABLE_HEADER[2:]]
        return [
            [name, str(objects), *map(_text, values, digits)]
            for name, objects, *values in self.figures()
        ]


def detection_report(
    coco_eval: COCOeval, class_names: Sequence[str], *, threshold: float | None = None
) -> DetectionReport:
    """Look into COCO's evaluation of boxes.

    Args:
        coco_eval: after ``accumulate``.
        class_names: in the order of the category ids.
        threshold: lowest score that counts, of all classes; None: for each class the one with the
            highest F1.
    """
    # (overlaps, recalls, classes), of objects of all sizes; -1 for a class without objects.
    precision = coco_eval.eval["precision"][:, :, :, 0, -1]
    precision = np.where(precision < 0, np.nan, precision)
    of_ious = precision[[int(np.abs(coco_eval.params.iouThrs - i).argmin()) for i in CURVE_IOUS]]
    images = list(image_results(coco_eval))
    if threshold is None:
        thresholds = _best_thresholds(images, len(class_names))
    else:
        thresholds = np.full(len(class_names), threshold)
    images = [image.above(thresholds) for image in images]
    return DetectionReport(
        class_names=distinct_names(class_names),
        recalls=coco_eval.params.recThrs,
        precision=of_ious,
        ap=np.stack([precision.mean(axis=(0, 1)), *of_ious.mean(axis=1)]),
        thresholds=thresholds,
        confusion=_confusion(images, len(class_names)),
        images=sorted(images, key=lambda image: (-image.num_errors, image.num_objects)),
    )


def write_report(report: DetectionReport, folder: str, title: str) -> dict[str, np.ndarray]:
    """Write ``classes.csv``, ``precision_recall.png`` and ``confusion.png`` into a folder.

    Args:
        report: of :func:`detection_report`.
        folder: made if it does not exist.
        title: what was evaluated, such as the data set.

    Returns:
        The two pictures, uint8 RGB, by their names without the ending.
    """
    # Imported here: matplotlib takes a second that training does not need to wait for.
    from ..visualization import draw_confusion, draw_precision_recall

    os.makedirs(folder, exist_ok=True)
    figures = report.figures()
    write_rows(os.path.join(folder, "classes.csv"), TABLE_HEADER, report.table())
    total, correct = figures[-1][1], int(report.confusion.diagonal().sum())
    num_false = int(report.confusion[:, :-1].sum()) - correct
    pictures = {
        "precision_recall": draw_precision_recall(
            report.recalls, dict(zip(CURVE_IOUS, report.precision, strict=True)),
            report.class_names, [(row[7] / 100, row[6] / 100) for row in figures],
            title=f"{title}: precision over recall",
        ),
        "confusion": draw_confusion(
            report.confusion, [*report.class_names, "background"],
            title=f"{title}: {total} objects, {correct} found; {num_false} false detections",
        ),
    }  # fmt: skip
    for name, pixels in pictures.items():
        write_picture(os.path.join(folder, f"{name}.png"), pixels)
    return pictures


def _best_thresholds(images: Sequence[ImageResult], num_classes: int) -> np.ndarray:
    scores, classes, partners = (
        np.concatenate([getattr(image, name)[image.is_counted] for image in images])
        for name in ("scores", "classes", "partners")
    )
    objects = np.concatenate([image.truth.classes[~image.truth.is_crowd] for image in images])
    num_objects = np.bincount(objects, minlength=num_classes)
    return thresholds_of_classes(scores, classes, partners >= 0, num_objects)[0]


def _confusion(images: Sequence[ImageResult], num_classes: int) -> np.ndarray:
    """Objects found by their class are on the diagonal; what is left is matched by IoU alone.

    So precision and recall of a class are its diagonal over the sum of its column and of its row.
    """
    pairs = []
    for image in images:
        truth, found = image.truth, image.truth.classes[image.found]
        is_missed, is_false = ~truth.is_crowd, image.partners < 0
        is_missed[image.found] = False
        missed, false = truth.classes[is_missed], image.classes[is_false]
        of_one_class = GroundTruth(
            truth.boxes[is_missed], np.zeros_like(missed), np.zeros(len(missed), dtype=bool)
        )
        partners = match_objects(image.boxes[is_false], np.zeros_like(false), of_one_class)
        unseen = np.delete(missed, partners[partners >= 0])
        pairs += [
            np.stack([found, found]),
            np.stack([np.append(missed, num_classes)[partners], false]),
            np.stack([unseen, np.full_like(unseen, num_classes)]),
        ]
    counts = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    np.add.at(counts, tuple(np.concatenate(pairs, axis=1)), 1)
    return counts


def _row(
    name: str, objects: int, ap: np.ndarray, threshold: float, correct: int, found: int
) -> tuple:
    return (
        name,
        int(objects),
        *(100 * float(value) for value in ap),
        float(threshold),
        _percentage(correct, found),
        _percentage(correct, objects),
        _percentage(2 * correct, found + objects),
    )


def _percentage(part: int, whole: int) -> float:
    return 100 * float(part) / float(whole) if whole else float("nan")


def _text(value: float, digits: int) -> str:
    return "—" if np.isnan(value) else f"{value:.{digits}f}"
