"""OAT (equations 1 to 4) and its protocols in plain loops over numbers."""

import math
import random


def softmax(values):
    largest = max(values)
    powers = [math.exp(value - largest) for value in values]
    return [power / sum(powers) for power in powers]


def center(outputs, kind):
    """The centre of a batch: a list of rows of outputs."""
    rows = [softmax(row) for row in outputs] if kind == "softmax_mean" else outputs
    if kind == "uniform":
        return [0.0] * len(outputs[0])
    return [sum(row[k] for row in rows) / len(rows) for k in range(len(rows[0]))]


def anchor(outputs, kind, epsilon=0.0):
    return [max(value, epsilon) for value in softmax(center(outputs, kind))]


def loss(outputs, labels, kind, epsilon=0.0, reduction="mean"):
    """Eqs 1 to 3; ``labels`` are rows of targets in [0, 1]."""
    a = anchor(outputs, kind, epsilon)
    total = 0.0
    for row, label in zip(outputs, labels, strict=True):
        for k, value in enumerate(row):
            target = label[k] / a[k] - 1
            total += (target - value) ** 2
    count = len(outputs) * (len(outputs[0]) if reduction == "mean" else 1)
    return total / count


def decode(row, a):
    """Eq. 4."""
    return [a[k] * (row[k] + 1) for k in range(len(row))]


def decode_in_chunks(outputs, order, size, kind, epsilon=0.0):
    """Each image's figures, when images are taken in ``order`` and cut into chunks."""
    figures = [None] * len(outputs)
    for start in range(0, len(order), size):
        members = order[start : start + size]
        a = anchor([outputs[i] for i in members], kind, epsilon)
        for i in members:
            figures[i] = decode(outputs[i], a)
    return figures


def random_outputs(number, num_classes, scale=3.0, seed=0):
    rng = random.Random(seed)
    return [[rng.gauss(0, scale) for _ in range(num_classes)] for _ in range(number)]
