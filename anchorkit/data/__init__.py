"""Data sets, their checks and the data loaders. Importing it registers the digit scenes."""

from .catalog import check_classes, check_files, load_dataset
from .check import check_datasets
from .coco_format import load_coco_boxes, register_coco_format
from .digit_scenes import write_digit_scenes
from .loader import build_test_loader, build_train_loader

__all__ = [
    "build_test_loader",
    "build_train_loader",
    "check_classes",
    "check_datasets",
    "check_files",
    "load_coco_boxes",
    "load_dataset",
    "register_coco_format",
    "write_digit_scenes",
]
