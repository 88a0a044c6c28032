"""Slow oracles of the labels of the Semi-Anchored Detector (arXiv 2009.04989), from the paper.

Plain loops over Python floats (double precision), one function an equation; nothing here is shared
with the library. Where the paper leaves a choice, the docstring states the reading; A1 to A19 are
the decisions of projects/semi_anchored/METHOD.md.

Classes are 0 .. C - 1, C is background and -1 is ignored, where the paper says 1 .. C and 0.
Boxes are (x1, y1, x2, y2). A level of anchors is a nested list or tensor of shape (H, W, K, 4).
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from tests.reference.boxes import area, iou


def as_lists(value):
    """Nested lists of a tensor, of lists of tensors, or of lists."""
    if isinstance(value, list):
        return [as_lists(v) for v in value]
    return value.tolist() if hasattr(value, "tolist") else value


@dataclass
class Labels:
    """Labels of one image: ``location_*`` of the P locations, ``anchor_*`` of all anchors.

    ``by_position``: locations were labelled by where they lie, not by a vote of their anchors.
    """

    anchor_labels: list
    anchor_gt: list
    anchor_ious: list
    location_labels: list
    location_gt: list
    by_position: bool = False


def label_anchors(
    anchors, gt_boxes, gt_classes, *, num_classes, thresholds=(0.5, 0.5), low_quality=True
):
    """Label each anchor of a flat list by its IoU with the boxes (the paper's y_{i,k}).

    ``thresholds`` are (background below, foreground from); between them an anchor is ignored. With
    ``low_quality`` the best anchor of each box is positive if it overlaps the box at all, and so
    are those that tie with it (within 1e-5); each then belongs to the box that it overlaps most
    itself. Boxes without area match nothing.

    Returns:
        labels, index of the matched box (-1: not positive), and highest IoU, one an anchor. An IoU
        is rounded to single precision, so that two anchors tie here exactly where they tie there.
    """
    matrix = [
        [float(np.float32(iou(anchor, box))) if area(box) > 0 else 0.0 for box in gt_boxes]
        for anchor in anchors
    ]
    background_below, foreground_from = thresholds
    labels, gt_index, highest = [], [], []
    for row in matrix:
        best = max(range(len(row)), key=lambda j: (row[j], -j)) if row else -1
        best_iou = row[best] if row else 0.0
        highest.append(best_iou)
        is_positive = best_iou > 0 and best_iou >= np.float32(foreground_from)
        is_background = best_iou < np.float32(background_below) or best_iou == 0
        labels.append(gt_classes[best] if is_positive else num_classes if is_background else -1)
        gt_index.append(best if is_positive else -1)
    for j in range(len(gt_boxes) if low_quality else 0):
        column = [row[j] for row in matrix]
        if not column or not 0 < max(column) < np.float32(foreground_from):
            continue
        for r in [r for r, overlap in enumerate(column) if overlap >= max(column) * (1 - 1e-5)]:
            own = max(range(len(gt_boxes)), key=lambda g: (matrix[r][g], -g))
            labels[r], gt_index[r] = gt_classes[own], own
    return labels, gt_index, highest


def label_location(labels, ious, *, num_classes, gamma=0.0, ignore_locations=True):
    """Label of a location from those of its K anchors: eq. 1, or eq. 4 where gamma is 0.

    Both sides of eq. 1 share the factor 1 / K, so class c beats the background where
    (1 - gamma) n_c > gamma n_0, and background wins a tie. gamma is read as the simple fraction
    that was meant (0.1 is 1/10), so that ties are exact. Among classes with the same count the one
    whose anchor has the highest IoU wins (A10), then the lowest.

    The paper knows no ignored anchors. Here they count neither as a class nor as background; a
    location that has some and no positive one is ignored, or background if ``ignore_locations`` is
    off (A8).
    """
    gamma = Fraction(gamma).limit_denominator(10_000)
    counts = {c: labels.count(c) for c in range(num_classes) if c in labels}
    if not counts:
        return -1 if -1 in labels and ignore_locations else num_classes

    def rank(c):
        highest = max(q for label, q in zip(labels, ious, strict=True) if label == c)
        return counts[c], highest, -c

    winner = max(counts, key=rank)
    if gamma == 0 or (1 - gamma) * counts[winner] > gamma * labels.count(num_classes):
        return winner
    return num_classes


def assign(
    levels,
    gt_boxes,
    gt_classes,
    *,
    num_classes,
    thresholds=(0.5, 0.5),
    low_quality=True,
    ignore_locations=True,
    gamma=0.0,
):
    """Label the anchors and locations of one image, level by level, row by row.

    The box of a positive location is the one of its best anchor among those of its class.
    """
    by_location = [anchors for level in as_lists(levels) for row in level for anchors in row]
    gt_boxes, gt_classes = as_lists(gt_boxes), as_lists(gt_classes)
    labels, gt_index, ious = label_anchors(
        [anchor for anchors in by_location for anchor in anchors],
        gt_boxes,
        gt_classes,
        num_classes=num_classes,
        thresholds=thresholds,
        low_quality=low_quality,
    )
    location_labels, location_gt, start = [], [], 0
    for anchors in by_location:
        of_location = range(start, start + len(anchors))
        start += len(anchors)
        label = label_location(
            [labels[r] for r in of_location],
            [ious[r] for r in of_location],
            num_classes=num_classes,
            gamma=gamma,
            ignore_locations=ignore_locations,
        )
        location_labels.append(label)
        members = [r for r in of_location if labels[r] == label and gt_index[r] >= 0]
        best = max(members, key=lambda r: (ious[r], -r)) if 0 <= label < num_classes else None
        location_gt.append(-1 if best is None else gt_index[best])
    return Labels(labels, gt_index, ious, location_labels, location_gt)


def assign_by_position(levels, gt_boxes, gt_classes, *, num_classes, ranges, shrink=1.0, **options):
    """Labels of Table 3: anchors as in :func:`assign`, locations by FCOS (Tian et al. 2019).

    A location belongs to the smallest box that it lies in, if the largest of its four distances to
    the sides is within the range of its level: above ``ranges[level - 1]``, up to
    ``ranges[level]``. "FCOS-Shrink": it must lie in the box scaled by ``shrink`` around its centre
    (A19); distances are still those to the sides of the whole box.
    """
    labels = assign(levels, gt_boxes, gt_classes, num_classes=num_classes, **options)
    gt_boxes, gt_classes = as_lists(gt_boxes), as_lists(gt_classes)
    ends = [0.0, *ranges, math.inf]
    labels.location_labels, labels.location_gt, labels.by_position = [], [], True
    for level, grid in enumerate(as_lists(levels)):
        for anchor in (cell[0] for row in grid for cell in row):
            x, y = (anchor[0] + anchor[2]) / 2, (anchor[1] + anchor[3]) / 2
            best = -1
            for j, (x1, y1, x2, y2) in enumerate(gt_boxes):
                half_width, half_height = shrink * (x2 - x1) / 2, shrink * (y2 - y1) / 2
                inside = (
                    abs(x - (x1 + x2) / 2) < half_width and abs(y - (y1 + y2) / 2) < half_height
                )
                farthest = max(x - x1, y - y1, x2 - x, y2 - y)
                if inside and ends[level] < farthest <= ends[level + 1]:
                    if best < 0 or area(gt_boxes[j]) < area(gt_boxes[best]):
                        best = j
            labels.location_gt.append(best)
            labels.location_labels.append(num_classes if best < 0 else gt_classes[best])
    return labels


def regressed_boxes(labels, levels, gt_boxes, *, regressed="positive", regression_target="anchor"):
    """Index of the box that each anchor is regressed to, -1 for none (A1, A2, A19).

    At a positive location "positive" regresses the positive anchors of its class, "all" every one
    of its K, and "best" the one that overlaps most. An anchor of the location's class learns the
    box that it overlaps most ("anchor") or the box of its location ("location"). The paper has no
    word on the others that "all" regresses; here they learn the box of their location.

    A location labelled by its position may have no anchor of its class: then the anchor that
    overlaps the location's box most is regressed, and that one is also its "best".
    """
    by_location = [cell for level in as_lists(levels) for row in level for cell in row]
    gt_boxes, result, start = as_lists(gt_boxes), [], 0
    for i, cell in enumerate(by_location):
        ids = range(start, start + len(cell))
        start += len(cell)
        own_box = labels.location_gt[i]
        if own_box < 0:
            result += [-1] * len(cell)
            continue
        label = labels.location_labels[i]
        members = [r for r in ids if labels.anchor_gt[r] >= 0 and labels.anchor_labels[r] == label]
        if labels.by_position:
            overlap = [float(np.float32(iou(anchor, gt_boxes[own_box]))) for anchor in cell]
            best = max(ids, key=lambda r: (overlap[r - ids.start], -r))
        else:
            best = max(members, key=lambda r: (labels.anchor_ious[r], -r))
        chosen = {"all": list(ids), "best": [best], "positive": members or [best]}[regressed]
        for r in ids:
            own = regression_target == "anchor" and r in members
            result.append(-1 if r not in chosen else labels.anchor_gt[r] if own else own_box)
    return result
