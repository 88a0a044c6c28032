"""Accuracy of a classifier, counted image by image."""


def ranking(row):
    """Class indices by falling figure; of equal ones the lower index comes first."""
    return sorted(range(len(row)), key=lambda index: (-row[index], index))


def accuracy(rows, labels, among=1):
    """Per cent of the labels that are one of the first ``among`` of their row's ranking."""
    hits = 0
    for row, label in zip(rows, labels, strict=True):
        if label in ranking(row)[:among]:
            hits += 1
    return 100 * hits / len(labels)


def confusion(rows, labels, num_classes):
    counts = [[0] * num_classes for _ in range(num_classes)]
    for row, label in zip(rows, labels, strict=True):
        counts[label][ranking(row)[0]] += 1
    return counts


def class_accuracies(rows, labels, num_classes):
    """Per cent of each class, None for a class that no image has."""
    result = []
    for wanted in range(num_classes):
        own = [(row, label) for row, label in zip(rows, labels, strict=True) if label == wanted]
        result.append(accuracy(*zip(*own, strict=True)) if own else None)
    return result
