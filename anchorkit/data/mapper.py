"""From a data set's record to a sample: read the image, augment it with its boxes."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import Boxes, BoxMode, Instances

from ..config import check_choice
from ..errors import UserError
from .ssd_augmentation import ssd_augmentations


def build_mapper(cfg: CfgNode, *, is_train: bool):
    """The mapper of training or test images that ``INPUT.AUGMENTATION`` and ``FIXED_SIZE`` ask for.

    Raises:
        UserError: an unknown augmentation, or "ssd" without a fixed size.
    """
    kind = check_choice("INPUT.AUGMENTATION", cfg.INPUT.AUGMENTATION, ("detectron2", "ssd"))
    if not is_train:
        return DatasetMapper(cfg, is_train=False, augmentations=resize_augmentations(cfg))
    if kind == "ssd":
        return _build_ssd_mapper(cfg)
    arguments = DatasetMapper.from_config(cfg, is_train=True)
    arguments["augmentations"] = _with_fixed_size(cfg, arguments["augmentations"])
    return DatasetMapper(**arguments)


def resize_augmentations(cfg: CfgNode) -> list[T.Augmentation]:
    """What happens to an image before it is evaluated: it is resized."""
    return _with_fixed_size(cfg, utils.build_augmentation(cfg, is_train=False))


class BoxMapper:
    """Reads an image and augments it with its boxes, which detectron2's mapper keeps apart.

    Args:
        augmentations: applied in turn; they may look at the boxes.
        image_format: that images are read in.
    """

    def __init__(self, augmentations: Sequence[T.Augmentation], image_format: str):
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format

    def __call__(self, record: dict) -> dict:
        """``record`` with "image" (3, H, W) and "instances" in place of its annotations.

        Crowds, and boxes whose centre is no longer in the image, are left out.
        """
        record = copy.deepcopy(record)
        image = utils.read_image(record["file_name"], format=self.image_format)
        utils.check_image_size(record, image)
        annotations = [a for a in record.pop("annotations", []) if not a.get("iscrowd", 0)]
        boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
        classes = torch.tensor([a["category_id"] for a in annotations], dtype=torch.int64)
        augmented = T.AugInput(image, boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4))
        self.augmentations(augmented)
        size = augmented.image.shape[:2]
        visible, is_visible = visible_boxes(augmented.boxes, *size)
        record["image"] = torch.as_tensor(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        record["instances"] = Instances(
            size,
            gt_boxes=Boxes(torch.as_tensor(visible, dtype=torch.float32)),
            gt_classes=classes[torch.as_tensor(is_visible)],
        )
        return record


def visible_boxes(boxes: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes whose centre lies in the image, cut off at its borders, as SSD's crops keep them.

    Args:
        boxes: (M, 4) pixels; they may lie anywhere.

    Returns:
        The Q boxes that remain, (Q, 4), none without area; and (M,) bool, which ones these are.
    """
    limits = np.array([width, height])
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    clipped = boxes.clip(0, np.tile(limits, 2))
    is_visible = ((centers > 0) & (centers < limits)).all(axis=1)
    is_visible &= (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    return clipped[is_visible], is_visible


def _build_ssd_mapper(cfg: CfgNode) -> BoxMapper:
    if cfg.INPUT.FIXED_SIZE <= 0:
        raise UserError('INPUT.AUGMENTATION "ssd" ends with a resize: set INPUT.FIXED_SIZE')
    image_format = check_choice("INPUT.FORMAT", cfg.INPUT.FORMAT, ("RGB", "BGR"))
    flip = check_choice("INPUT.RANDOM_FLIP", cfg.INPUT.RANDOM_FLIP, ("horizontal", "none"))
    augmentations = ssd_augmentations(
        size=cfg.INPUT.FIXED_SIZE,
        image_format=image_format,
        fill=cfg.MODEL.PIXEL_MEAN,
        flip_probability=0.5 if flip == "horizontal" else 0.0,
    )
    return BoxMapper(augmentations, image_format)


def _with_fixed_size(cfg: CfgNode, augmentations: list[T.Augmentation]) -> list[T.Augmentation]:
    size = cfg.INPUT.FIXED_SIZE
    if size <= 0:
        return augmentations
    return [
        T.Resize((size, size)) if isinstance(one, T.ResizeShortestEdge) else one
        for one in augmentations
    ]
