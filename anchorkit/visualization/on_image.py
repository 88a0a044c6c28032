"""Detections drawn on the image itself."""

from collections.abc import Sequence

import numpy as np
from detectron2.structures import Instances
from detectron2.utils.visualizer import Visualizer

from .canvas import class_color, class_name

# Smaller images are enlarged, or labels would hide what they name.
MIN_SIDE = 480


def draw_on_image(image: np.ndarray, instances: Instances, names: Sequence[str]) -> np.ndarray:
    """Draw boxes with class names and scores.

    Args:
        image: uint8 RGB (H, W, 3).
        instances: on the CPU, with ``pred_boxes``, ``scores`` and ``pred_classes``; boxes in pixels
            of the image.
        names: of the classes.

    Returns:
        uint8 RGB of the image's size, or enlarged to a shorter side of 480 pixels.
    """
    scale = max(1.0, MIN_SIDE / min(image.shape[:2]))
    classes = instances.pred_classes.tolist()
    labels = [
        f"{class_name(names, index)} {score:.2f}"
        for index, score in zip(classes, instances.scores.tolist(), strict=True)
    ]
    return (
        Visualizer(image, scale=scale)
        .overlay_instances(
            boxes=instances.pred_boxes.tensor.numpy(),
            labels=labels,
            assigned_colors=[class_color(index) for index in classes],
        )
        .get_image()
    )
