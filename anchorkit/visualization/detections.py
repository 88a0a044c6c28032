"""Detections beside ground truth, with what was missed and what is false."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from detectron2.structures import BoxMode, Instances
from pycocotools import mask as coco_mask

from ..data.image_files import read_image
from .canvas import NEUTRAL, WRONG, Page, Panel, class_color, class_name

# Images are enlarged or reduced to panels of this height, unless they would get too wide.
PANEL_HEIGHT = 480
MAX_PANEL_WIDTH = 960
MIN_PANEL_WIDTH = 330
# COCO's first threshold: from this IoU on a detection stands for an object.
MATCH_IOU = 0.5

_MARGIN = 10
_TITLE_SIZE, _HEADING_SIZE, _LABEL_SIZE = 13, 12, 11


@dataclass(frozen=True)
class GroundTruth:
    """Boxes (M, 4) of an image in its pixels, classes (M,) and which mark crowds (M,)."""

    boxes: np.ndarray
    classes: np.ndarray
    is_crowd: np.ndarray


def draw_detections(
    dataset_dict: dict, instances: Instances, metadata, *, score_threshold: float | None = 0.3
) -> np.ndarray:
    """Draw an image twice: with its ground truth (left) and with its detections (right).

    As in COCO's evaluation at IoU 0.5, detections take the objects of their class in the order of
    their scores. Detections that find none, and objects that none finds, are dashed and their
    labels are red. Detections of crowds are left out of the count.

    Args:
        dataset_dict: an image in detectron2's format. Without "annotations" the picture is of the
            detections alone.
        instances: with ``pred_boxes``, ``scores`` and ``pred_classes``; boxes in pixels of
            ``instances.image_size``.
        metadata: of the data set; classes without a name in ``thing_classes`` are numbered.
        score_threshold: detections with lower scores are not drawn; None: all are.

    Returns:
        uint8 RGB (H', W', 3), about 550 pixels high.
    """
    image = read_image(dataset_dict["file_name"], "RGB")
    image_size = image.shape[:2]
    names = getattr(metadata, "thing_classes", None)
    boxes, scores, classes = _confident(instances, score_threshold, image_size)
    truth = ground_truth(dataset_dict)
    is_correct, is_found = np.ones(len(boxes), dtype=bool), None
    is_counted = is_correct
    if truth is not None:
        is_correct, is_found, is_counted = match_detections(boxes, classes, truth)
    page, panels = _page_with_panels(image, 1 if truth is None else 2)

    # Less certain ones first, so that certain ones lie on top.
    for index in reversed(range(len(boxes))):
        color = class_color(classes[index]) if is_counted[index] else NEUTRAL
        panels[-1].box(boxes[index], color, width=2, dashed=not is_correct[index])
    for index in range(len(boxes)):
        text = f"{class_name(names, classes[index])} {scores[index]:.2f}"
        color = class_color(classes[index]) if is_counted[index] else NEUTRAL
        panels[-1].label(text, boxes[index], color, _LABEL_SIZE, wrong=not is_correct[index])
    if truth is not None:
        _draw_truth(panels[0], truth, is_found, names)
    _write_texts(page, panels, dataset_dict, score_threshold, is_correct, is_counted, truth,
                 is_found)  # fmt: skip
    return page.array()


def _page_with_panels(image: np.ndarray, count: int) -> tuple[Page, list[Panel]]:
    height, width = image.shape[:2]
    scale = min(PANEL_HEIGHT / height, MAX_PANEL_WIDTH / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    # Many times faster than matplotlib's own resampling.
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    slot = max(size[0], MIN_PANEL_WIDTH)
    page = Page(count * slot + (count + 1) * _MARGIN, size[1] + 80)
    panels = []
    for index in range(count):
        left = _MARGIN + index * (slot + _MARGIN) + (slot - size[0]) / 2
        panel = page.panel(left, 50, size[0], (0, 0, width, height))
        panel.image(image, (width, height))
        panels.append(panel)
    return page, panels


def _draw_truth(
    panel: Panel, truth: GroundTruth, is_found: np.ndarray, names: Sequence[str] | None
) -> None:
    for index in range(len(truth.boxes)):
        color = NEUTRAL if truth.is_crowd[index] else class_color(truth.classes[index])
        is_missed = not (is_found[index] or truth.is_crowd[index])
        panel.box(truth.boxes[index], color, width=2, dashed=is_missed)
    for index in range(len(truth.boxes)):
        is_crowd = truth.is_crowd[index]
        is_missed = not (is_found[index] or is_crowd)
        color = NEUTRAL if is_crowd else class_color(truth.classes[index])
        text = class_name(names, truth.classes[index])
        text += " (crowd)" if is_crowd else " missed" if is_missed else ""
        panel.label(text, truth.boxes[index], color, _LABEL_SIZE, wrong=is_missed)


def _write_texts(page, panels, dataset_dict, threshold, is_correct, is_counted, truth, is_found):
    width = page.width - 2 * _MARGIN
    title = os.path.basename(dataset_dict["file_name"])
    if "image_id" in dataset_dict:
        title += f"  (image {dataset_dict['image_id']})"
    page.text(_MARGIN, 7, page.shorten(title, _TITLE_SIZE, width, bold=True), _TITLE_SIZE,
              bold=True)  # fmt: skip
    which = "" if threshold is None else f", score ≥ {threshold:g}"
    heading = f"Detections{which}: {int(is_counted.sum())}"
    slot = (width - (len(panels) - 1) * _MARGIN) / len(panels)
    if truth is not None:
        counted = ~truth.is_crowd
        missed = int((counted & ~is_found).sum())
        heading += f", {int((~is_correct).sum())} false"
        text = f"Ground truth: {int(counted.sum())}, {missed} missed"
        page.text(_MARGIN, 29, page.shorten(text, _HEADING_SIZE, slot), _HEADING_SIZE)
        note = f"dashed, red label: no partner of the same class with IoU ≥ {MATCH_IOU:g}"
        page.text(_MARGIN, page.height - 22, page.shorten(note, 11, width), 11, color=WRONG)
    left = page.width - _MARGIN - slot
    page.text(left, 29, page.shorten(heading, _HEADING_SIZE, slot), _HEADING_SIZE)


def _confident(
    instances: Instances, threshold: float | None, image_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes in pixels of the image, scores and classes of what is above the threshold."""
    scores = instances.scores.detach().cpu().numpy()
    order = np.argsort(-scores, kind="stable")
    if threshold is not None:
        order = order[scores[order] >= threshold]
    height, width = instances.image_size
    scale = np.array([image_size[1] / width, image_size[0] / height] * 2)
    boxes = instances.pred_boxes.tensor.detach().cpu().numpy()[order] * scale
    return boxes, scores[order], instances.pred_classes.cpu().numpy()[order]


def ground_truth(dataset_dict: dict) -> GroundTruth | None:
    """Of an image in detectron2's format; None without "annotations"."""
    annotations = dataset_dict.get("annotations")
    if annotations is None:
        return None
    boxes = [
        BoxMode.convert(list(entry["bbox"]), entry["bbox_mode"], BoxMode.XYXY_ABS)
        for entry in annotations
    ]
    return GroundTruth(
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array([entry["category_id"] for entry in annotations], dtype=np.int64),
        np.array([bool(entry.get("iscrowd", 0)) for entry in annotations], dtype=bool),
    )


def match_detections(
    boxes: np.ndarray, classes: np.ndarray, truth: GroundTruth
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which detections are correct (Q,), which objects are found (M,), which detections count (Q,).

    Those of crowds do not count. Arguments as in :func:`match_objects`.
    """
    partners = match_objects(boxes, classes, truth)
    is_correct = partners >= 0
    is_counted = ~is_correct
    is_counted[is_correct] = ~truth.is_crowd[partners[is_correct]]
    is_found = np.zeros(len(truth.boxes), dtype=bool)
    is_found[partners[is_correct & is_counted]] = True
    return is_correct, is_found, is_counted


def match_objects(boxes: np.ndarray, classes: np.ndarray, truth: GroundTruth) -> np.ndarray:
    """Match detections with objects as COCO's evaluation does at IoU 0.5.

    Args:
        boxes, classes: (Q, 4) in pixels and (Q,), in falling order of score.
        truth: of the same image.

    Returns:
        (Q,) the index of the object that each detection stands for, -1 for none. Only a crowd
        stands for several.
    """
    partners = np.full(len(boxes), -1)
    if len(boxes) == 0 or len(truth.boxes) == 0:
        return partners
    iou = coco_mask.iou(_xywh(boxes), _xywh(truth.boxes), truth.is_crowd.astype(np.uint8))
    is_partner = (truth.classes == classes[:, None]) & (iou >= MATCH_IOU)
    is_free = ~truth.is_crowd
    for index in np.flatnonzero(is_partner.any(axis=1)):
        free = is_partner[index] & is_free
        if free.any():
            partners[index] = np.where(free, iou[index], -1.0).argmax()
            is_free[partners[index]] = False
        elif (in_crowd := is_partner[index] & truth.is_crowd).any():
            partners[index] = in_crowd.argmax()
    return partners


def _xywh(boxes: np.ndarray) -> np.ndarray:
    return np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]).astype(np.float64)
