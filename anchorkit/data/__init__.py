"""Data sets, their checks and the data loaders. Importing it registers the embedded sets."""

from .array_sets import read_cifar10, read_digits, read_mnist
from .catalog import check_classes, check_files, check_same_classes, load_dataset
from .check import check_datasets
from .coco_format import load_coco_boxes, register_coco_format
from .digit_scenes import write_digit_scenes
from .image_folder import register_image_folders
from .image_grids import ImageGrids
from .image_set import (
    ImageBatch,
    ImageSet,
    ReadOptions,
    is_image_set,
    is_multi_label,
    load_image_set,
    register_image_set,
)
from .loader import build_test_loader, build_train_loader
from .multi_label import register_multi_label
from .registration import register_datasets

__all__ = [
    "ImageBatch",
    "ImageGrids",
    "ImageSet",
    "ReadOptions",
    "build_test_loader",
    "build_train_loader",
    "check_classes",
    "check_datasets",
    "check_files",
    "check_same_classes",
    "is_image_set",
    "is_multi_label",
    "load_coco_boxes",
    "load_dataset",
    "load_image_set",
    "read_cifar10",
    "read_digits",
    "read_mnist",
    "register_coco_format",
    "register_datasets",
    "register_image_folders",
    "register_image_set",
    "register_multi_label",
    "write_digit_scenes",
]
