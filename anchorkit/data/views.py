"""Images in several sizes and mirrored, for test-time augmentation."""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T

from ..errors import UserError
from .image_files import read_image


class ViewMapper:
    """Reads an image and gives its views, all made from the file's pixels.

    Args:
        resizes: one for each size.
        flip: each size comes mirrored, too.
        image_format: that images are read in.
    """

    def __init__(self, resizes: Sequence[T.Augmentation], flip: bool, image_format: str):
        self.resizes = list(resizes)
        self.flip = flip
        self.image_format = image_format

    def __call__(self, record: dict) -> dict:
        """``record`` with "views" in place of its annotations.

        A view is what a detector takes, "image" (3, h, w) with the "height" and "width" of the
        file, and "is_flipped".
        """
        record = {key: value for key, value in record.items() if key != "annotations"}
        pixels = read_image(record["file_name"], self.image_format)
        utils.check_image_size(record, pixels)
        record["views"] = []
        for resize in self.resizes:
            resized = resize.get_transform(pixels).apply_image(pixels)
            image = torch.as_tensor(resized.transpose(2, 0, 1).copy())
            size = {"height": record["height"], "width": record["width"]}
            record["views"].append({"image": image, "is_flipped": False, **size})
            if self.flip:
                record["views"].append({"image": image.flip(2), "is_flipped": True, **size})
        return record


def build_view_mapper(cfg: CfgNode) -> ViewMapper:
    """The views of ``TEST.AUG``; squares under ``INPUT.FIXED_SIZE``.

    Raises:
        UserError: no sizes, such below 1, or another one than a SSD's.
    """
    keys, side = cfg.TEST.AUG, cfg.INPUT.FIXED_SIZE
    if not keys.MIN_SIZES or min(keys.MIN_SIZES) < 1:
        raise UserError(
            f"TEST.AUG.MIN_SIZES is {tuple(keys.MIN_SIZES)}; give the sides of images in pixels, "
            f"such as ({side or cfg.INPUT.MIN_SIZE_TEST},)"
        )
    if cfg.MODEL.ANCHOR_GENERATOR.NAME == "SSDAnchorGenerator" and set(keys.MIN_SIZES) != {side}:
        raise UserError(
            f"TEST.AUG.MIN_SIZES is {tuple(keys.MIN_SIZES)}, but the anchors of a SSD are for "
            f"images of INPUT.FIXED_SIZE {side} alone; set TEST.AUG.MIN_SIZES ({side},), which "
            "leaves TEST.AUG.FLIP"
        )
    if side > 0:
        resizes = [T.Resize((size, size)) for size in keys.MIN_SIZES]
    else:
        resizes = [T.ResizeShortestEdge(size, keys.MAX_SIZE) for size in keys.MIN_SIZES]
    return ViewMapper(resizes, keys.FLIP, cfg.INPUT.FORMAT)
