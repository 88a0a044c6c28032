"""From which score on a detector's boxes are worth showing: where F1 is highest."""

from collections.abc import Iterable

import numpy as np
from detectron2.structures import Instances

from ..visualization.detections import ground_truth, match_detections


def best_f1_thresholds(
    images: Iterable[tuple[dict, Instances]], num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """For each class the score from which on its detections have the highest F1 at IoU 0.5.

    F1 = 2 TP / (detections + objects) is the harmonic mean of precision and recall.

    Args:
        images: detectron2's dict of each, with its annotations, and its detections in its pixels.
        num_classes: C.

    Returns:
        thresholds (C,), and F1 (C,) there. A class of which no object is found has F1 NaN or 0,
        and the threshold that is best for all classes together.
    """
    scores, classes, correct, objects = [], [], [], [np.zeros(0, dtype=np.int64)]
    for record, instances in images:
        truth = ground_truth(record)
        order = instances.scores.argsort(descending=True, stable=True)
        instances = instances[order]
        of_class = instances.pred_classes.numpy()
        is_correct, _, is_counted = match_detections(
            instances.pred_boxes.tensor.numpy().astype(np.float64), of_class, truth
        )
        scores.append(instances.scores.numpy()[is_counted])
        classes.append(of_class[is_counted])
        correct.append(is_correct[is_counted])
        objects.append(truth.classes[~truth.is_crowd])
    scores, classes, correct = (np.concatenate(parts) for parts in (scores, classes, correct))
    num_objects = np.bincount(np.concatenate(objects), minlength=num_classes)
    return thresholds_of_classes(scores, classes, correct, num_objects)


def thresholds_of_classes(
    scores: np.ndarray, classes: np.ndarray, correct: np.ndarray, num_objects: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What :func:`best_f1_thresholds` returns, from detections that are matched already.

    Args:
        scores, classes, correct: (Q,) of the detections of all images that count.
        num_objects: (C,) objects of each class.
    """
    fallback, _ = _best(scores, correct, num_objects.sum())
    pairs = []
    for index, number in enumerate(num_objects):
        mine = classes == index
        threshold, f1 = _best(scores[mine], correct[mine], number)
        pairs.append((threshold if f1 > 0 else fallback, f1))
    thresholds, f1 = np.array(pairs).T
    return thresholds, f1


def _best(scores: np.ndarray, correct: np.ndarray, num_objects: int) -> tuple[float, float]:
    """The threshold with the highest F1, of equals the highest, and that F1."""
    if len(scores) == 0 or num_objects == 0:
        return 1.0, 0.0 if num_objects else float("nan")
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], correct[order].cumsum()
    f1 = 2 * hits / (np.arange(1, len(scores) + 1) + num_objects)
    # Detections with equal scores are above a threshold together.
    f1[:-1][scores[1:] == scores[:-1]] = -1
    best = int(f1.argmax())
    return float(scores[best]), float(f1[best])
