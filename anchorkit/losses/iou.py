"""IoU losses of decoded boxes, without branches and without assertions that wait for a GPU."""

from torch import Tensor

from ..geometry import aligned_giou, aligned_iou

BOX_LOSSES = ("iou_log", "iou_linear", "giou")
# IoU at which -log IoU stops growing (and stops giving a gradient).
_MIN_IOU = 1e-6


def box_iou_loss(pred_boxes: Tensor, target_boxes: Tensor, kind: str) -> Tensor:
    """Loss of each predicted box with its target.

    Args:
        pred_boxes, target_boxes: (N, 4) XYXY, pixels.
        kind: "iou_log", -log IoU (Yu et al., 2016); "iou_linear", 1 - IoU; "giou", 1 - GIoU.

    Returns:
        (N,) float32.

    Raises:
        ValueError: another kind.
    """
    pred_boxes, target_boxes = pred_boxes.float(), target_boxes.float()
    if kind == "iou_log":
        return -aligned_iou(pred_boxes, target_boxes).clamp(min=_MIN_IOU).log()
    if kind == "iou_linear":
        return 1 - aligned_iou(pred_boxes, target_boxes)
    if kind == "giou":
        return 1 - aligned_giou(pred_boxes, target_boxes)
    raise ValueError(f"box loss {kind!r}; expected one of {BOX_LOSSES}")
