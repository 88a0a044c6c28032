"""Plain tensor helpers for boxes. Boxes are XYXY in pixels of the network's input."""

import torch
from torch import Tensor


def aligned_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union of boxes that stand at the same place; the shapes broadcast.

    ``aligned_iou(a[:, None], b)`` is the matrix of all pairs.

    Args:
        boxes1, boxes2: (..., 4), pixels. A box without area overlaps nothing.

    Returns:
        (...): values in [0, 1]; 0 where both boxes have no area.
    """
    intersection, union = _intersection_and_union(boxes1, boxes2)
    return intersection / union.clamp(min=torch.finfo(union.dtype).tiny)


def aligned_giou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Generalised IoU of aligned boxes (Rezatofighi et al., 2019), shapes as :func:`aligned_iou`.

    Returns:
        (...): values in [-1, 1].
    """
    intersection, union = _intersection_and_union(boxes1, boxes2)
    tiny = torch.finfo(union.dtype).tiny
    outer_size = (
        torch.maximum(boxes1[..., 2:], boxes2[..., 2:])
        - torch.minimum(boxes1[..., :2], boxes2[..., :2])
    ).clamp(min=0)
    outer = outer_size[..., 0] * outer_size[..., 1]
    return intersection / union.clamp(min=tiny) - (outer - union) / outer.clamp(min=tiny)


def box_area(boxes: Tensor) -> Tensor:
    """Area of boxes (..., 4) in square pixels; 0 for boxes turned inside out."""
    return box_size(boxes).clamp(min=0).prod(dim=-1)


def box_size(boxes: Tensor) -> Tensor:
    """Width and height (..., 2) of boxes (..., 4) in pixels; negative if turned inside out."""
    return boxes[..., 2:] - boxes[..., :2]


def grid_points(
    height: int, width: int, stride: float, offset: float, *, device: torch.device | None = None
) -> Tensor:
    """Locations (height width, 2) of a feature map, row by row: x and y in pixels.

    Args:
        height, width: of the feature map.
        stride: distance of neighbouring locations, pixels.
        offset: of the first location from the image's corner, in strides; 0.5 is a cell's middle.
    """
    x, y = (
        (torch.arange(size, dtype=torch.float32, device=device) + offset) * stride
        for size in (width, height)
    )
    return torch.stack([x.repeat(height), y.repeat_interleave(width)], dim=1)


def ltrb_distances(points: Tensor, boxes: Tensor) -> Tensor:
    """Signed distances from points to the left, top, right and bottom sides of boxes.

    Args:
        points: (..., 2), x and y in pixels.
        boxes: (..., 4), pixels; the shapes broadcast.

    Returns:
        (..., 4), pixels; all above 0 for a point strictly inside its box.
    """
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)


def boxes_from_ltrb(points: Tensor, ltrb: Tensor) -> Tensor:
    """Boxes (..., 4) whose sides have the distances ``ltrb`` (..., 4) from ``points`` (..., 2)."""
    return torch.cat([points - ltrb[..., :2], points + ltrb[..., 2:]], dim=-1)


def centerness(ltrb: Tensor) -> Tensor:
    """FCOS, eq. 3: 1 at a box's centre, 0 at its sides and outside.

    ``sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))``

    Args:
        ltrb: (..., 4) distances to the sides.

    Returns:
        (...) in [0, 1].
    """
    near = torch.minimum(ltrb[..., :2], ltrb[..., 2:]).clamp(min=0)
    far = torch.maximum(ltrb[..., :2], ltrb[..., 2:])
    return (near / far.clamp(min=torch.finfo(far.dtype).tiny)).prod(dim=-1).sqrt()


def _intersection_and_union(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    size = (
        torch.minimum(boxes1[..., 2:], boxes2[..., 2:])
        - torch.maximum(boxes1[..., :2], boxes2[..., :2])
    ).clamp(min=0)
    intersection = size[..., 0] * size[..., 1]
    return intersection, box_area(boxes1) + box_area(boxes2) - intersection
