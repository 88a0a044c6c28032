"""Background that is learned: only where it is hardest (SSD, section 2.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def hard_negatives(background_loss: Tensor, is_positive: Tensor, ratio: float) -> Tensor:
    """Choose, image by image, the background anchors with the highest loss.

    Args:
        background_loss: (N, R) loss of each anchor with the label background.
        is_positive: (N, R) bool; these are never chosen.
        ratio: anchors chosen for each positive one of the image, rounded down. An image without
            positive anchors gets none.

    Returns:
        (N, R) bool. Of equal losses the first anchor's counts as the harder one.
    """
    # Losses are 0 or more: positive anchors come last, and are beyond the count or masked out.
    losses = background_loss.masked_fill(is_positive, -1.0)
    order = losses.argsort(stable=True, dim=1, descending=True)
    count = (ratio * is_positive.sum(1, keepdim=True)).floor()
    is_among_hardest = torch.arange(order.shape[1], device=order.device) < count
    return torch.zeros_like(is_positive).scatter_(1, order, is_among_hardest) & ~is_positive


def mined_cross_entropy(logits: Tensor, labels: Tensor, ratio: float) -> Tensor:
    """Sum of the cross-entropy of all positives and of each image's hardest background.

    Mining needs no graph, so that only the few that are chosen have one.

    Args:
        logits: (N, R, C + 1) float32, background last.
        labels: (N, R) int64: class, C for background, -1 for ignored.
        ratio: see :func:`hard_negatives`.
    """
    background = logits.shape[2] - 1
    is_positive = (labels >= 0) & (labels < background)
    with torch.no_grad():
        loss = logits.logsumexp(dim=2) - logits[..., background]
        # What is ignored comes last, like what is positive.
        loss = loss.masked_fill(labels < 0, -1.0)
        is_chosen = hard_negatives(loss, is_positive, ratio) & (labels == background)
        is_chosen |= is_positive
    return F.cross_entropy(logits[is_chosen], labels[is_chosen], reduction="sum")
