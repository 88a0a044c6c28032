"""Average precision, precision and recall of multi-label outputs, class by class and over all.

A label is 1 where a class is there, 0 where it is not and -1 where that is not known; such a pair
of image and class counts nowhere.
"""

import numpy as np
import torch
from torch import Tensor

# Divided, since 3 * 0.1 > 3 / 10: a recall of exactly 0.3 must reach its threshold.
_VOC_RECALLS = np.arange(11) / 10


def average_precisions(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Average precision of each class, and that of VOC 2007.

    Precision and recall change from one distinct output to the next lower one: equal outputs are
    one threshold, and the order of the images plays no part. The first figure is scikit-learn's
    ``average_precision_score``, the sum of precisions weighted by what recall grows. The second is
    the mean over the recalls 0, 0.1, ..., 1 of the highest precision at that recall or above.

    Args:
        outputs: (N, K) finite logits. Their sigmoids would rank differently: large ones are equal.
        labels: (N, K) of 1, 0 and -1.

    Returns:
        Two float64 (K,) in [0, 1], not a number for a class without positives.
    """
    from sklearn.metrics import precision_recall_curve  # takes a second to import

    outputs, labels = outputs.double().numpy(), labels.numpy()
    figures = np.full((2, labels.shape[1]), np.nan)
    for index in np.flatnonzero((labels == 1).any(axis=0)):
        is_known = labels[:, index] >= 0
        precision, recall, _ = precision_recall_curve(
            labels[is_known, index], outputs[is_known, index]
        )
        figures[0, index] = -np.sum(np.diff(recall) * precision[:-1])
        # The last point is no threshold: scikit-learn adds recall 0 with precision 1.
        reaches = recall[:-1, None] >= _VOC_RECALLS
        figures[1, index] = np.where(reaches, precision[:-1, None], 0.0).max(axis=0).mean()
    area, voc = torch.from_numpy(figures)
    return area, voc


def precision_recall(is_predicted: Tensor, labels: Tensor) -> dict[str, float]:
    """Precision, recall and their harmonic mean, averaged over classes (C) and over all pairs (O).

    Args:
        is_predicted: (N, K) bool.
        labels: (N, K) of 1, 0 and -1.

    Returns:
        ``CP``, ``CR``, ``CF1``, ``OP``, ``OR``, ``OF1`` in per cent; no figures without positives.
        ``CP`` and ``CR`` are means over the classes with positives, ``CF1`` is of these means. The
        precision of what is never predicted is 0.
    """
    is_there, is_predicted = labels == 1, is_predicted & (labels >= 0)
    correct = (is_there & is_predicted).sum(dim=0).double()
    there, predicted = is_there.sum(dim=0), is_predicted.sum(dim=0)
    is_ranked = there > 0
    if not is_ranked.any():
        return {}
    precision = (correct / predicted.clamp(min=1))[is_ranked].mean()
    recall = (correct / there)[is_ranked].mean()
    overall_precision = correct.sum() / predicted.sum().clamp(min=1)
    overall_recall = correct.sum() / there.sum()
    return {
        **_percentages("C", float(precision), float(recall)),
        **_percentages("O", float(overall_precision), float(overall_recall)),
    }


def highest_classes(outputs: Tensor, labels: Tensor, number: int) -> Tensor:
    """(N, K) bool: each image's ``number`` highest outputs (N, K) among the classes known of it.

    Of equal outputs, that of the lower class index comes first.
    """
    known = outputs.masked_fill(labels < 0, -torch.inf)
    order = known.argsort(dim=1, descending=True, stable=True)
    is_highest = torch.zeros_like(known, dtype=torch.bool)
    return is_highest.scatter(1, order[:, :number], True) & (labels >= 0)


def _percentages(kind: str, precision: float, recall: float) -> dict[str, float]:
    both = precision + recall
    f1 = 2 * precision * recall / both if both > 0 else 0.0
    return {f"{kind}P": 100 * precision, f"{kind}R": 100 * recall, f"{kind}F1": 100 * f1}
