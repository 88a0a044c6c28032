"""Slow oracles of FCOS (Tian et al. 2019), its second version (2020) and FoveaBox (Kong 2020).

Plain loops over Python floats (double precision), one location and one box at a time; nothing here
is shared with the library. Where a paper leaves a choice, the docstring states the reading.

Classes are 0 .. C - 1 and C is background. Boxes are (x1, y1, x2, y2), ``ltrb`` are the distances
from a location to the left, top, right and bottom side, all in pixels of the network's input.
``locations`` are a list over levels of (P_l, 2) points x, y, row by row.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

from tests.reference.boxes import area, box_loss, nms
from tests.reference.focal import focal_loss, log_sigmoid, sigmoid
from tests.reference.semi_anchored import as_lists

# FoveaBox learns the logarithm of a distance in base edges, limited to this factor both ways.
LARGEST_FACTOR = 16.0


@dataclass
class Labels:
    """Labels of the P locations of one image: class, index of the box (-1: none), and score."""

    labels: list
    gt_index: list
    score: list


def distances(point, box):
    """l, t, r, b: signed distances from a point to the four sides, positive inwards."""
    return point[0] - box[0], point[1] - box[1], box[2] - point[0], box[3] - point[1]


def is_inside(point, box):
    """Whether all four distances are above 0: a point on a side is not inside."""
    return min(distances(point, box)) > 0


def centerness(ltrb):
    """FCOS eq. 3; 0 for a point that is not inside."""
    left, top, right, bottom = ltrb
    if min(ltrb) <= 0:
        return 0.0
    return math.sqrt(min(left, right) / max(left, right) * (min(top, bottom) / max(top, bottom)))


def scaled_box(box, factor):
    """The box with its sides multiplied by ``factor`` around its centre."""
    center_x, center_y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    half_width, half_height = factor * (box[2] - box[0]) / 2, factor * (box[3] - box[1]) / 2
    return (
        center_x - half_width,
        center_y - half_height,
        center_x + half_width,
        center_y + half_height,
    )


def sampling_square(box, stride, radius):
    """Where the second FCOS samples: up to ``radius * stride`` from the centre, in the box."""
    center_x, center_y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    reach = radius * stride
    return (
        max(center_x - reach, box[0]),
        max(center_y - reach, box[1]),
        min(center_x + reach, box[2]),
        min(center_y + reach, box[3]),
    )


def flat_locations(locations):
    """(level, (x, y)) of every location, level by level."""
    return [(level, (x, y)) for level, points in enumerate(as_lists(locations)) for x, y in points]


def smallest_box_labels(locations, gt_boxes, gt_classes, num_classes, may_own):
    """Each location belongs to the smallest box with ``may_own(level, point, box)``.

    Equal areas go to the lower index. Boxes without area own nothing.
    """
    gt_boxes, gt_classes = as_lists(gt_boxes), as_lists(gt_classes)
    result = Labels([], [], [])
    for level, point in flat_locations(locations):
        owners = [
            j for j, box in enumerate(gt_boxes) if area(box) > 0 and may_own(level, point, box)
        ]
        best = min(owners, key=lambda j: (area(gt_boxes[j]), j), default=-1)
        result.gt_index.append(best)
        result.labels.append(num_classes if best < 0 else gt_classes[best])
        result.score.append(float(best >= 0))
    return result


def assign_fcos(
    locations,
    gt_boxes,
    gt_classes,
    *,
    num_classes,
    size_ranges,
    shrink=1.0,
    strides=None,
    center_sampling_radius=0.0,
):
    """FCOS: inside the box, and the largest distance in the range of the level.

    A range (lower, upper) holds lower < max(l, t, r, b) <= upper; the distances are those to the
    whole box even where the location must lie in the shrunk box or in the sampling square.
    """

    def may_own(level, point, box):
        lower, upper = size_ranges[level]
        if not lower < max(distances(point, box)) <= upper:
            return False
        if center_sampling_radius > 0:
            square = sampling_square(box, strides[level], center_sampling_radius)
            if not is_inside(point, square):
                return False
        return is_inside(point, box) and is_inside(point, scaled_box(box, shrink))

    return smallest_box_labels(locations, gt_boxes, gt_classes, num_classes, may_own)


def assign_foveabox(locations, gt_boxes, gt_classes, *, num_classes, size_ranges, sigma=0.4):
    """FoveaBox: within the box shrunk by sigma, and sqrt(area) in the range of the level.

    Both ends of the range and the border of the shrunk box belong to it, those of the whole box do
    not. sigma is read as the simple fraction that was meant (0.4 is 2/5), so that the border is
    exact. (The paper draws small boxes over large ones, which is the smallest area.)
    """
    share = Fraction(sigma).limit_denominator(10_000)

    def may_own(level, point, box):
        lower, upper = size_ranges[level]
        left, top, right, bottom = map(Fraction, distances(point, box))
        # Distances to opposite sides differ by twice the distance to the centre.
        if abs(right - left) > share * (right + left) or abs(bottom - top) > share * (bottom + top):
            return False
        return is_inside(point, box) and lower <= math.sqrt(area(box)) <= upper

    return smallest_box_labels(locations, gt_boxes, gt_classes, num_classes, may_own)


# --- boxes ---


def decode(point, outputs, code, scale):
    """Box of a location: distances ``scale * exp(x)`` or ``scale * relu(x)``, as ``code`` says.

    The scale of a level is 1 for FCOS (exp), its stride for the second FCOS (relu) and its base
    edge for FoveaBox (exp).
    """
    assert code in ("exp", "relu"), code
    left, top, right, bottom = (
        scale * (math.exp(x) if code == "exp" else max(x, 0.0)) for x in outputs
    )
    return [point[0] - left, point[1] - top, point[0] + right, point[1] + bottom]


def smooth_l1(difference, beta):
    """Quadratic below beta and linear above it (Girshick 2015, as scaled by detectron2)."""
    size = abs(difference)
    return 0.5 * size**2 / beta if size < beta else size - 0.5 * beta


def box_term(kind, point, outputs, gt_box, *, code, scale, beta=0.11):
    """Box loss of one location: of the decoded box, or "smooth_l1" of FoveaBox's logarithms.

    The smooth L1 loss is summed over the four sides; ``beta`` is its own.
    """
    if kind != "smooth_l1":
        return box_loss(decode(point, outputs, code, scale), gt_box, kind)
    total = 0.0
    for x, distance in zip(outputs, distances(point, gt_box), strict=True):
        factor = min(max(distance / scale, 1 / LARGEST_FACTOR), LARGEST_FACTOR)
        total += smooth_l1(x - math.log(factor), beta)
    return total


# --- losses ---


def flatten_maps(maps, image):
    """Channels of every location of one image, from a list over levels of (N, K, H, W)."""
    rows = []
    for level in maps:
        channels = level[image].tolist()
        for y in range(level.shape[2]):
            for x in range(level.shape[3]):
                rows.append([channel[y][x] for channel in channels])
    return rows


def focal_sum(class_logits, label, alpha, gamma):
    """Focal loss of the C logits of one location."""
    return sum(
        focal_loss(logit, c == label, alpha=alpha, beta=gamma)
        for c, logit in enumerate(class_logits)
    )


def binary_cross_entropy(logit, target):
    """Cross entropy of a logit with a target in [0, 1]."""
    return -target * log_sigmoid(logit) - (1 - target) * log_sigmoid(-logit)


def fcos_losses(
    locations, predictions, targets, assign, *, code, scales, box_loss_kind, focal=(0.25, 2.0)
):
    """Losses of FCOS: class and centerness over #positives, boxes over the sum of centerness.

    Args:
        predictions: class_logits, box_outputs and centerness_logits, lists over levels of
            (N, C, H, W), (N, 4, H, W) and (N, 1, H, W).
        targets: an image's (gt_boxes, gt_classes), N of them.
        assign: (locations, gt_boxes, gt_classes) -> :class:`Labels`.
        code, scales: see :func:`decode`; one scale a level.
        box_loss_kind: "iou_log" for the first FCOS, "giou" for the second.
        focal: alpha and gamma.

    Returns:
        dict of losses, and the number of positive locations.
    """
    class_sum = box_sum = centerness_sum = target_sum = 0.0
    num_positives = 0
    for image, (gt_boxes, gt_classes) in enumerate(targets):
        labels = assign(locations, gt_boxes, gt_classes)
        gt_boxes = as_lists(gt_boxes)
        class_logits, outputs, logits = (flatten_maps(maps, image) for maps in predictions)
        for i, (level, point) in enumerate(flat_locations(locations)):
            class_sum += focal_sum(class_logits[i], labels.labels[i], *focal)
            if labels.gt_index[i] < 0:
                continue
            gt_box = gt_boxes[labels.gt_index[i]]
            target = centerness(distances(point, gt_box))
            num_positives += 1
            target_sum += target
            centerness_sum += binary_cross_entropy(logits[i][0], target)
            box_sum += target * box_term(
                box_loss_kind, point, outputs[i], gt_box, code=code, scale=scales[level]
            )
    losses = {
        "loss_class": class_sum / max(1, num_positives),
        "loss_box": box_sum / max(1.0, target_sum),
        "loss_centerness": centerness_sum / max(1, num_positives),
    }
    return losses, num_positives


def foveabox_losses(
    locations, predictions, targets, assign, *, scales, focal=(0.4, 1.5), beta=0.11
):
    """Losses of FoveaBox: class over #positives + #images, boxes over #positives."""
    class_sum = box_sum = 0.0
    num_positives = 0
    for image, (gt_boxes, gt_classes) in enumerate(targets):
        labels = assign(locations, gt_boxes, gt_classes)
        gt_boxes = as_lists(gt_boxes)
        class_logits, outputs = (flatten_maps(maps, image) for maps in predictions[:2])
        for i, (level, point) in enumerate(flat_locations(locations)):
            class_sum += focal_sum(class_logits[i], labels.labels[i], *focal)
            if labels.gt_index[i] < 0:
                continue
            num_positives += 1
            gt_box = gt_boxes[labels.gt_index[i]]
            box_sum += box_term(
                "smooth_l1", point, outputs[i], gt_box, code="exp", scale=scales[level], beta=beta
            )
    losses = {
        "loss_class": class_sum / (num_positives + len(targets)),
        "loss_box": box_sum / max(1, num_positives),
    }
    return losses, num_positives


# --- inference ---


def reference_inference(
    locations,
    predictions,
    image_sizes,
    *,
    code,
    scales,
    score="class",
    score_threshold=0.05,
    candidates_per_level=1000,
    nms_threshold=0.6,
    max_detections=100,
):
    """Detections of each image as a list of (score, class, box), best first.

    The threshold is on the class score. A detection's score is the class score alone ("class") or
    its product with the centerness score ("product"; the second FCOS takes the root of that, which
    ranks alike). The best ``candidates_per_level`` of each level are decoded and clipped to the
    image; then class-wise NMS over all levels.
    """
    assert score in ("class", "product"), score
    results = []
    for image, (height, width) in enumerate(image_sizes):
        class_logits, outputs = (flatten_maps(maps, image) for maps in predictions[:2])
        centerness_logits = flatten_maps(predictions[2], image) if score != "class" else None
        of_levels = [[] for _ in locations]
        for i, (level, point) in enumerate(flat_locations(locations)):
            for c, p in enumerate(map(sigmoid, class_logits[i])):
                if p <= score_threshold:
                    continue
                rank = p if score == "class" else p * sigmoid(centerness_logits[i][0])
                box = decode(point, outputs[i], code, scales[level])
                limits = (width, height, width, height)
                box = [min(max(v, 0.0), end) for v, end in zip(box, limits, strict=True)]
                of_levels[level].append((rank, c, box))
        candidates = []
        for of_level in of_levels:
            candidates += sorted(of_level, key=lambda item: -item[0])[:candidates_per_level]
        results.append(nms(candidates, nms_threshold)[:max_detections])
    return results
