"""Slow oracles of the focal losses, for one logit; eq. numbers are of arXiv 2009.04989."""

import math


def sigmoid(x):
    """1 / (1 + exp(-x)) without overflow."""
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


def log_sigmoid(x):
    """log(sigmoid(x)); log(1 - sigmoid(x)) is log_sigmoid(-x)."""
    return min(x, 0.0) - math.log1p(math.exp(-abs(x)))


def focal_loss(logit, is_positive, *, alpha, beta):
    """Focal loss of one logit (Lin et al. 2017, eq. 5); the paper calls the exponent beta."""
    p = sigmoid(logit)
    if is_positive:
        return -alpha * (1.0 - p) ** beta * log_sigmoid(logit)
    return -(1.0 - alpha) * p**beta * log_sigmoid(-logit)


def soft_targets(ious, sigma):
    """Eq. 2: IoUs of a location's K anchors relative to the highest, to the power of sigma.

    The maximum is over all K, positive or not (A6), and at least 1e-6.
    """
    highest = max(max(ious), 1e-6)
    return [(value / highest) ** sigma for value in ious]


def smoothed_focal_loss(logit, soft_target, is_positive, *, alpha, beta):
    """Eq. 3 for one anchor."""
    p = sigmoid(logit)
    if is_positive:
        return -alpha * abs(soft_target - p) ** beta * soft_target * log_sigmoid(logit)
    return -(1.0 - alpha) * p**beta * log_sigmoid(-logit)


def quality_focal_loss(logit, soft_target, is_positive, *, beta):
    """Quality focal loss (Li et al. 2020, eq. 2) with the soft target y, and y = 0 on negatives."""
    p = sigmoid(logit)
    y = soft_target if is_positive else 0.0
    cross_entropy = -y * log_sigmoid(logit) - (1.0 - y) * log_sigmoid(-logit)
    return abs(y - p) ** beta * cross_entropy
