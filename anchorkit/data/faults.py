"""What is wrong with boxes: one rule for all data sets, and faults that name file and image id."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.structures import BoxMode

logger = logging.getLogger(__name__)

# A box of which less is seen is none: float32 and detectron2's mapper lose it.
MIN_SIDE = 1e-3  # pixels
# COCO's evaluation passes over larger boxes without a word.
MAX_AREA = 1e10  # square pixels


@dataclass(frozen=True)
class Fault:
    """One box or image file that cannot be used, and why.

    ``annotation_id`` and ``box`` (the file's own value) are None where an image is meant.
    """

    file_name: str
    image_id: Any
    reason: str
    annotation_id: Any = None
    box: Any = None

    def __str__(self) -> str:
        text = f"image {self.image_id} ({self.file_name})"
        if self.annotation_id is not None:
            text += f", annotation {self.annotation_id}"
        if self.box is not None:
            text += f": box {self.box}"
        return f"{text}: {self.reason}"


def box_fault(box: Any, width: float, height: float) -> str | None:
    """Why a box cannot be used, or None if it can.

    A box that is partly outside of the image can be used: detectron2's mapper clips it.

    Args:
        box: x, y, width, height in pixels; anything may come from a file.
        width: width of the image in pixels.
        height: height of the image in pixels.
    """
    if not isinstance(box, Sequence) or len(box) != 4 or not all(map(_is_number, box)):
        return "is not four numbers"
    x, y, box_width, box_height = box
    if not all(map(is_finite, box)):
        return "is not finite"
    if box_width < MIN_SIDE:
        return "has no width"
    if box_height < MIN_SIDE:
        return "has no height"
    if box_width * box_height > MAX_AREA:
        return f"is larger than {MAX_AREA:g} square pixels"
    visible_width = min(x + box_width, width) - max(x, 0)
    visible_height = min(y + box_height, height) - max(y, 0)
    if min(visible_width, visible_height) < MIN_SIDE:
        return f"is outside the image of {width} x {height} pixels"
    return None


def is_finite(value: Any) -> bool:
    """Whether a value out of a file is a number that a float can hold; True and False are not."""
    try:
        return _is_number(value) and math.isfinite(value)
    except OverflowError:  # an int beyond the largest float
        return False


def is_clipped(box: Sequence[float], width: float, height: float, tolerance: float = 1.0) -> bool:
    """Whether a valid box sticks out of the image by more than ``tolerance`` pixels."""
    x, y, box_width, box_height = box
    return (
        min(x, y) < -tolerance
        or x + box_width > width + tolerance
        or y + box_height > height + tolerance
    )


def xywh_box(annotation: dict) -> list[float] | None:
    """The box of a detectron2 annotation as x, y, width, height; None for other kinds of boxes."""
    box = annotation.get("bbox")
    if annotation.get("bbox_mode") == BoxMode.XYXY_ABS:
        return [box[0], box[1], box[2] - box[0], box[3] - box[1]]
    return box if annotation.get("bbox_mode") == BoxMode.XYWH_ABS else None


def drop_invalid_boxes(dicts: list[dict]) -> tuple[list[dict], list[Fault]]:
    """Take invalid boxes out of detectron2 dicts of any source, such as VOC's files.

    Returns:
        The dicts, copied where something was taken out, and what was taken out. Boxes have no id
        here: the number of the box in its image, from 1, stands for it.
    """
    kept_dicts, faults = [], []
    for record in dicts:
        invalid = {}
        for number, annotation in enumerate(record.get("annotations", ())):
            box = xywh_box(annotation)
            reason = box and box_fault(box, record["width"], record["height"])
            if reason:
                invalid[number] = Fault(
                    record["file_name"], record["image_id"], reason, number + 1, annotation["bbox"]
                )
        if invalid:
            kept = [a for i, a in enumerate(record["annotations"]) if i not in invalid]
            record = {**record, "annotations": kept}
            faults.extend(invalid.values())
        kept_dicts.append(record)
    return kept_dicts, faults


def summarize(faults: Sequence[Fault], limit: int = 3) -> str:
    """Count and first few faults in one line."""
    first = "; ".join(str(fault) for fault in faults[:limit])
    more = f"; and {len(faults) - limit} more" if len(faults) > limit else ""
    return f"{len(faults)} unusable annotation{'s' * (len(faults) != 1)}: {first}{more}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
