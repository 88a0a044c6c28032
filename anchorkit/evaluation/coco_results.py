"""Result files in COCO's format, as evaluations and the demo write them."""

import json
import math
from collections.abc import Hashable, Mapping, Sequence
from pathlib import PurePath

from pycocotools.coco import COCO

from ..errors import UserError, quoted

_EXPECTED = (
    "expected is the coco_instances_results.json that an evaluation leaves in "
    "OUTPUT_DIR/inference/<set>, or the predictions.json of tools/demo.py"
)


def read_results(path: str, truth: COCO) -> list[dict]:
    """Detections of a data set, checked.

    Args:
        path: a list of dicts with image_id, category_id, bbox (XYWH, pixels) and score. Those with
            "file_name" and "category", which the demo writes, are of the image with that file and
            of the class with that name: their numbers are the demo's own.
        truth: the data set's file.

    Returns:
        Dicts with these four, ids as in the data set's file.

    Raises:
        UserError: a file that cannot be read or is none of these, or images or classes that the
            data set does not have.
    """
    images_by_file = {image["file_name"]: identity for identity, image in truth.imgs.items()}
    ids_by_class = {str(category["name"]): identity for identity, category in truth.cats.items()}
    results, no_image, no_class = [], {}, {}
    for number, entry in enumerate(_load(path)):
        box, score = _box_and_score(entry, f"{path}: entry {number}")
        if "file_name" in entry and "category" in entry:
            image, category = str(entry["file_name"]), str(entry["category"])
            image_id, category_id = _find(image, images_by_file), ids_by_class.get(category)
        else:
            image, category = entry.get("image_id"), entry.get("category_id")
            image_id, category_id = _known(image, truth.imgs), _known(category, truth.cats)
        if image_id is None:
            no_image[str(image)] = None
        elif category_id is None:
            no_class[str(category)] = None
        results.append(
            {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}
        )
    for kind, names in (("images", no_image), ("categories", no_class)):
        if names:
            raise UserError(
                f"{path}: the data set has no {kind} {quoted(list(names))}; name the set that the "
                "results are of"
            )
    return results


def _load(path: str) -> list:
    try:
        with open(path, encoding="utf-8") as file:
            entries = json.load(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; {_EXPECTED}") from error
    except ValueError as error:
        raise UserError(f"{path}: is not JSON ({error}); {_EXPECTED}") from error
    if not isinstance(entries, list):
        raise UserError(f"{path}: holds a {type(entries).__name__}, not a list; {_EXPECTED}")
    if not entries:
        raise UserError(f"{path}: the list is empty: the model found nothing that could be shown")
    return entries


def _box_and_score(entry, where: str) -> tuple[list[float], float]:
    is_dict = isinstance(entry, dict)
    box, score = (entry.get("bbox"), entry.get("score")) if is_dict else (None, None)
    values = [*box, score] if isinstance(box, Sequence) and len(box) == 4 else []
    if not values or not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
        raise UserError(
            f"{where}: expected image_id, category_id, a bbox of four numbers and a score, got "
            f"{str(entry)[:100]}; {_EXPECTED}"
        )
    return [float(value) for value in box], float(score)


def _known(identity, entries: Mapping) -> Hashable | None:
    return identity if isinstance(identity, int | str) and identity in entries else None


def _find(path: str, images_by_file: Mapping[str, Hashable]) -> Hashable | None:
    """The image whose file name, from the data set's folder on, is the end of the path."""
    parts = PurePath(path).parts
    ends = ("/".join(parts[first:]) for first in range(len(parts)))
    return next((images_by_file[end] for end in ends if end in images_by_file), None)
