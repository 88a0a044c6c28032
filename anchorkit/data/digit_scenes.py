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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..errors import UserError
from .coco_format import load_coco_boxes

logger = logging.getLogger(__name__)

FOLDER = "digit_scenes"
SPLITS = ("train", "val")
CLASS_NAMES = [str(digit) for digit in range(10)]
# load_digits is in the order in which the 13 writers of the UCI test set were scanned; nothing
# tells where one writer ends. The split is one cut in that order: no image is in both halves, and
# at most the one writer at the cut can be.
FIRST_VAL_DIGIT = 1437
# Side lengths (square root of width times height) of digits, for scenes of this size.
REFERENCE_SIZE = 160
SIDE_RANGE = (12.0, 100.0)
# A digit's width over height is its writer's times a log-uniform factor of this range.
STRETCH_RANGE = (0.6, 1.6)
# Share of a digit's ink that later digits leave to be seen.
MIN_VISIBLE_SHARE = 0.75
# A pixel belongs to a digit, and so to its box, if the digit covers at least this part of it.
INK_THRESHOLD = 0.25
# Digits are light on dark, as chalk is: backgrounds and clutter have no colour channel above this,
BRIGHTEST_BACKGROUND = 160.0
# and four fifths of a digit's surroundings are darker than it by this much luminance, of 255.
MIN_CONTRAST = 60.0
LUMINANCE = np.array([0.114, 0.587, 0.299], dtype=np.float32)  # of B, G, R


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


def draw_scene(
    glyphs: np.ndarray, labels: np.ndarray, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[tuple[int, list[int]]]]:
    """Draw one scene.

    Args:
        glyphs: (D, H, W) float ink of the digits to draw from, see :func:`load_glyphs`.
        labels: (D,) digits that they show.
        size: width and height of the scene in pixels.
        rng: the only source of randomness.

    Returns:
        The BGR image, (size, size, 3) uint8, and a list of (digit, [x, y, width, height]) with
        boxes in whole pixels, tight around the ink that can be seen.
    """
    objects = []
    while not objects:
        image = _background(size, rng)
        objects = _place_digits(image, glyphs, labels, rng)
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (3, 3), rng.uniform(0.3, 0.8))
    # Grain of one value for the three channels: half the file size of independent noise.
    grain = rng.standard_normal((size, size, 1), dtype=np.float32) * np.float32(rng.uniform(1, 9))
    return np.clip(image + grain, 0, 255).astype(np.uint8), objects


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
    _set_paths(name, split)
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
        if not cv2.imwrite(path, image):
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


def _background(size: int, rng: np.random.Generator) -> np.ndarray:
    """Float (size, size, 3) image: a colour gradient with texture and clutter."""
    low, high = sorted(rng.uniform(0, BRIGHTEST_BACKGROUND, 2))
    cells = int(rng.integers(2, 5))
    colours = rng.uniform(low, high, (cells, cells, 3)).astype(np.float32)
    image = cv2.resize(colours, (size, size), interpolation=cv2.INTER_LINEAR)
    grid = int(rng.integers(6, 40))
    texture = rng.standard_normal((grid, grid), dtype=np.float32) * np.float32(rng.uniform(2, 12))
    image += cv2.resize(texture, (size, size), interpolation=cv2.INTER_LINEAR)[..., None]
    image = np.ascontiguousarray(np.clip(image, 0, 255))
    for _ in range(rng.integers(2, 11)):
        _draw_clutter(image, rng)
    return image


def _draw_clutter(image: np.ndarray, rng: np.random.Generator) -> None:
    """Draw one line, arc, curve, blob or rectangle: strokes as thick as those of digits."""
    size = len(image)
    colour = tuple(float(value) for value in rng.uniform(0, BRIGHTEST_BACKGROUND, 3))
    centre = tuple(int(value) for value in rng.uniform(0, size, 2))
    extent = np.exp(rng.uniform(np.log(0.03), np.log(0.3))) * size
    axes = tuple(max(1, int(value)) for value in extent * rng.uniform(0.3, 1, 2))
    stroke = max(1, int(extent * rng.uniform(0.05, 0.3)))
    angle = rng.uniform(0, 360)
    kind = rng.choice(["line", "arc", "curve", "blob", "rectangle"])
    if kind == "line":
        offset = extent * np.array([np.cos(angle), np.sin(angle)])
        end = tuple(int(value) for value in np.array(centre) + 2 * offset)
        cv2.line(image, centre, end, colour, stroke, cv2.LINE_AA)
    elif kind == "arc":
        cv2.ellipse(image, centre, axes, angle, 0, rng.uniform(60, 300), colour, stroke)
    elif kind == "curve":
        steps = rng.normal(0, extent / 2, (int(rng.integers(3, 7)), 2))
        points = (np.array(centre) + steps.cumsum(axis=0)).astype(np.int32)
        cv2.polylines(image, [points], False, colour, stroke)
    elif kind == "blob":
        cv2.ellipse(image, centre, axes, angle, 0, 360, colour, -1)
    else:
        corners = cv2.boxPoints((centre, axes, angle)).astype(np.int32)
        cv2.polylines(image, [corners], True, colour, stroke)


def _place_digits(
    image: np.ndarray, glyphs: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> list[tuple[int, list[int]]]:
    """Draw 1 to 8 digits into ``image``, large ones first, and return (digit, box) of each."""
    size = len(image)
    number = int(rng.integers(1, 9))
    sides = np.exp(rng.uniform(*np.log(SIDE_RANGE), number)) * size / REFERENCE_SIZE
    stretches = np.exp(rng.uniform(*np.log(STRETCH_RANGE), number))
    objects, visible = [], []
    for side, stretch in sorted(zip(sides, stretches, strict=True), reverse=True):
        index = int(rng.integers(len(glyphs)))
        ink = _shape_glyph(glyphs[index], side, stretch, 0.9 * size)
        for x, y in _positions(size, ink.shape, rng):
            patch = image[y : y + ink.shape[0], x : x + ink.shape[1]]
            colour = _contrasting_colour(patch, rng)
            if colour is None:
                continue
            mask = np.zeros((size, size), dtype=bool)
            mask[y : y + ink.shape[0], x : x + ink.shape[1]] = ink >= INK_THRESHOLD
            if not all(_stays_visible(*other, mask) for other in visible):
                continue
            patch += (colour - patch) * ink[..., None]
            visible = [(full, seen & ~mask) for full, seen in visible] + [(mask, mask)]
            objects.append((int(labels[index]), list(_extent(mask))))
            break
    return objects


def _positions(
    size: int, shape: tuple[int, int], rng: np.random.Generator, tries: int = 20
) -> Iterator[tuple[int, int]]:
    for _ in range(tries):
        yield int(rng.integers(size - shape[1] + 1)), int(rng.integers(size - shape[0] + 1))


def _shape_glyph(glyph: np.ndarray, side: float, stretch: float, limit: float) -> np.ndarray:
    """Crop a glyph to its ink, make it ``stretch`` times as wide and scale it to ``side`` ** 2.

    Returns:
        (h, w) float32 ink in [0, 1], cropped such that no outer row or column lacks ink.
    """
    x, y, width, height = _extent(glyph >= 0.5)
    aspect = stretch * width / height
    new_width = max(4, round(min(side * aspect**0.5, limit)))
    new_height = max(4, round(min(side / aspect**0.5, limit)))
    crop = glyph[y : y + height, x : x + width]
    ink = cv2.resize(crop, (new_width, new_height), interpolation=cv2.INTER_AREA)
    x, y, width, height = _extent(ink >= INK_THRESHOLD)
    return ink[y : y + height, x : x + width]


def _contrasting_colour(patch: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """A random colour lighter than ``patch``, or None if ten tries give none."""
    colours = rng.uniform(60, 255, (10, 3)).astype(np.float32)
    step = max(1, min(patch.shape[:2]) // 12)
    surroundings = (patch[::step, ::step] @ LUMINANCE).ravel()
    difference = (colours @ LUMINANCE)[:, None] - surroundings
    is_clear = np.count_nonzero(difference >= MIN_CONTRAST, axis=1) >= 0.8 * surroundings.size
    return colours[is_clear.argmax()] if is_clear.any() else None


def _stays_visible(full: np.ndarray, seen: np.ndarray, cover: np.ndarray) -> bool:
    """Whether a digit keeps enough ink, and its whole extent, when ``cover`` is drawn over it."""
    if not (seen & cover).any():
        return True
    left = seen & ~cover
    if np.count_nonzero(left) < MIN_VISIBLE_SHARE * np.count_nonzero(full):
        return False
    return _extent(left) == _extent(full)


def _extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(x, y, width, height) of the True pixels."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y


for _split in SPLITS:
    if f"{FOLDER}_{_split}" not in DatasetCatalog.keys():
        _register(_split)
