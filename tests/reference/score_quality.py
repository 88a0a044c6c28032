"""Score quality in plain loops: greedy suppression, clusters, ranks and steps of labels."""

from tests.reference.boxes import iou


def greedy_clusters(boxes, scores, classes, threshold):
    """{survivor: [what it suppressed]}, by index, best score first."""
    left = sorted(range(len(boxes)), key=lambda i: -scores[i])
    clusters = {}
    while left:
        best, *rest = left
        clusters[best] = [
            i for i in rest
            if classes[i] == classes[best] and iou(boxes[i], boxes[best]) > threshold
        ]  # fmt: skip
        left = [i for i in rest if i not in clusters[best]]
    return clusters


def survivor_rows(boxes, scores, classes, gt_boxes, gt_classes, threshold, min_iou):
    """(score, IoU, gain) of each survivor that stands for a ground-truth box."""
    rows = []
    for survivor, suppressed in greedy_clusters(boxes, scores, classes, threshold).items():
        overlaps = [
            iou(boxes[survivor], gt) if label == classes[survivor] else 0.0
            for gt, label in zip(gt_boxes, gt_classes, strict=True)
        ]
        if not overlaps or max(overlaps) < min_iou:
            continue
        matched = gt_boxes[overlaps.index(max(overlaps))]
        best = max([max(overlaps)] + [iou(boxes[i], matched) for i in suppressed])
        rows.append((scores[survivor], max(overlaps), best - max(overlaps)))
    return rows


def ranks(values):
    """Ranks from 1; equal values share the mean of theirs."""
    return [
        sum(other < value for other in values) + (sum(o == value for o in values) + 1) / 2
        for value in values
    ]


def spearman(first, second):
    """Pearson's correlation of the ranks."""
    a, b = ranks(first), ranks(second)
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    covariance = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    spread = sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b)
    return covariance / spread**0.5


def label_steps(gt_index, labels):
    """Differences between neighbours of one object, or of an object and of none."""
    steps = []
    height, width = len(gt_index), len(gt_index[0])
    for y in range(height):
        for x in range(width):
            for ny, nx in ((y + 1, x), (y, x + 1)):
                if ny == height or nx == width:
                    continue
                objects = {gt_index[y][x], gt_index[ny][nx]} - {-1}
                if len(objects) == 1:
                    steps.append(abs(labels[y][x] - labels[ny][nx]))
    return steps
