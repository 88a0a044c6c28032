"""SSD from its paper, box by box and anchor by anchor, in plain Python.

Nothing here is shared with the library.
"""

import math

from tests.reference.boxes import iou


def anchor_sizes(side, next_side, ratios):
    """Width and height of a location's anchors (section 2.2), in the library's order."""
    sizes = [(side, side), (math.sqrt(side * next_side),) * 2]
    for ratio in ratios:
        width, height = side * math.sqrt(ratio), side / math.sqrt(ratio)
        sizes += [(width, height), (height, width)]
    return sizes


def match(anchors, gt_boxes, threshold=0.5):
    """The box of every anchor, -1 for background (section 2.2, "Matching strategy").

    First every anchor takes the box it overlaps most, if by enough; then every box takes its best
    anchor, whatever that has. Where several boxes have the same best anchor, the one that overlaps
    it most takes it, of equals the first.
    """
    matched = []
    for anchor in anchors:
        overlaps = [iou(anchor, box) for box in gt_boxes]
        best = max(overlaps, default=0.0)
        matched.append(overlaps.index(best) if gt_boxes and best >= threshold else -1)
    taken = {}
    for index, box in enumerate(gt_boxes):
        overlaps = [iou(anchor, box) for anchor in anchors]
        best = overlaps.index(max(overlaps))
        if overlaps[best] > taken.get(best, 0.0):
            matched[best], taken[best] = index, overlaps[best]
    return matched


def hard_negatives(losses, is_positive, ratio):
    """Which anchors of one image are counted as negatives: the worst, ``ratio`` for a positive."""
    negatives = [i for i, positive in enumerate(is_positive) if not positive]
    negatives.sort(key=lambda i: -losses[i])  # stable: of equals the first
    chosen = negatives[: int(ratio * sum(is_positive))]
    return [i in chosen for i in range(len(losses))]


def cross_entropy(logits, label):
    """-log of the softmax at ``label``."""
    highest = max(logits)
    return math.log(sum(math.exp(x - highest) for x in logits)) + highest - logits[label]


def smooth_l1(difference, beta=1.0):
    distance = abs(difference)
    return 0.5 * distance**2 / beta if distance < beta else distance - 0.5 * beta


def encode(anchor, box, weights):
    """Offsets of a box from an anchor, divided by the paper's variances."""
    width, height = anchor[2] - anchor[0], anchor[3] - anchor[1]
    box_width, box_height = box[2] - box[0], box[3] - box[1]
    return (
        weights[0] * ((box[0] + box[2]) - (anchor[0] + anchor[2])) / 2 / width,
        weights[1] * ((box[1] + box[3]) - (anchor[1] + anchor[3])) / 2 / height,
        weights[2] * math.log(box_width / width),
        weights[3] * math.log(box_height / height),
    )


def losses(anchors, logits, deltas, targets, *, num_classes, ratio=3.0, threshold=0.5, beta=1.0,
           weights=(10.0, 10.0, 5.0, 5.0)):  # fmt: skip
    """Both losses and the number of positive anchors of a batch (equations 1 to 3).

    Args:
        anchors: R boxes.
        logits, deltas: for each image R lists of C + 1 and of 4 numbers.
        targets: for each image boxes and classes.
    """
    class_loss, box_loss, num_positive = 0.0, 0.0, 0
    for image_logits, image_deltas, (gt_boxes, gt_classes) in zip(
        logits, deltas, targets, strict=True
    ):
        matched = match(anchors, gt_boxes, threshold)
        entropies = [
            cross_entropy(row, num_classes if index < 0 else gt_classes[index])
            for row, index in zip(image_logits, matched, strict=True)
        ]
        is_positive = [index >= 0 for index in matched]
        is_negative = hard_negatives(entropies, is_positive, ratio)
        for r, index in enumerate(matched):
            if is_positive[r] or is_negative[r]:
                class_loss += entropies[r]
            if is_positive[r]:
                code = encode(anchors[r], gt_boxes[index], weights)
                box_loss += sum(
                    smooth_l1(delta - target, beta)
                    for delta, target in zip(image_deltas[r], code, strict=True)
                )
        num_positive += sum(is_positive)
    normalizer = max(1, num_positive)
    return class_loss / normalizer, box_loss / normalizer, num_positive
