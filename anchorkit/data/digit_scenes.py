"""Digit scenes: a detection data set that is drawn on the spot and needs no download.

Handwritten digits from scikit-learn's ``load_digits`` stand on coloured, noisy backgrounds among
clutter. The set is small, yet has what makes detection hard: sizes over three octaves, stretched
shapes, crowding, occlusion and distractors.
"""

import json
import logging
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..errors import UserError
from .coco_format import load_coco_boxes
from .digit_drawing import REFERENCE_SIZE, draw_scene

logger = logging.getLogger(__name__)

FOLDER = "digit_scenes"
SPLITS = ("train", "val")
CLASS_NAMES = [str(digit) for digit in range(10)]
# load_digits is in the order in which the 13 writers of the UCI test set were scanned; nothing
# tells where one writer ends. The split is one cut in that order: no image is in both halves, and
# at most the one writer at the cut can be.
FIRST_VAL_DIGIT = 1437


def write_digit_scenes(
    root: str,
    *,
    num_train: int = 2000,
    num_val: int = 300,
    size: int = REFERENCE_SIZE,
    seed: int = 0,
    replace: bool = True,
) -> str:
    """Write the train and val scenes and their COCO files to ``root/digit_scenes``.

    Every scene is drawn from its own generator, seeded with (seed, split, index): the files are
    byte-identical for a seed, and a smaller set is the beginning of a larger one. They are written
    to a temporary folder that is renamed at the end, so that an interrupted run leaves no half set
    and two processes may write at once.

    Args:
        root: folder of all data sets; made if it does not exist.
        num_train: number of training scenes.
        num_val: number of validation scenes.
        size: width and height of a scene in pixels; digits grow with it.
        seed: seed of all scenes.
        replace: True: take the place of a set that is there; False: leave such a set as it is.

    Returns:
        The folder of the set.

    Raises:
        UserError: a negative number of scenes or seed, or scenes too small for digits.
    """
    if min(num_train, num_val, seed) < 0 or size < 32:
        raise UserError(
            "digit scenes: expected num_train, num_val and seed of 0 or more and size of 32 or "
            f"more, got {num_train}, {num_val}, {seed} and {size}"
        )
    target = os.path.join(root, FOLDER)
    os.makedirs(root, exist_ok=True)
    work = tempfile.mkdtemp(prefix=f".{FOLDER}_", dir=root)
    try:
        for split, number in zip(SPLITS, (num_train, num_val), strict=True):
            _write_split(os.path.join(work, FOLDER), split, number, size, seed)
        if replace and os.path.isdir(target):
            os.rename(target, os.path.join(work, "old"))
        try:
            os.rename(os.path.join(work, FOLDER), target)
        except OSError:
            # Another process was quicker; its files are as good as ours.
            if not os.path.isdir(target):
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def load_glyphs(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Digits of a split, drawn larger: (D, 80, 80) float32 ink in [0, 1] and (D,) int labels.

    The 8 x 8 originals are interpolated and their blurred edges made steep, which gives pen strokes
    in place of grey blocks.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    part = slice(None, FIRST_VAL_DIGIT) if split == "train" else slice(FIRST_VAL_DIGIT, None)
    padded = np.pad(digits.images[part].astype(np.float32) / 16, ((0, 0), (1, 1), (1, 1)))
    large = [cv2.resize(glyph, (80, 80), interpolation=cv2.INTER_CUBIC) for glyph in padded]
    return np.clip((np.stack(large) - 0.35) / 0.3, 0, 1), digits.target[part]


def datasets_root() -> str:
    """Folder of all data sets: the environment's ``DETECTRON2_DATASETS``, or ``datasets``."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def ensure_digit_scenes() -> str:
    """Write the default set if its files are missing; return its folder.

    detectron2's metadata then have the paths below today's root.

    Raises:
        UserError: the folder is there, but an annotation file is not.
    """
    folder = os.path.join(datasets_root(), FOLDER)
    files = [_json_file(folder, split) for split in SPLITS]
    if not os.path.isdir(folder):
        logger.info("Writing the digit scenes to %s (drawn here, no download)", folder)
        write_digit_scenes(datasets_root(), replace=False)
    for file in files:
        if not os.path.isfile(file):
            raise UserError(
                f"digit scenes: {file} is missing; delete {folder} or write it anew with "
                "datasets/prepare_digit_scenes.py"
            )
    for split in SPLITS:
        _set_paths(f"{FOLDER}_{split}", split)
    return folder


def _register(split: str) -> None:
    name = f"{FOLDER}_{split}"
    DatasetCatalog.register(name, lambda: _load(name, split))
    MetadataCatalog.get(name).set(
        thing_classes=CLASS_NAMES,
        thing_dataset_id_to_contiguous_id={digit + 1: digit for digit in range(10)},
        evaluator_type="coco",
    )
    _set_paths(name, split)


def _set_paths(name: str, split: str) -> None:
    """Point the metadata at today's root, which may have changed since the last load."""
    folder = os.path.join(datasets_root(), FOLDER)
    metadata = MetadataCatalog.get(name)
    paths = {"json_file": _json_file(folder, split), "image_root": os.path.join(folder, split)}
    for key, path in paths.items():
        if metadata.get(key) is not None:
            delattr(metadata, key)
        setattr(metadata, key, path)


def _load(name: str, split: str) -> list[dict]:
    folder = ensure_digit_scenes()
    return load_coco_boxes(_json_file(folder, split), os.path.join(folder, split), name)


def _json_file(folder: str, split: str) -> str:
    return os.path.join(folder, "annotations", f"{split}.json")


def _write_split(folder: str, split: str, number: int, size: int, seed: int) -> None:
    os.makedirs(os.path.join(folder, split))
    os.makedirs(os.path.join(folder, "annotations"), exist_ok=True)
    glyphs, labels = load_glyphs(split)

    def write_scene(index: int) -> list[tuple[int, list[int]]]:
        rng = np.random.default_rng([seed, SPLITS.index(split), index])
        image, objects = draw_scene(glyphs, labels, size, rng)
        path = os.path.join(folder, split, f"{index:06d}.png")
        # Stored, not compressed: noise hardly gets smaller, is read faster as it is, and no
        # version of a compression library makes a difference.
        if not cv2.imwrite(path, image, [cv2.IMWRITE_PNG_COMPRESSION, 0]):
            raise OSError(f"cannot write {path}; is the disk full?")
        return objects

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        scenes = list(pool.map(write_scene, range(number)))
    images = [
        {"id": index, "file_name": f"{index:06d}.png", "width": size, "height": size}
        for index in range(number)
    ]
    annotations = []
    for index, objects in enumerate(scenes):
        for digit, box in objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": digit + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    content = {
        "info": {
            "description": f"digit scenes, {split}: {number} scenes, size {size}, seed {seed}",
            "num_scenes": number,
            "size": size,
            "seed": seed,
        },
        "images": images,
        "annotations": annotations,
        "categories": [{"id": digit + 1, "name": CLASS_NAMES[digit]} for digit in range(10)],
    }
    with open(_json_file(folder, split), "w", encoding="utf-8") as file:
        json.dump(content, file, separators=(",", ":"))


for _split in SPLITS:
    if f"{FOLDER}_{_split}" not in DatasetCatalog.keys():
        _register(_split)
