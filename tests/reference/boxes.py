"""Slow oracles on single boxes: plain Python floats in double precision.

Boxes are (x1, y1, x2, y2). Nothing here is shared with the library.
"""

import math

# detectron2 and its ancestors limit the growth of a side to this factor before the exponential.
MAX_LOG_SCALE = math.log(1000.0 / 16)


def area(box):
    """Area; 0 for a box without width or height and for an inverted one."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def intersection(box1, box2):
    """Area that two boxes share."""
    width = min(box1[2], box2[2]) - max(box1[0], box2[0])
    height = min(box1[3], box2[3]) - max(box1[1], box2[1])
    return max(0.0, width) * max(0.0, height)


def iou(box1, box2):
    """Intersection over union; 0 where the union is empty."""
    shared = intersection(box1, box2)
    union = area(box1) + area(box2) - shared
    return shared / union if union > 0 else 0.0


def decode(anchor, deltas, weights=(10.0, 10.0, 5.0, 5.0)):
    """Box that the code (dx, dy, dw, dh) makes of an anchor (Girshick 2015; decision A12)."""
    width, height = anchor[2] - anchor[0], anchor[3] - anchor[1]
    center_x = anchor[0] + 0.5 * width + deltas[0] / weights[0] * width
    center_y = anchor[1] + 0.5 * height + deltas[1] / weights[1] * height
    new_width = math.exp(min(deltas[2] / weights[2], MAX_LOG_SCALE)) * width
    new_height = math.exp(min(deltas[3] / weights[3], MAX_LOG_SCALE)) * height
    return [
        center_x - 0.5 * new_width,
        center_y - 0.5 * new_height,
        center_x + 0.5 * new_width,
        center_y + 0.5 * new_height,
    ]


def box_loss(pred, target, kind):
    """Loss of one box: -log IoU (Yu et al. 2016), 1 - IoU, or 1 - GIoU (decision A11)."""
    overlap = iou(pred, target)
    if kind == "iou_log":
        return -math.log(max(overlap, 1e-6))
    if kind == "iou_linear":
        return 1.0 - overlap
    assert kind == "giou", kind
    union = area(pred) + area(target) - intersection(pred, target)
    hull = area(
        [
            min(pred[0], target[0]),
            min(pred[1], target[1]),
            max(pred[2], target[2]),
            max(pred[3], target[3]),
        ]
    )
    return 1.0 - overlap + ((hull - union) / hull if hull > 0 else 0.0)


def nms(candidates, iou_threshold):
    """Class-wise greedy suppression of (score, class, box), best first."""
    kept = []
    for score, c, box in sorted(candidates, key=lambda item: -item[0]):
        if all(c != other or iou(box, b) <= iou_threshold for _, other, b in kept):
            kept.append((score, c, box))
    return kept
