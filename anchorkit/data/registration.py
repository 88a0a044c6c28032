"""All data sets that a config may name, made known to detectron2."""

from detectron2.config import CfgNode

from .coco_format import register_coco_format
from .image_folder import register_image_folders
from .multi_label import register_multi_label


def register_datasets(cfg: CfgNode) -> None:
    """Register the user's own sets of a config, and then the multi-label sets made of them.

    Raises:
        UserError: see :func:`register_coco_format` and :func:`register_image_folders`.
    """
    register_coco_format(cfg)
    register_image_folders(cfg)
    register_multi_label()
