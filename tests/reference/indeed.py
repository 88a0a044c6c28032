"""INDeeD's pairs, masks and losses (equations 1 to 11) in plain loops over numbers."""

import math


def is_valid(first, second):
    """Eqs 1 and 2 for two label lists of 0 and 1."""
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
    """Eq. 10: the sum over the classes."""
    total = 0.0
    for z, y in zip(outputs, labels, strict=True):
        p = 1 / (1 + math.exp(-z))
        total -= y * math.log(p) + (1 - y) * math.log(1 - p)
    return total


def linear(weight, bias, feature):
    return [
        sum(w * f for w, f in zip(row, feature, strict=True)) + b
        for row, b in zip(weight, bias, strict=True)
    ]


def losses(features, labels, partner, weight, bias, kind, default_pair):
    """Own, identical and disparate loss, each averaged over the images."""
    totals = [0.0, 0.0, 0.0]
    for i, q in enumerate(partner):
        f, y, other = features[i], labels[i], labels[q]
        m = mask(f, features[q], kind)
        identical = [a * b for a, b in zip(m, f, strict=True)]
        disparate = [(1 - a) * b for a, b in zip(m, f, strict=True)]
        shared = [a and b for a, b in zip(y, other, strict=True)]
        lacking = [int(a and not b) for a, b in zip(y, other, strict=True)]
        totals[0] += binary_loss(linear(weight, bias, f), y)
        if i != q or default_pair != "skip":
            totals[1] += binary_loss(linear(weight, bias, identical), shared)
        if i != q or default_pair == "self":
            totals[2] += binary_loss(linear(weight, bias, disparate), lacking)
    return [total / len(partner) for total in totals]
