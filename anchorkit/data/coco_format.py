"""Data sets of the user's own in COCO format: reading, checking and registering them."""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ..errors import UserError
from .faults import MAX_AREA, Fault, box_fault, is_finite, summarize

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CocoSet:
    """A COCO file and its image folder, as registered in detectron2's DatasetCatalog."""

    name: str
    json_file: str
    image_root: str

    def __call__(self) -> list[dict]:
        return load_coco_boxes(self.json_file, self.image_root, self.name)

    def read(self) -> tuple[list[dict], list[Fault]]:
        """Images and faults, see :func:`read_coco_boxes`."""
        return read_coco_boxes(read_coco_json(self.json_file, self.name), self.image_root)


def register_coco_format(cfg: CfgNode) -> None:
    """Make the data sets of ``DATASETS.COCO_FORMAT`` known to detectron2, with their class names.

    Classes are numbered in the order of their category ids. Evaluation uses the user's file as it
    is; if pycocotools cannot use all of it, a mended copy is written to ``OUTPUT_DIR/datasets``.
    Registering the same set twice is allowed.

    Raises:
        UserError: an entry of the wrong shape, a missing file or folder, a file that is not COCO
            format, or a name that stands for another data set.
    """
    for entry in cfg.DATASETS.COCO_FORMAT:
        source = _parse_entry(entry)
        if source.name in DatasetCatalog.keys():
            if DatasetCatalog[source.name] != source:
                raise UserError(
                    f"DATASETS.COCO_FORMAT: the name {source.name!r} already stands for another "
                    "data set; choose another name"
                )
            continue
        _register(source, cfg.OUTPUT_DIR)


def load_coco_boxes(
    json_file: str, image_root: str, name: str, *, strict: bool = False
) -> list[dict]:
    """Read images and boxes of a COCO file in detectron2's format; polygons are left out.

    Args:
        json_file: file with images, annotations and categories. Annotations need image_id,
            category_id and bbox; area, iscrowd and segmentation may be missing.
        image_root: folder that the images' file names start at.
        name: name of the data set, for messages.
        strict: raise at invalid boxes; otherwise they are dropped with one warning.

    Returns:
        One dict an image, in the file's order: file_name, height, width, image_id, annotations
        with bbox (XYWH_ABS), category_id (from 0) and iscrowd. A box that is partly outside of the
        image is kept; detectron2's mapper clips it.

    Raises:
        UserError: the file cannot be used, or it has invalid boxes and ``strict`` is True.
    """
    dicts, faults = read_coco_boxes(read_coco_json(json_file, name), image_root)
    if faults and strict:
        raise UserError(f"{name} ({json_file}): {summarize(faults)}")
    if faults:
        logger.warning("%s (%s): dropped %s", name, json_file, summarize(faults))
    return dicts


def read_coco_json(json_file: str, name: str) -> dict:
    """Parse a COCO file and check that it has what every reader relies on.

    Raises:
        UserError: no such file, no JSON, or a part that is missing or of the wrong kind.
    """
    where = f"{name}: {json_file}"
    try:
        with open(json_file, encoding="utf-8-sig") as file:
            content = json.load(file)
    except OSError as error:
        raise UserError(f"{where} cannot be read ({error.strerror}); correct the path") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not a JSON file: {error}") from error
    for part, needed in (
        ("images", ("id", "file_name", "width", "height")),
        ("annotations", ("image_id", "category_id")),
        ("categories", ("id", "name")),
    ):
        entries = content.get(part) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise UserError(
                f"{where} has no list {part!r}; a COCO detection file has images, annotations and "
                "categories"
            )
        for number, entry in enumerate(entries):
            if not isinstance(entry, dict) or not all(_is_plain(entry, key) for key in needed):
                raise UserError(
                    f"{where}: {part}[{number}] needs {', '.join(needed)}; got {str(entry)[:100]}"
                )
        if part != "annotations":
            _check_ids(where, part, entries)
    _check_images(where, content["images"])
    if not content["categories"]:
        raise UserError(f"{where} has no categories; list each class with id and name")
    return content


def read_coco_boxes(content: dict, image_root: str) -> tuple[list[dict], list[Fault]]:
    """Turn a parsed COCO file into detectron2's dicts.

    Args:
        content: of :func:`read_coco_json`.
        image_root: folder that the images' file names start at.

    Returns:
        The dicts, with usable boxes only, and one fault for each annotation left out: a box that
        is no box or outside of its image, an unknown category, an unknown image, an iscrowd that
        is neither 0 nor 1.
    """
    contiguous = contiguous_ids(content)
    records = {
        image["id"]: {
            "file_name": os.path.join(image_root, image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "annotations": [],
        }
        for image in content["images"]
    }
    faults = []
    for number, annotation in enumerate(content["annotations"]):
        record = records.get(annotation["image_id"])
        reason = _annotation_fault(annotation, record, contiguous)
        if reason:
            faults.append(
                Fault(
                    record["file_name"] if record else "not in the file's images",
                    annotation["image_id"],
                    reason,
                    annotation.get("id", f"number {number}"),
                    annotation.get("bbox"),
                )
            )
            continue
        record["annotations"].append(
            {
                "bbox": annotation["bbox"],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": contiguous[annotation["category_id"]],
                "iscrowd": annotation.get("iscrowd", 0),
            }
        )
    return list(records.values()), faults


def contiguous_ids(content: dict) -> dict[int, int]:
    """Class number, from 0, of each category id."""
    ids = sorted(category["id"] for category in content["categories"])
    return {category_id: number for number, category_id in enumerate(ids)}


def class_names(content: dict) -> list[str]:
    """Names of the classes, in the order of their category ids."""
    names = {category["id"]: category["name"] for category in content["categories"]}
    return [str(names[category_id]) for category_id in contiguous_ids(content)]


def _annotation_fault(annotation: dict, record: dict | None, contiguous: dict) -> str | None:
    if record is None:
        return "the annotation's image is unknown"
    if annotation["category_id"] not in contiguous:
        return f"the category {annotation['category_id']} is unknown"
    if annotation.get("iscrowd", 0) not in (0, 1):
        return f"iscrowd is {annotation['iscrowd']!r}; expected 0 or 1"
    return box_fault(annotation.get("bbox"), record["width"], record["height"])


def _parse_entry(entry: Any) -> CocoSet:
    is_triple = isinstance(entry, Sequence) and not isinstance(entry, str) and len(entry) == 3
    if not is_triple or not all(isinstance(part, str) and part for part in entry):
        raise UserError(
            "DATASETS.COCO_FORMAT: expected a list of [name, json_file, image_folder], such as "
            f"\"[['mine', 'mine.json', 'images']]\"; got the entry {entry!r}"
        )
    name, json_file, image_root = entry
    json_file, image_root = os.path.expanduser(json_file), os.path.expanduser(image_root)
    for kind, path, exists in (
        ("annotation file", json_file, os.path.isfile),
        ("image folder", image_root, os.path.isdir),
    ):
        if not exists(path):
            raise UserError(
                f"DATASETS.COCO_FORMAT: the {kind} {path} of {name!r} does not exist; relative "
                f"paths start at {os.getcwd()}"
            )
    return CocoSet(name, json_file, image_root)


def _register(source: CocoSet, output_dir: str) -> None:
    content = read_coco_json(source.json_file, source.name)
    MetadataCatalog.get(source.name).set(
        thing_classes=class_names(content),
        thing_dataset_id_to_contiguous_id=contiguous_ids(content),
        evaluator_type="coco",
        json_file=_evaluation_file(source, content, output_dir),
        image_root=source.image_root,
    )
    DatasetCatalog.register(source.name, source)


def _evaluation_file(source: CocoSet, content: dict, output_dir: str) -> str:
    """The file that COCO evaluation reads: the user's, or a copy of it that pycocotools can use.

    pycocotools stops at annotations without area, iscrowd or a proper box, passes over those with
    an impossible area, and takes a correct detection of the annotation with id 0, or of all but
    one of the same id, for a false one.
    """
    _, faults = read_coco_boxes(content, source.image_root)
    annotations = content["annotations"]
    ids = {entry.get("id") for entry in annotations if _is_countable(entry.get("id"))}
    is_complete = all("iscrowd" in entry and _has_area(entry) for entry in annotations)
    if not faults and is_complete and len(ids) == len(annotations):
        return source.json_file
    images = {image["id"]: image for image in content["images"]}
    contiguous = contiguous_ids(content)
    usable = []
    for annotation in annotations:
        image = images.get(annotation["image_id"])
        if not _annotation_fault(annotation, image, contiguous):
            box = annotation["bbox"]
            area = annotation["area"] if _has_area(annotation) else box[2] * box[3]
            usable.append({"iscrowd": 0, **annotation, "area": area, "id": len(usable) + 1})
    folder = os.path.join(output_dir, "datasets")
    path = os.path.join(folder, f"{source.name}.json")
    os.makedirs(folder, exist_ok=True)
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump({**content, "annotations": usable}, file)
    os.replace(temporary, path)
    logger.info("%s: COCO evaluation uses a completed copy of the file, %s", source.name, path)
    return path


def _is_plain(entry: dict, key: str) -> bool:
    """Whether the entry has the key, with a value that can be an id, a name or a number."""
    return key in entry and not isinstance(entry[key], list | dict)


def _is_countable(identity: Any) -> bool:
    """Whether pycocotools can use the id of an annotation."""
    return type(identity) is int and 0 < identity < 2**53


def _has_area(annotation: dict) -> bool:
    area = annotation.get("area")
    return is_finite(area) and 0 <= area <= MAX_AREA


def _check_images(where: str, images: list[dict]) -> None:
    for number, image in enumerate(images):
        name, size = image["file_name"], (image["width"], image["height"])
        if not isinstance(name, str) or not all(is_finite(side) and side >= 1 for side in size):
            raise UserError(
                f"{where}: images[{number}] needs text as file_name, pixels as width and height; "
                f"got {name!r}, {size[0]!r} and {size[1]!r}"
            )


def _check_ids(where: str, part: str, entries: list[dict]) -> None:
    seen = set()
    kind = type(entries[0]["id"]) if entries else int
    for entry in entries:
        identity = entry["id"]
        if kind not in (int, str) or type(identity) is not kind:
            raise UserError(
                f"{where}: {part} have the id {identity!r}; expected whole numbers, or text in all "
                f"{part}"
            )
        if identity in seen:
            raise UserError(f"{where}: {part} have the id {identity!r} twice; ids must differ")
        seen.add(identity)
