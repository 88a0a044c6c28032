"""Which background anchors are learned: the hardest ones (SSD, section 2.2)."""

import torch
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
