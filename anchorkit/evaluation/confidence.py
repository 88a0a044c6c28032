"""How sure a multi-label classifier is of each class on the images of one class: as a file, too."""

import json
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError


def confidence_map(scores: Tensor, labels: Tensor) -> Tensor:
    """(K, K) float64: the mean score of class j (column) on images that have class i (row) alone.

    Args:
        scores: (N, K) in [0, 1].
        labels: (N, K), 1, 0, or -1 where it is not known; such a score is left out of the mean.

    Returns:
        Not a number where there are no such images.
    """
    is_single = single_label(labels)
    scores, labels = scores[is_single].double(), labels[is_single]
    is_class, is_known = (labels == 1).double(), (labels >= 0).double()
    return is_class.T @ (scores * is_known) / (is_class.T @ is_known)


def single_label(labels: Tensor) -> Tensor:
    """(N,) bool: images that have exactly one class for certain, for labels (N, K)."""
    return (labels == 1).sum(dim=1) == 1


def mean_confidences(confidence: Tensor) -> tuple[float, float]:
    """The mean on the diagonal of a map, the images' own classes, and the mean off it.

    Not a number for one class alone, or a map without a number.
    """
    is_own = torch.eye(len(confidence), dtype=torch.bool)
    return float(confidence[is_own].nanmean()), float(confidence[~is_own].nanmean())


def caption(confidence: Tensor) -> str:
    """Both means in words."""
    means = zip(("own class", "others"), mean_confidences(confidence), strict=True)
    return ", ".join(f"{name} {100 * mean:.1f} %" for name, mean in means if math.isfinite(mean))


def map_content(confidence: Tensor, class_names: Sequence[str]) -> dict:
    """A map as ``confidence.json`` holds it; null where it is not a number."""
    rows = [[None if math.isnan(value) else value for value in row] for row in confidence.tolist()]
    return {"classes": list(class_names), "confidence": rows}


def read_confidence(path: str) -> tuple[list[str], Tensor]:
    """Class names and map of a ``confidence.json``.

    Raises:
        UserError: the file cannot be read or is not one of these.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        class_names = [str(name) for name in content["classes"]]
        confidence = torch.tensor(np.array(content["confidence"], dtype=np.float64))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: expected a confidence.json as a multi-label evaluation writes it; cannot be "
            f"read: {error!r}"
        ) from error
    shape = (len(class_names), len(class_names))
    if confidence.shape != shape or not class_names:
        raise UserError(
            f"{path}: expected a confidence for each pair of {len(class_names)} classes, got "
            f"{' x '.join(map(str, confidence.shape))}; evaluate again"
        )
    return class_names, confidence
