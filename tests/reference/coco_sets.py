"""Small data sets in COCO's format, and detections of them."""

import contextlib
import io

import numpy as np
from pycocotools.coco import COCO

NAMES = ["cat", "dog", "bird"]
# Ids in a data set's file need not follow each other.
CATEGORIES = [3, 5, 9]


def coco_content(objects, num_images=2):
    """A COCO file as a dict.

    Args:
        objects: (image, class, box XYXY) and, for a crowd, True.
    """
    annotations = []
    for number, (image, index, (x1, y1, x2, y2), *crowd) in enumerate(objects):
        annotations.append({
            "id": number + 1, "image_id": image, "category_id": CATEGORIES[index],
            "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1),
            "iscrowd": int(bool(crowd)),
        })  # fmt: skip
    return {
        "images": [
            {"id": i, "file_name": f"images/{i}.png", "width": 100, "height": 100}
            for i in range(num_images)
        ],
        "annotations": annotations,
        "categories": [
            {"id": i, "name": n} for i, n in zip(CATEGORIES, NAMES, strict=True)
        ],
    }  # fmt: skip


def coco_set(objects, num_images=2):
    """pycocotools' object of :func:`coco_content`."""
    truth = COCO()
    truth.dataset = coco_content(objects, num_images)
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth


def result(image, index, box, score):
    """A detection as COCO's result files have it."""
    x1, y1, x2, y2 = box
    return {
        "image_id": image, "category_id": CATEGORIES[index], "score": score,
        "bbox": [float(value) for value in (x1, y1, x2 - x1, y2 - y1)],
    }  # fmt: skip


def random_set(seed, num_images=12):
    """A set and results: found, shifted, of a wrong class, twice, or nowhere; scores have ties."""
    rng = np.random.default_rng(seed)
    objects, results = [], []
    for image in range(num_images):
        for cell in rng.permutation(16)[: rng.integers(0, 7)]:
            x, y = 25.0 * (cell % 4), 25.0 * (cell // 4)
            box, index = (x, y, x + rng.uniform(12, 24), y + rng.uniform(12, 24)), rng.integers(3)
            objects.append((image, index, box, *([True] if rng.random() < 0.1 else [])))
            for _ in range(rng.integers(0, 3)):
                seen = index if rng.random() < 0.7 else rng.integers(3)
                moved = np.array(box) + rng.normal(0, 1.5, 4)
                results.append(result(image, seen, moved, rng.integers(1, 10) / 10))
        x, y = rng.uniform(0, 70, 2)
        box = (x, y, x + 20, y + 20)
        results.append(result(image, rng.integers(3), box, rng.integers(1, 8) / 10))
    return objects, results
