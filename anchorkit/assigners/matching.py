"""Overlap of anchors on regular grids with ground-truth boxes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..geometry import box_area

# Entries of one block of the IoU table: small enough to stay in a processor's cache.
_BLOCK_ENTRIES = 1 << 20
# Overlaps that differ by less, relative to the larger, are equal: rounding alone makes that much.
_TIE_TOLERANCE = 1e-5


@dataclass(frozen=True)
class AnchorMatch:
    """The best partner of each anchor and of each box.

    Attributes:
        iou: (R,) float32, highest IoU of each anchor with a ground-truth box.
        gt_index: (R,) int64, the box that reaches it; the first of equals.
        best_anchor: (M,) int64, the anchor that overlaps each box most; the first of equals.
        best_iou: (M,) float32, that overlap; 0 when no anchor touches the box.
    """

    iou: Tensor
    gt_index: Tensor
    best_anchor: Tensor
    best_iou: Tensor


def match_anchors(anchors: Sequence[Tensor], gt_boxes: Tensor) -> AnchorMatch:
    """Find the best box of every anchor and the best anchor of every box.

    On a regular grid an anchor's left and right depend on its column alone, its top and bottom on
    its row alone, so that every intersection is the product of a row's and a column's overlap. The
    table of all pairs is walked in blocks of boxes and is never held as a whole.

    Args:
        anchors: for each level (H, W, K, 4), pixels, on a regular grid. Clipped anchors are fine.
        gt_boxes: (M, 4), pixels. Boxes without width or height, or not finite, match nothing.

    Returns:
        R counts the anchors level by level, row by row, those of one location side by side.
    """
    gt_boxes = _without_invalid(gt_boxes.float())
    num_boxes = len(gt_boxes)
    best_anchor = torch.zeros(num_boxes, dtype=torch.int64, device=gt_boxes.device)
    best_iou = gt_boxes.new_full((num_boxes,), -1.0)
    levels_iou, levels_index = [], []
    start = 0
    for level in anchors:
        height, width, num_anchors, _ = level.shape
        size = height * width * num_anchors
        iou = level.new_zeros(height, width, num_anchors)
        index = torch.zeros(iou.shape, dtype=torch.int64, device=level.device)
        for rows, block in _iou_blocks(level, gt_boxes):
            block_iou, block_index = block.max(dim=0) if len(block) > 1 else (block[0], 0)
            better = block_iou > iou
            iou = torch.where(better, block_iou, iou)
            index = torch.where(better, block_index + rows.start, index)
            row_iou, row_anchor = block.flatten(1).max(dim=1)
            best_anchor[rows] = torch.where(
                row_iou > best_iou[rows], row_anchor + start, best_anchor[rows]
            )
            best_iou[rows] = torch.maximum(row_iou, best_iou[rows])
        levels_iou.append(iou.flatten())
        levels_index.append(index.flatten())
        start += size
    return AnchorMatch(
        torch.cat(levels_iou), torch.cat(levels_index), best_anchor, best_iou.clamp(min=0)
    )


def match_images(anchors: Sequence[Tensor], gt_boxes: Sequence[Tensor]) -> AnchorMatch:
    """:func:`match_anchors` for N images that share their anchors, as if they were one image.

    Args:
        anchors: for each level (H, W, K, 4), R in all.
        gt_boxes: for each image (M, 4).

    Returns:
        Anchors (N R) and boxes (sum of the M) are counted through, image by image.
    """
    matches = [match_anchors(anchors, boxes) for boxes in gt_boxes]
    first_box, num_anchors = 0, len(matches[0].iou)
    gt_index, best_anchor = [], []
    for image, match in enumerate(matches):
        gt_index.append(match.gt_index + first_box)
        best_anchor.append(match.best_anchor + image * num_anchors)
        first_box += len(match.best_anchor)
    return AnchorMatch(
        torch.cat([match.iou for match in matches]),
        torch.cat(gt_index),
        torch.cat(best_anchor),
        torch.cat([match.best_iou for match in matches]),
    )


def low_quality_anchors(
    anchors: Sequence[Tensor], gt_boxes: Sequence[Tensor], match: AnchorMatch, threshold: float
) -> Tensor:
    """The best anchors, all that tie, of each box that no anchor overlaps by the threshold.

    A box inside several anchors of equal size overlaps all of them equally.

    Args:
        anchors: for each level (H, W, K, 4), R in all.
        gt_boxes: for each of N images (M, 4).
        match: what :func:`match_images` found for them.
        threshold: of the IoU. Boxes that no anchor touches have none.

    Returns:
        (N R,) bool.
    """
    masks = []
    best_iou = match.best_iou.split([len(boxes) for boxes in gt_boxes])
    for boxes, best in zip(gt_boxes, best_iou, strict=True):
        low = ((best > 0) & (best < threshold)).nonzero()[:, 0]
        low_boxes, least = boxes[low].float(), best[low] * (1 - _TIE_TOLERANCE)
        for level in anchors:
            is_best = torch.zeros_like(level[..., 0], dtype=torch.bool).flatten()
            for rows, block in _iou_blocks(level, low_boxes):
                is_best |= (block.flatten(1) >= least[rows, None]).any(dim=0)
            masks.append(is_best)
    return torch.cat(masks)


def _iou_blocks(level: Tensor, boxes: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Which boxes, and their rows of :func:`_grid_iou`, a few at a time."""
    size = level[..., 0].numel()
    step = max(1, _BLOCK_ENTRIES // max(size, 1))
    for first in range(0, len(boxes) if size else 0, step):
        rows = slice(first, min(first + step, len(boxes)))
        yield rows, _grid_iou(level, boxes[rows])


def _without_invalid(boxes: Tensor) -> Tensor:
    valid = ((boxes[:, 2:] > boxes[:, :2]) & boxes.isfinite().view(-1, 2, 2).all(1)).all(1)
    return torch.where(valid[:, None], boxes, 0.0)


def _grid_iou(level: Tensor, boxes: Tensor) -> Tensor:
    """IoU (M, H, W, K) of one level's anchors (H, W, K, 4) with boxes (M, 4)."""
    left, right = level[0, :, :, 0], level[0, :, :, 2]
    top, bottom = level[:, 0, :, 1], level[:, 0, :, 3]
    x1, y1, x2, y2 = (side[:, None, None] for side in boxes.unbind(1))
    overlap_x = (torch.minimum(right, x2) - torch.maximum(left, x1)).clamp_(min=0)
    overlap_y = (torch.minimum(bottom, y2) - torch.maximum(top, y1)).clamp_(min=0)
    intersection = overlap_y[:, :, None] * overlap_x[:, None]
    areas = (bottom - top).clamp(min=0)[:, None] * (right - left).clamp(min=0)
    union = (areas + box_area(boxes)[:, None, None, None]).sub_(intersection)
    return intersection.div_(union.clamp_(min=torch.finfo(union.dtype).tiny))
