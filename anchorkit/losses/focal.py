"""Focal losses with soft labels. Logits in, unreduced float32 losses out."""

import torch
from torch import Tensor
from torch.nn import functional as F


def soft_anchor_targets(iou: Tensor, sigma: float) -> Tensor:
    """Semi-Anchored eq. 2: IoU relative to the best anchor of the location, to the power sigma.

    Args:
        iou: (Q, K) IoU of the K refined anchors of Q locations with their boxes.
        sigma: exponent in (0, 1].

    Returns:
        (Q, K) in [0, 1]; 1 at the best anchor of each location that overlaps at all.
    """
    return (iou / iou.amax(dim=-1, keepdim=True).clamp(min=1e-6)).pow(sigma)


def smoothed_focal_loss(
    logits: Tensor, soft_targets: Tensor, is_positive: Tensor, *, alpha: float, beta: float
) -> Tensor:
    """Semi-Anchored eq. 3, with p the sigmoid of the logits and y the soft target::

        positive:  -alpha * |y - p|^beta * y * log(p)
        negative:  -(1 - alpha) * p^beta * log(1 - p)

    With y = 1 this is the focal loss of Lin et al. (2017).

    Args:
        logits, soft_targets, is_positive: of one shape; targets are used at positives only and
            get no gradient.

    Returns:
        float32 losses of the same shape.
    """
    logits, targets = logits.float(), soft_targets.detach().float()
    scores = logits.sigmoid()
    distance = torch.where(is_positive, (targets - scores).abs(), scores)
    weight = torch.where(is_positive, alpha * targets, logits.new_tensor(1 - alpha))
    log_likelihood = F.logsigmoid(torch.where(is_positive, logits, -logits))
    return -weight * _power(distance, beta) * log_likelihood


def quality_focal_loss(
    logits: Tensor, soft_targets: Tensor, is_positive: Tensor, *, beta: float
) -> Tensor:
    """Quality focal loss (Li et al., 2020): ``|y - p|^beta * BCE(p, y)``, y = 0 at negatives.

    Args:
        logits, soft_targets, is_positive: of one shape; targets are used at positives only and
            get no gradient.

    Returns:
        float32 losses of the same shape.
    """
    logits = logits.float()
    targets = torch.where(is_positive, soft_targets.detach().float(), 0.0)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return _power((targets - logits.sigmoid()).abs(), beta) * cross_entropy


def _power(distance: Tensor, beta: float) -> Tensor:
    # The gradient of x^beta at 0 is infinite for beta < 1 and 0 * inf inside autograd otherwise.
    return distance if beta == 1 else distance.clamp(min=1e-12).pow(beta)
