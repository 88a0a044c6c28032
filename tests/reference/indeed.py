"""INDeeD's pairs, masks and losses (equations 1 to 11) in plain loops over numbers."""

import math


def is_valid(first, second):
    """Eqs 1 and 2 for two label lists of 0, 1 and -1 (not known, taken as not there)."""
    first, second = ([max(value, 0) for value in labels] for labels in (first, second))
    shares = any(a and b for a, b in zip(first, second, strict=True))
    return shares and first != second


def mask(first, second, kind):
    product = [a * b for a, b in zip(first, second, strict=True)]
    if kind == "l2":
        norm = max(math.sqrt(sum(value**2 for value in product)), 1e-6)
        return [value / norm for value in product]
    low, high = min(product), max(product)
    return [(value - low) / max(high - low, 1e-6) for value in product]


def binary_loss(outputs, labels):
    """Eq. 10: the sum over the classes that are known."""
    total = 0.0
    for z, y in zip(outputs, labels, strict=True):
        if y < 0:
            continue
        p = 1 / (1 + math.exp(-z))
        total -= y * math.log(p) + (1 - y) * math.log(1 - p)
    return total


def linear(weight, bias, feature):
    return [
        sum(w * f for w, f in zip(row, feature, strict=True)) + b
        for row, b in zip(weight, bias, strict=True)
    ]


def both(a, b):
    """Whether both are there: 1, 0, or -1 where it is not known."""
    if 0 in (a, b):
        return 0
    return 1 if (a, b) == (1, 1) else -1


def lacks(a, b):
    """Whether the first is there and the second is not: 1, 0, or -1 where it is not known."""
    return both(a, {0: 1, 1: 0, -1: -1}[b])


def losses(features, labels, partner, weight, bias, kind, default_pair, default_weight=1.0):
    """Own, identical and disparate loss, each averaged over the images."""
    totals = [0.0, 0.0, 0.0]
    for i, q in enumerate(partner):
        f, y, other = features[i], labels[i], labels[q]
        m = mask(f, features[q], kind)
        factor = default_weight if i == q else 1.0
        identical = [a * b for a, b in zip(m, f, strict=True)]
        disparate = [(1 - a) * b for a, b in zip(m, f, strict=True)]
        shared = [both(a, b) for a, b in zip(y, other, strict=True)]
        lacking = [lacks(a, b) for a, b in zip(y, other, strict=True)]
        totals[0] += factor * binary_loss(linear(weight, bias, f), y)
        if i != q or default_pair != "skip":
            totals[1] += factor * binary_loss(linear(weight, bias, identical), shared)
        if i != q or default_pair == "self":
            totals[2] += factor * binary_loss(linear(weight, bias, disparate), lacking)
    return [total / len(partner) for total in totals]
