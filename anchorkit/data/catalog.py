"""Loading registered data sets of any kind, and checks of what a config asks of them."""

import os
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..config import check_registered
from ..errors import UserError, quoted
from .coco_format import CocoSet
from .digit_scenes import FOLDER, SPLITS, datasets_root, ensure_digit_scenes
from .faults import Fault, drop_invalid_boxes
from .image_batches import load_image_sets
from .image_set import is_image_set


def load_dataset(name: str) -> tuple[list[dict], list[Fault]]:
    """Load a registered data set and take out the boxes that cannot be used.

    Args:
        name: a name of detectron2's DatasetCatalog.

    Returns:
        The images in detectron2's format and the faults that were found.

    Raises:
        UserError: the name is unknown, or the files are missing or damaged.
    """
    check_registered([name], "data sets")
    check_files_of(name)
    source = DatasetCatalog[name]
    if isinstance(source, CocoSet):
        return source.read()
    try:
        dicts = source()
    except UserError:
        raise
    except (OSError, ValueError, KeyError, AssertionError) as error:
        raise UserError(f"{name}: cannot be loaded: {type(error).__name__}: {error}") from error
    return drop_invalid_boxes(dicts)


def check_files(cfg: CfgNode, *, train: bool = True) -> None:
    """Check that the files of all data sets are there; missing digit scenes are written.

    Args:
        cfg: gives ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        train: whether the training sets matter too (not for an evaluation alone).

    Raises:
        UserError: files are missing; says where they must be put.
    """
    for name in _dataset_names(cfg, train):
        if is_image_set(name):
            load_image_sets(cfg, [name], train=train and name in cfg.DATASETS.TRAIN)
        else:
            check_files_of(name)


def check_files_of(name: str) -> None:
    """Check that a detection set's files are there; missing digit scenes are written.

    Raises:
        UserError: files are missing; says where they must be put.
    """
    if name in [f"{FOLDER}_{split}" for split in SPLITS]:
        ensure_digit_scenes()
        return
    metadata = MetadataCatalog.get(name)
    needed = [metadata.get(key) for key in ("json_file", "image_root", "dirname")]
    if metadata.get("dirname") and metadata.get("split"):
        split_file = os.path.join("ImageSets", "Main", f"{metadata.split}.txt")
        needed.append(os.path.join(metadata.dirname, split_file))
    for path in filter(None, needed):
        if not os.path.exists(path):
            raise UserError(
                f"{name}: {path} does not exist; put the files there, or set the environment "
                f"variable DETECTRON2_DATASETS (now {datasets_root()!r}) to the folder that holds "
                "all data sets; datasets/README.md shows the folders"
            )


def check_classes(cfg: CfgNode, *, train: bool = True) -> None:
    """Check that all data sets have the same classes, and as many as the model.

    Args:
        cfg: gives ``DATASETS.TRAIN``, ``DATASETS.TEST`` and ``MODEL.NUM_CLASSES``.
        train: whether the training sets matter too.

    Raises:
        UserError: two sets have different classes, or ``MODEL.NUM_CLASSES`` is neither 0 nor the
            number of classes.
    """
    classes = {}
    for name in _dataset_names(cfg, train):
        if name in DatasetCatalog.keys():
            names = MetadataCatalog.get(name).get("thing_classes")
            if names:
                classes[name] = list(names)
    if not classes:
        return
    first, *others = classes
    for other in others:
        check_same_classes(first, classes[first], other, classes[other])
    number = len(classes[first])
    if cfg.MODEL.NUM_CLASSES not in (0, number):
        raise UserError(
            f"MODEL.NUM_CLASSES is {cfg.MODEL.NUM_CLASSES}, but {first} has {number} classes; set "
            f"it to {number}, or to 0 to take the number from the data set"
        )


def check_same_classes(
    first: str, first_classes: Sequence[str], second: str, second_classes: Sequence[str]
) -> None:
    """Check that two sets, by name and class names, give class indices the same meaning.

    Raises:
        UserError: a class is missing in one of them, or their order differs.
    """
    if list(first_classes) == list(second_classes):
        return
    pairs = ((first, first_classes, second_classes), (second, second_classes, first_classes))
    missing = [(name, [one for one in theirs if one not in own]) for name, own, theirs in pairs]
    parts = [f"{name} has no {quoted(names)}" for name, names in missing if names]
    raise UserError(
        f"{first} and {second} have other classes: {', '.join(parts) or 'their order differs'}; "
        "data sets used together need the same classes in the same order (of COCO's category ids, "
        "of the class folders' names)"
    )


def _dataset_names(cfg: CfgNode, train: bool) -> list[str]:
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST) if train else tuple(cfg.DATASETS.TEST)
    return list(dict.fromkeys(names))
