"""From dense predictions to detections: threshold, candidates, decode, non-maximum suppression."""

from collections.abc import Sequence

import torch
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances
from torch import Tensor

ANCHOR_SELECTIONS = ("top", "positive", "random")


def select_anchors(
    anchor_logits: Tensor,
    *,
    selection: str,
    topk: int = 1,
    threshold: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Choose the anchors of each location that may become detections (Semi-Anchored Table 6).

    Args:
        anchor_logits: (P, K).
        selection: "top": the ``topk`` anchors with the highest scores; "positive": all anchors
            whose score is above ``threshold``; "random": one anchor drawn with ``generator``.

    Returns:
        scores (P, k), sigmoids of the chosen logits, 0 for anchors that are not chosen and 1 for
        a random anchor; and their indices (P, k). k is ``topk`` (at most K), K or 1.
    """
    num_locations, num_anchors = anchor_logits.shape
    if selection == "random":
        index = torch.randint(num_anchors, (num_locations, 1), generator=generator)
        return anchor_logits.new_ones(num_locations, 1), index.to(anchor_logits.device)
    if selection == "top":
        logits, index = anchor_logits.topk(min(topk, num_anchors), dim=1)
        return logits.float().sigmoid(), index
    scores = anchor_logits.float().sigmoid()
    index = torch.arange(num_anchors, device=scores.device).expand_as(scores)
    return torch.where(scores > threshold, scores, 0.0), index


def level_candidates(
    location_logits: Tensor,
    anchor_scores: Tensor,
    *,
    score_threshold: float,
    threshold_on: str,
    topk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The best (location, class, anchor) triples of one feature level of one image.

    A triple's score is the product of the location's class score and its anchor's score.

    Args:
        location_logits: (P, C).
        anchor_scores: (P, k); anchors with score 0 are left out.
        score_threshold: must be exceeded by the location's score ("location") or by the product
            ("product"), as ``threshold_on`` says.
        topk: number of triples kept, those with the highest scores.

    Returns:
        scores (T,) in descending order, classes (T,), locations (T,), and chosen (T,), the column
        of ``anchor_scores``.
    """
    # The logit of the threshold is compared: only the few survivors need a sigmoid. Since an
    # anchor's score is at most 1, the product can exceed the threshold only where this does.
    logit_threshold = torch.logit(torch.tensor(score_threshold, dtype=torch.float64)).item()
    location, classes = (location_logits > logit_threshold).nonzero().unbind(1)
    scores = location_logits[location, classes].float().sigmoid()[:, None] * anchor_scores[location]
    lowest = score_threshold if threshold_on == "product" else 0.0
    pair, chosen = (scores > lowest).nonzero().unbind(1)
    scores, order = scores[pair, chosen].sort(descending=True, stable=True)
    order = order[:topk]
    pair = pair[order]
    return scores[:topk], classes[pair], location[pair], chosen[order]


def class_candidates(
    scores: Tensor, *, score_threshold: float, topk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The best (anchor, class) pairs of each class of one image.

    Args:
        scores: (R, C).
        score_threshold: must be exceeded.
        topk: number of pairs kept of each class, those with the highest scores.

    Returns:
        scores (T,), classes (T,) and anchors (T,), class by class, in descending order of score.
    """
    is_candidate = scores > score_threshold
    anchor, classes = is_candidate.nonzero().unbind(1)
    chosen, order = scores[anchor, classes].sort(descending=True, stable=True)
    classes, by_class = classes[order].sort(stable=True)
    counts = is_candidate.sum(dim=0)
    first = counts.cumsum(0) - counts
    is_kept = torch.arange(classes.shape[0], device=classes.device) - first[classes] < topk
    return chosen[by_class][is_kept], classes[is_kept], anchor[order][by_class][is_kept]


def non_maximum_suppression(
    candidates: Sequence[tuple[Tensor, Tensor, Tensor]],
    image_size: tuple[int, int],
    *,
    iou_threshold: float,
    max_detections: int,
) -> Instances:
    """Clip the candidates of all levels to the image and suppress duplicates class by class.

    Args:
        candidates: for each level boxes (T, 4) in pixels, scores (T,), classes (T,).
        image_size: height and width in pixels.

    Returns:
        At most ``max_detections`` detections in descending order of score, with ``pred_boxes``,
        ``scores`` and ``pred_classes``. Boxes that are not finite are left out.
    """
    boxes, scores, classes = (torch.cat(parts) for parts in zip(*candidates, strict=True))
    is_finite = boxes.isfinite().all(1) & scores.isfinite()
    boxes, scores, classes = boxes[is_finite], scores[is_finite], classes[is_finite]
    detections = Boxes(boxes)
    detections.clip(image_size)
    keep = batched_nms(detections.tensor, scores, classes, iou_threshold)[:max_detections]
    return Instances(
        image_size, pred_boxes=detections[keep], scores=scores[keep], pred_classes=classes[keep]
    )
