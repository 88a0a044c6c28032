"""Accuracies and confusion counts of a classifier; of equal figures the lower class is first."""

from collections.abc import Iterator

import torch
from torch import Tensor


def highest_class(figures: Tensor) -> Tensor:
    """(N,) the class with the highest of the figures (N, K), of several the one that comes first.

    ``argmax`` leaves open which of several it is.
    """
    classes = torch.arange(figures.shape[1])
    is_highest = figures == figures.amax(dim=1, keepdim=True)
    return torch.where(is_highest, classes, figures.shape[1]).amin(dim=1)


def label_ranks(figures: Tensor, labels: Tensor) -> Tensor:
    """(N,) how many classes come before the label (N,) in the order of the figures (N, K).

    Of equal figures, that of the lower class index comes first.
    """
    figure = figures.gather(1, labels[:, None])
    is_before = torch.arange(figures.shape[1]) < labels[:, None]
    return ((figures > figure) | ((figures == figure) & is_before)).sum(dim=1)


def confusion_counts(labels: Tensor, predictions: Tensor, num_classes: int) -> Tensor:
    """(K, K) int64: how many images of class i (row) were taken for class j (column)."""
    pairs = torch.bincount(labels * num_classes + predictions, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes)


def accuracies(decodings: dict[str, Tensor], labels: Tensor) -> dict[str, float]:
    """Top-1 accuracy of each protocol, and top-5 of the first one, in per cent.

    Args:
        decodings: by protocol, figures (N, K), or (R, N, K) of R permutations.
        labels: (N,).

    Returns:
        ``acc1`` and, where K > 5, ``acc5`` of the protocol ""; ``acc1_<protocol>`` of the others;
        of R permutations the mean, and ``_min`` and ``_max``. Not a number where a figure is not.
    """
    figures = {}
    for protocol, decoding in decodings.items():
        name = f"acc1_{protocol}" if protocol else "acc1"
        each = list(_ranks(decoding, labels))
        shares = [_share_below(ranks, 1) for ranks in each]
        figures[name] = sum(shares) / len(shares)
        if decoding.ndim == 3:
            figures[f"{name}_min"], figures[f"{name}_max"] = min(shares), max(shares)
        if not protocol and decoding.shape[-1] > 5:
            figures["acc5"] = _share_below(each[0], 5)
    return figures


def _ranks(decoding: Tensor, labels: Tensor) -> Iterator[Tensor | None]:
    """Ranks of the labels for figures (N, K), or one by one for those of R permutations.

    None where the figures cannot be put in order.
    """
    is_usable = not decoding.isnan().any()
    for figures in decoding if decoding.ndim == 3 else decoding[None]:
        yield label_ranks(figures, labels) if is_usable else None


def _share_below(ranks: Tensor | None, limit: int) -> float:
    if ranks is None:
        return float("nan")
    return 100.0 * int((ranks < limit).sum()) / len(ranks)
