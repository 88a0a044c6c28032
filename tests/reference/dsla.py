"""Slow oracles of Dynamic Smooth Label Assignment (Su, He et al. 2022), from the paper.

Plain loops over Python floats, one function an equation; conventions are those of
tests/reference/fcos.py. One reading departs from the print: the two ramps of eq. 4 rise from the
relaxed bound to the old one, as the text says ("smoothed linearly"); as printed they jump from 1
to 0 at the old bound and come back to 1 at the relaxed one.
"""

import math

from tests.reference.boxes import area, iou
from tests.reference.fcos import (
    Labels,
    box_term,
    centerness,
    decode,
    distances,
    flat_locations,
    flatten_maps,
    is_inside,
    sampling_square,
)
from tests.reference.focal import quality_focal_loss, sigmoid
from tests.reference.semi_anchored import as_lists


def relaxed_bounds(lower, upper, kappa):
    """Eq. 3: the bounds of a level moved outwards; 0 and infinity stay where they are."""
    return lower * (1 - kappa), upper * (1 + kappa)


def interval_score(size, lower, upper, kappa):
    """Eq. 4 (head_s): 1 within the old bounds, linear to 0 at the relaxed ones.

    Bounds: lower < size <= upper is 1. With kappa 0 this is the hard range of eq. 1.
    """
    lowest, highest = relaxed_bounds(lower, upper, kappa)
    if lower < size <= upper:
        return 1.0
    if lowest < size <= lower:
        return (size - lowest) / (lower - lowest)
    if upper < size < highest:
        return (highest - size) / (highest - upper)
    return 0.0


def core_zone(box, stride):
    """Eq. 5: the square of one stride at the centre of the box, within the box."""
    center_x, center_y = 0.5 * (box[0] + box[2]), 0.5 * (box[1] + box[3])
    return (
        max(center_x - stride / 2, box[0]),
        max(center_y - stride / 2, box[1]),
        min(center_x + stride / 2, box[2]),
        min(center_y + stride / 2, box[3]),
    )


def smooth_centerness(point, box, stride):
    """Eq. 6 (centerness_s): 1 in the core zone and on its border, eq. 2 elsewhere."""
    left, top, right, bottom = core_zone(box, stride)
    if left <= point[0] <= right and top <= point[1] <= bottom:
        return 1.0
    return centerness(distances(point, box))


def level_score(point, box, bounds, *, kappa, size):
    """Eq. 4 of one location and box, for the size by which the host chooses levels.

    "max_distance": max(l, t, r, b), the paper's and FCOS's. "sqrt_area": sqrt(area), FoveaBox's,
    whose ranges include both ends: without relaxation the lower one too (with it, the ramp is 1
    there anyway).
    """
    lower, upper = bounds
    if size == "max_distance":
        return interval_score(max(distances(point, box)), lower, upper, kappa)
    assert size == "sqrt_area", size
    side = math.sqrt(area(box))
    return 1.0 if side == lower else interval_score(side, lower, upper, kappa)


def smooth_label(
    point,
    box,
    *,
    stride,
    bounds,
    kappa=0.2,
    core_zone=True,
    size="max_distance",
    center_sampling_radius=0.0,
):
    """Eq. 7 (label_s) of one location and one box; 0 where the location is not inside the box."""
    if not is_inside(point, box):
        return 0.0
    if center_sampling_radius > 0:
        if not is_inside(point, sampling_square(box, stride, center_sampling_radius)):
            return 0.0
    closeness = (
        smooth_centerness(point, box, stride) if core_zone else centerness(distances(point, box))
    )
    return closeness * level_score(point, box, bounds, kappa=kappa, size=size)


def all_smooth_labels(locations, gt_boxes, *, strides, size_ranges, **options):
    """Eq. 7 of every location with every box: one list of M values a location."""
    gt_boxes = as_lists(gt_boxes)
    return [
        [
            smooth_label(point, box, stride=strides[level], bounds=size_ranges[level], **options)
            for box in gt_boxes
        ]
        for level, point in flat_locations(locations)
    ]


def assign(locations, gt_boxes, gt_classes, *, num_classes, **options):
    """Each location belongs to the box with the highest label_s, and is positive if that is > 0.

    Equal labels go to the smaller box, then to the lower index.
    """
    values = all_smooth_labels(locations, gt_boxes, **options)
    gt_boxes, gt_classes = as_lists(gt_boxes), as_lists(gt_classes)
    result = Labels([], [], [])
    for row in values:
        owners = [j for j, value in enumerate(row) if value > 0]
        best = min(owners, key=lambda j: (-row[j], area(gt_boxes[j]), j), default=-1)
        result.gt_index.append(best)
        result.labels.append(num_classes if best < 0 else gt_classes[best])
        result.score.append(0.0 if best < 0 else row[best])
    return result


def dynamic_label(label, overlap, target="coupled"):
    """Eq. 8 (label_d) of a positive location.

    "coupled": label_s times the IoU of the predicted box; "label": label_s alone (Impr 0, 1, 2 and
    4 of Table 1); "iou": the IoU alone (the row of the text, below Table 1).
    """
    assert target in ("coupled", "label", "iou"), target
    return {"coupled": label * overlap, "label": label, "iou": overlap}[target]


def reference_losses(
    locations,
    predictions,
    targets,
    assign,
    *,
    code,
    scales,
    box_loss_kind,
    beta=0.11,
    target="coupled",
    class_loss_weight=1.0,
    box_loss_weight=1.0,
    quality_focal_beta=2.0,
    class_normalizer="label_sum",
    box_weight="label",
):
    """Eq. 9 with the weights and normalisers of the code that made the published figures.

    The class loss is the quality focal loss: label_d at the class of a location, 0 at the others
    and at all classes of background. The box loss of a positive location is weighted by label_s
    and divided by the sum of the weights, at least 1.

    Args:
        locations, predictions, targets, code, scales: as in fcos.py's ``fcos_losses``.
        assign: (locations, gt_boxes, gt_classes) -> Labels, whose score is label_s.
        box_loss_kind, beta: see ``box_term`` there.
        target: see :func:`dynamic_label`.
        class_normalizer: the class loss is divided by the sum of label_d ("label_sum") or by the
            N_pos of eq. 9 ("num_positives"), at least 1.
        box_weight: "label" (label_s), "coupled" (label_d), "ones" (eq. 9 as printed) or
            "class_score" (the predicted score of the location's class).

    Returns:
        dict of losses, and dict of the sums of label_d and of the weights, and the number of
        positive locations.
    """
    class_sum = box_sum = 0.0
    sums = {"dynamic_labels": 0.0, "box_weights": 0.0, "positives": 0}
    for image, (gt_boxes, gt_classes) in enumerate(targets):
        labels = assign(locations, gt_boxes, gt_classes)
        gt_boxes = as_lists(gt_boxes)
        class_logits, outputs = (flatten_maps(maps, image) for maps in predictions[:2])
        for i, (level, point) in enumerate(flat_locations(locations)):
            label_s, label_d, positive_class = labels.score[i], 0.0, None
            if label_s > 0:
                gt_box = gt_boxes[labels.gt_index[i]]
                overlap = iou(decode(point, outputs[i], code, scales[level]), gt_box)
                positive_class = labels.labels[i]
                label_d = dynamic_label(label_s, overlap, target)
                weight = {
                    "label": label_s,
                    "coupled": label_d,
                    "ones": 1.0,
                    "class_score": sigmoid(class_logits[i][positive_class]),
                }[box_weight]
                box_sum += weight * box_term(
                    box_loss_kind,
                    point,
                    outputs[i],
                    gt_box,
                    code=code,
                    scale=scales[level],
                    beta=beta,
                )
                sums["dynamic_labels"] += label_d
                sums["box_weights"] += weight
                sums["positives"] += 1
            for c, logit in enumerate(class_logits[i]):
                class_sum += quality_focal_loss(
                    logit, label_d, c == positive_class, beta=quality_focal_beta
                )
    class_divisor = {
        "label_sum": sums["dynamic_labels"],
        "num_positives": sums["positives"],
    }[class_normalizer]
    losses = {
        "loss_class": class_loss_weight * class_sum / max(1.0, class_divisor),
        "loss_box": box_loss_weight * box_sum / max(1.0, sums["box_weights"]),
    }
    return losses, sums
