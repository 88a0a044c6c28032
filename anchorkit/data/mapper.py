"""From a data set's record to a sample: read the image, augment it with its boxes."""

import logging
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
from .image_files import read_image
from .ssd_augmentation import ssd_augmentations

logger = logging.getLogger(__name__)


def build_mapper(cfg: CfgNode, *, is_train: bool):
    """The mapper of training or test images that ``INPUT.AUGMENTATION`` and ``FIXED_SIZE`` ask for.

    Raises:
        UserError: an unknown augmentation, or "ssd" without a fixed size.
    """
    kind = check_choice("INPUT.AUGMENTATION", cfg.INPUT.AUGMENTATION, ("detectron2", "ssd"))
    if not is_train:
        return ImageMapper(resize_augmentations(cfg), cfg.INPUT.FORMAT)
    if kind == "ssd":
        return _build_ssd_mapper(cfg)
    arguments = DatasetMapper.from_config(cfg, is_train=True)
    augmentations = _with_fixed_size(cfg, arguments["augmentations"])
    if cfg.MODEL.MASK_ON or cfg.MODEL.KEYPOINT_ON or cfg.MODEL.LOAD_PROPOSALS:
        return DatasetMapper(**arguments | {"augmentations": augmentations})
    return _train_mapper(augmentations, cfg.INPUT.FORMAT)


def resize_augmentations(cfg: CfgNode) -> list[T.Augmentation]:
    """What happens to an image before it is evaluated: it is resized."""
    return _with_fixed_size(cfg, utils.build_augmentation(cfg, is_train=False))


class ImageMapper:
    """Reads an image and resizes it, as detectron2's DatasetMapper does for evaluation.

    Args:
        augmentations: applied in turn.
        image_format: that images are read in.
    """

    def __init__(self, augmentations: Sequence[T.Augmentation], image_format: str):
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format

    def __call__(self, record: dict) -> dict:
        """``record`` with "image" (3, H, W) and without its annotations."""
        image = read_image(record["file_name"], self.image_format)
        utils.check_image_size(record, image)
        augmented = T.AugInput(image)
        self.augmentations(augmented)
        kept = {key: value for key, value in record.items() if key != "annotations"}
        return kept | {"image": _channels_first(augmented.image)}


class BoxMapper:
    """Reads an image and augments it with all of its boxes at once, which the augmentation may see.

    Where only boxes are asked for it gives what detectron2's DatasetMapper gives, which treats
    them one by one.

    Args:
        augmentations: applied in turn.
        image_format: that images are read in.
        keep: boxes that are kept: those of which something lies in the image ("overlap",
            detectron2's rule), or whose centre does ("center", SSD's).
    """

    def __init__(
        self, augmentations: Sequence[T.Augmentation], image_format: str, *, keep: str = "overlap"
    ):
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.keep = keep

    def __call__(self, record: dict) -> dict:
        """``record`` with "image" (3, H, W) and "instances" in place of its annotations."""
        record = dict(record)
        image = read_image(record["file_name"], self.image_format)
        utils.check_image_size(record, image)
        return self.augment(record, image)

    def augment(self, record: dict, image: np.ndarray) -> dict:
        """The same for an image (H, W, 3) that has been read."""
        record = dict(record)
        annotations = [a for a in record.pop("annotations", []) if not a.get("iscrowd", 0)]
        classes = torch.tensor([a["category_id"] for a in annotations], dtype=torch.int64)
        augmented = T.AugInput(image, boxes=_boxes_xyxy(annotations))
        self.augmentations(augmented)
        size = augmented.image.shape[:2]
        visible, is_visible = visible_boxes(augmented.boxes, *size, keep=self.keep)
        record["image"] = _channels_first(augmented.image)
        record["instances"] = Instances(
            size,
            gt_boxes=Boxes(torch.as_tensor(visible, dtype=torch.float32)),
            gt_classes=classes[torch.as_tensor(is_visible)],
        )
        return record


class BlankMapper(BoxMapper):
    """Resizes boxes as in training and reads no pixels: its images are zeros without memory."""

    def __init__(self, cfg: CfgNode):
        resizes = [
            one
            for one in utils.build_augmentation(cfg, is_train=True)
            if isinstance(one, T.ResizeShortestEdge)
        ]
        super().__init__(_with_fixed_size(cfg, resizes), cfg.INPUT.FORMAT)

    def __call__(self, record: dict) -> dict:
        blank = np.zeros((record["height"], record["width"], 3), dtype=np.uint8)
        sample = self.augment(record, blank)
        sample["image"] = torch.zeros(1, dtype=torch.uint8).expand(sample["image"].shape)
        return sample


def _channels_first(image: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _boxes_xyxy(annotations: Sequence[dict]) -> np.ndarray:
    """(M, 4) float64, pixels."""
    boxes = np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4)
    modes = np.array([a["bbox_mode"] for a in annotations], dtype=np.int64)
    for mode in np.unique(modes):
        rows = modes == mode
        boxes[rows] = BoxMode.convert(boxes[rows], BoxMode(mode), BoxMode.XYXY_ABS)
    return boxes


def visible_boxes(
    boxes: np.ndarray, height: int, width: int, *, keep: str = "center"
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes that are kept after an augmentation, cut off at the image's borders.

    Args:
        boxes: (M, 4) pixels; they may lie anywhere.
        keep: "overlap" or "center", see :class:`BoxMapper`.

    Returns:
        The Q boxes that remain, (Q, 4), none without area; and (M,) bool, which ones these are.
    """
    limits = np.array([width, height])
    clipped = boxes.clip(0, np.tile(limits, 2))
    is_visible = (clipped[:, 2:] - clipped[:, :2] > 1e-5).all(axis=1)
    if keep == "center":
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        is_visible &= ((centers > 0) & (centers < limits)).all(axis=1)
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
    return _train_mapper(augmentations, image_format, keep="center")


def _train_mapper(augmentations: list[T.Augmentation], image_format: str, **options) -> BoxMapper:
    logger.info("Augmentations used in training: %s", augmentations)
    return BoxMapper(augmentations, image_format, **options)


def _with_fixed_size(cfg: CfgNode, augmentations: list[T.Augmentation]) -> list[T.Augmentation]:
    size = cfg.INPUT.FIXED_SIZE
    if size <= 0:
        return augmentations
    return [
        T.Resize((size, size)) if isinstance(one, T.ResizeShortestEdge) else one
        for one in augmentations
    ]
