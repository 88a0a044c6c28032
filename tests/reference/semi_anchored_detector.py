"""Slow oracles of the Semi-Anchored Detector's objective and inference (arXiv 2009.04989).

Plain loops over Python floats; labels are those of tests/reference/semi_anchored.py.
"""

import math

from tests.reference.boxes import area, box_loss, decode, iou, nms
from tests.reference.focal import (
    focal_loss,
    quality_focal_loss,
    sigmoid,
    smoothed_focal_loss,
    soft_targets,
)
from tests.reference.semi_anchored import as_lists, assign, regressed_boxes
from tests.reference.ssd import cross_entropy, encode, hard_negatives, smooth_l1


def flatten_predictions(predictions, image):
    """Per location of one image: C or C + 1 location logits, K x 4 deltas, K anchor logits."""
    locations = []
    for level in zip(*predictions, strict=True):
        location_logits, box_deltas, anchor_logits = (tensor[image].tolist() for tensor in level)
        num_anchors = len(anchor_logits)
        for y in range(len(anchor_logits[0])):
            for x in range(len(anchor_logits[0][0])):
                class_logits = [channel[y][x] for channel in location_logits]
                channels = [channel[y][x] for channel in box_deltas]
                deltas = [channels[4 * k : 4 * k + 4] for k in range(num_anchors)]
                locations.append((class_logits, deltas, [c[y][x] for c in anchor_logits]))
    return locations


def reference_losses(
    anchors,
    predictions,
    targets,
    *,
    num_classes,
    regressed="positive",
    regression_target="anchor",
    refined_match="class",
    refined_iou_threshold=0.5,
    force_best=False,
    location_loss="focal",
    negative_ratio=3.0,
    location_alpha_beta=(0.25, 1.0),
    box_loss_kind="iou_log",
    box_loss_weight=2.0,
    box_weights=(10.0, 10.0, 5.0, 5.0),
    anchor_loss="smoothed_focal",
    anchor_loss_weight=1.0,
    anchor_alpha_beta=(0.25, 2.0),
    sigma=0.9,
    **assigner,
):
    """The three terms of L = L_cls + 2 L_reg + L_ac, weights included.

    Args:
        anchors: per level (H, W, K, 4).
        predictions: per level (N, C, H, W) location logits, (N, 4K, H, W) deltas with channel
            4 k + j for coordinate j of anchor k, and (N, K, H, W) anchor logits.
        targets: an image's (gt_boxes, gt_classes), N of them.
        location_loss: "softmax": a logit more, background's, and hard negative mining as in SSD.
        box_loss_kind: of the boxes, or "smooth_l1" of their code.
        regressed, regression_target: see :func:`regressed_boxes`.
        refined_match: A3: the IoU after regression is the highest with the boxes of the location's
            "class", or that with the location's own box ("location").
        force_best: A5: where no refined anchor is positive, the best one is, if it overlaps at all.
        assigner: options of :func:`assign`.

    Returns:
        dict with loss_location, loss_box, loss_anchor and the three counts that divide them:
        positive locations, regressed anchors (A13), positive anchors after regression.
    """
    sums = {"location": 0.0, "box": 0.0, "anchor": 0.0}
    counts = {"location": 0, "box": 0, "anchor": 0}
    by_location = [cell for level in as_lists(anchors) for row in level for cell in row]
    for image, (gt_boxes, gt_classes) in enumerate(targets):
        gt_boxes, gt_classes = as_lists(gt_boxes), as_lists(gt_classes)
        labels = assign(anchors, gt_boxes, gt_classes, num_classes=num_classes, **assigner)
        learns = regressed_boxes(
            labels, anchors, gt_boxes, regressed=regressed, regression_target=regression_target
        )
        start = 0
        locations = flatten_predictions(predictions, image)
        if location_loss == "softmax":
            sums["location"] += _mined_cross_entropy(
                [row for row, _, _ in locations], labels.location_labels, negative_ratio
            )
        for i, (class_logits, deltas, anchor_logits) in enumerate(locations):
            label, cell = labels.location_labels[i], by_location[i]
            of_location = range(start, start + len(cell))
            start += len(cell)
            if label >= 0 and location_loss == "focal":
                for c, logit in enumerate(class_logits):
                    alpha, beta = location_alpha_beta
                    sums["location"] += focal_loss(logit, c == label, alpha=alpha, beta=beta)
            if not 0 <= label < num_classes:
                continue
            counts["location"] += 1
            location_box = gt_boxes[labels.location_gt[i]]
            refined = [decode(a, d, box_weights) for a, d in zip(cell, deltas, strict=True)]

            # L_reg: the IoU loss of the regressed anchors.
            for k, r in enumerate(of_location):
                if learns[r] >= 0:
                    target = gt_boxes[learns[r]]
                    if box_loss_kind == "smooth_l1":
                        code = encode(cell[k], target, box_weights)
                        sums["box"] += sum(
                            smooth_l1(d - t) for d, t in zip(deltas[k], code, strict=True)
                        )
                    else:
                        sums["box"] += box_loss(refined[k], target, box_loss_kind)
                    counts["box"] += 1

            # L_ac: labels by the IoU after regression, over all K anchors.
            candidates = [
                box
                for box, c in zip(gt_boxes, gt_classes, strict=True)
                if c == label and area(box) > 0
            ]
            if refined_match == "location":
                candidates = [location_box]
            ious = [max(iou(box, gt) for gt in candidates) for box in refined]
            positive = [value >= refined_iou_threshold for value in ious]
            if force_best and not any(positive) and max(ious) > 0:
                positive[ious.index(max(ious))] = True
            soft = soft_targets(ious, sigma)
            counts["anchor"] += sum(positive)
            for logit, y, is_positive in zip(anchor_logits, soft, positive, strict=True):
                sums["anchor"] += _anchor_loss(
                    logit, y, is_positive, anchor_loss, anchor_alpha_beta
                )
    weights = {"location": 1.0, "box": box_loss_weight, "anchor": anchor_loss_weight}
    losses = {f"loss_{name}": weights[name] * sums[name] / max(1, counts[name]) for name in sums}
    return losses, counts


def _mined_cross_entropy(logits, labels, ratio):
    background = len(logits[0]) - 1
    learned = [
        (cross_entropy(row, label), label < background)
        for row, label in zip(logits, labels, strict=True)
        if label >= 0
    ]
    entropies, is_positive = [e for e, _ in learned], [positive for _, positive in learned]
    is_negative = hard_negatives(entropies, is_positive, ratio)
    return sum(e for e, p, n in zip(entropies, is_positive, is_negative, strict=True) if p or n)


def _anchor_loss(logit, soft_target, is_positive, kind, alpha_beta):
    alpha, beta = alpha_beta
    if kind == "focal":
        return focal_loss(logit, is_positive, alpha=alpha, beta=beta)
    if kind == "quality_focal":
        return quality_focal_loss(logit, soft_target, is_positive, beta=beta)
    assert kind == "smoothed_focal", kind
    return smoothed_focal_loss(logit, soft_target, is_positive, alpha=alpha, beta=beta)


def select_anchors(logits, *, selection, topk=1, threshold=0.0):
    """Anchors of one location that go on to NMS (Table 6), as (score, index), best first.

    "top": the ``topk`` with the highest probability; "positive": all above ``threshold`` (A18).
    """
    ranked = sorted(((sigmoid(x), k) for k, x in enumerate(logits)), key=lambda s: (-s[0], s[1]))
    if selection == "top":
        return ranked[:topk]
    assert selection == "positive", selection
    return [(score, k) for score, k in ranked if score > threshold]


def reference_inference(
    anchors,
    predictions,
    image_sizes,
    *,
    location_loss="focal",
    selection="top",
    topk=1,
    anchor_threshold=0.1,
    threshold_on="location",
    score_threshold=0.05,
    candidates_per_level=1000,
    nms_threshold=0.5,
    max_detections=100,
    box_weights=(10.0, 10.0, 5.0, 5.0),
):
    """Detections of each image as a list of (score, class, box), best first.

    score(i, k, c) = p_i^c p_{i,k} (the conditional probability before eq. 2). The threshold is on
    p_i^c ("location") or on the product (A16); the best ``candidates_per_level`` products of a
    level are decoded and clipped to the image; then class-wise NMS over all levels.
    """
    results = []
    for image, (height, width) in enumerate(image_sizes):
        locations = iter(flatten_predictions(predictions, image))
        candidates = []
        for level in as_lists(anchors):
            of_level = []
            for cell in (cell for row in level for cell in row):
                class_logits, deltas, anchor_logits = next(locations)
                chosen = select_anchors(
                    anchor_logits, selection=selection, topk=topk, threshold=anchor_threshold
                )
                probabilities = [sigmoid(x) for x in class_logits]
                if location_loss == "softmax":
                    count = len(class_logits)
                    entropies = [cross_entropy(class_logits, c) for c in range(count - 1)]
                    probabilities = [math.exp(-e) for e in entropies]
                for c, p in enumerate(probabilities):
                    for anchor_score, k in chosen:
                        product = p * anchor_score
                        if (p if threshold_on == "location" else product) > score_threshold:
                            of_level.append((product, c, decode(cell[k], deltas[k], box_weights)))
            of_level.sort(key=lambda item: -item[0])
            candidates += of_level[:candidates_per_level]
        limits = (width, height, width, height)
        clipped = [
            (score, c, [min(max(v, 0.0), end) for v, end in zip(box, limits, strict=True)])
            for score, c, box in candidates
        ]
        results.append(nms(clipped, nms_threshold)[:max_detections])
    return results
