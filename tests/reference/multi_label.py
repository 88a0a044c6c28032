"""Multi-label images: labels object by object, and figures pair by pair from their definitions.

Labels are lists of 1, 0 and -1 for each image; a pair of image and class that is -1 counts nowhere.
"""

import math


def thresholds(outputs, labels):
    """(precision, recall) at each distinct output from the highest on, of one class."""
    known = [(z, y) for z, y in zip(outputs, labels, strict=True) if y >= 0]
    positives = sum(y for _, y in known)
    points = []
    for threshold in sorted({z for z, _ in known}, reverse=True):
        taken = [y for z, y in known if z >= threshold]
        points.append((sum(taken) / len(taken), sum(taken) / positives))
    return points


def average_precision(outputs, labels):
    """Of one class; None without positives."""
    if 1 not in labels:
        return None
    total, before = 0.0, 0.0
    for precision, recall in thresholds(outputs, labels):
        total += (recall - before) * precision
        before = recall
    return total


def voc_average_precision(outputs, labels):
    """VOC 2007's, at 11 recalls; None without positives."""
    if 1 not in labels:
        return None
    positives = labels.count(1)
    total = 0.0
    for tenths in range(11):
        best = 0.0
        for precision, recall in thresholds(outputs, labels):
            if 10 * round(recall * positives) >= tenths * positives:
                best = max(best, precision)
        total += best / 11
    return total


def column(rows, index):
    return [row[index] for row in rows]


def precision_recall(predicted, labels):
    """CP, CR, CF1, OP, OR and OF1 in per cent, of rows of bool and rows of labels."""
    precisions, recalls, sums = [], [], [0, 0, 0]
    for index in range(len(labels[0])):
        pairs = list(zip(column(predicted, index), column(labels, index), strict=True))
        correct = sum(1 for p, y in pairs if p and y == 1)
        num_predicted = sum(1 for p, y in pairs if p and y >= 0)
        num_there = sum(1 for _, y in pairs if y == 1)
        sums = [a + b for a, b in zip(sums, (correct, num_predicted, num_there), strict=True)]
        if num_there:
            precisions.append(correct / num_predicted if num_predicted else 0.0)
            recalls.append(correct / num_there)
    figures = {}
    for kind, precision, recall in (
        ("C", sum(precisions) / len(precisions), sum(recalls) / len(recalls)),
        ("O", sums[0] / sums[1] if sums[1] else 0.0, sums[0] / sums[2]),
    ):
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        figures |= {f"{kind}P": 100 * precision, f"{kind}R": 100 * recall, f"{kind}F1": 100 * f1}
    return figures


def ranking(outputs, labels):
    """The classes that are known of an image by falling output, the lower one first of equals."""
    known = [index for index, y in enumerate(labels) if y >= 0]
    return sorted(known, key=lambda index: (-outputs[index], index))


def top(rows, labels, number):
    """Rows of bool: the ``number`` first of each ranking."""
    result = []
    for outputs, known in zip(rows, labels, strict=True):
        first = ranking(outputs, known)[:number]
        result.append([index in first for index in range(len(outputs))])
    return result


def single(rows, labels):
    """The images with exactly one class, as (rows, labels)."""
    pairs = [(r, y) for r, y in zip(rows, labels, strict=True) if y.count(1) == 1]
    return [r for r, _ in pairs], [y for _, y in pairs]


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def confidence(rows, labels):
    """M[i][j]: mean sigmoid of class j on images of class i alone; None without such images."""
    rows, labels = single(rows, labels)
    number = len(labels[0]) if labels else 0
    result = [[None] * number for _ in range(number)]
    for i in range(number):
        for j in range(number):
            values = [
                sigmoid(r[j]) for r, y in zip(rows, labels, strict=True) if y[i] == 1 and y[j] >= 0
            ]
            if values:
                result[i][j] = sum(values) / len(values)
    return result


def figures(rows, labels, names):
    """All that an evaluation reports, in per cent."""
    single_rows, single_labels = single(rows, labels)
    kinds = [("", rows, labels)]
    if 0 < len(single_rows) < len(rows):
        kinds.append(("_single", single_rows, single_labels))
    result = {}
    for suffix, some, their in kinds:
        ap = [average_precision(column(some, k), column(their, k)) for k in range(len(names))]
        ranked = [value for value in ap if value is not None]
        if ranked:
            result[f"mAP{suffix}"] = 100 * sum(ranked) / len(ranked)
        if len(ranked) < len(names):
            result[f"num_classes_ranked{suffix}"] = len(ranked)
        for name, value in zip(names, ap, strict=True):
            result[f"AP{suffix}-{name}"] = math.nan if value is None else 100 * value
    voc = [voc_average_precision(column(rows, k), column(labels, k)) for k in range(len(names))]
    voc = [value for value in voc if value is not None]
    if voc:
        result["mAP_11point"] = 100 * sum(voc) / len(voc)
        result |= precision_recall([[z > 0 for z in row] for row in rows], labels)
        if len(names) > 3:
            of_top = precision_recall(top(rows, labels, 3), labels)
            result |= {f"{name}_top3": value for name, value in of_top.items()}
    if single_rows:
        pairs = list(zip(single_rows, single_labels, strict=True))
        right = sum(1 for r, y in pairs if y[ranking(r, y)[0]] == 1)
        result["acc1_single"] = 100 * right / len(pairs)
        own, others = [], []
        for i, row in enumerate(confidence(rows, labels)):
            for j, value in enumerate(row):
                if value is not None:
                    (own if i == j else others).append(value)
        result["diagonal_confidence"] = 100 * sum(own) / len(own)
        if others:
            result["off_diagonal_confidence"] = 100 * sum(others) / len(others)
    return result


def labels_of(objects, classes, difficult):
    """One label a class for an image's objects (class name, whether it is marked difficult)."""
    labels = []
    for wanted in classes:
        label = 0
        for name, is_difficult in objects:
            if name == wanted and not is_difficult:
                label = 1
                break
            if name == wanted and difficult != "negative":
                label = 1 if difficult == "positive" else -1
        labels.append(label)
    return labels
