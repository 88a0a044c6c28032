"""Multi-label sets made of detection sets: their images, with the classes of the objects."""

import logging
import os
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import Tensor

from ..errors import UserError, quoted
from .catalog import check_files_of, check_same_classes
from .coco_format import CocoSet, class_names, contiguous_ids, read_coco_json
from .image_cache import load_squares
from .image_files import describe_error
from .image_set import ImageSet, Listing, ReadOptions, register_image_set

logger = logging.getLogger(__name__)

SUFFIX = "_multi_label"
# Label of a class whose objects in an image are all difficult, by ReadOptions.difficult.
DIFFICULT_LABELS = {"positive": 1, "negative": 0, "ignore": -1}

# Position of the image, class, and whether the object is marked difficult.
Objects = Sequence[tuple[int, int, bool]]


@dataclass(frozen=True)
class MultiLabelSet:
    """The images of a detection set in COCO's or VOC's layout, with the classes of their objects.

    Attributes:
        base: name of the detection set. Its metadata tell where the files are when they are read.
    """

    base: str

    @property
    def name(self) -> str:
        return self.base + SUFFIX

    def listing(self, difficult: str = "positive") -> Listing:
        """Paths and labels of all images in the order of the set's file, and the classes.

        Boxes are not looked at, so an object counts even if its box cannot be used.

        Args:
            difficult: see :class:`~.image_set.ReadOptions`.

        Raises:
            UserError: files are missing or damaged, or an object has an unknown class.
        """
        check_files_of(self.base)
        read = _read_voc if MetadataCatalog.get(self.base).get("dirname") else _read_coco
        paths, objects, classes = read(self.base)
        return paths, class_labels(objects, len(paths), len(classes), difficult), classes

    def __call__(self, options: ReadOptions) -> ImageSet:
        """Decode the images to squares, or map those that an earlier run decoded.

        The cache has all images, whatever the options leave out. Files that cannot be decoded are
        named in the log and left out.

        Args:
            options: ``size``, ``resize``, ``difficult`` and ``min_classes``; classes whose label
                is 1 count.

        Raises:
            UserError: see :meth:`listing`, no size, or no image is left.
        """
        paths, labels, classes = self.listing(options.difficult)
        metadata = MetadataCatalog.get(self.base)
        folder = metadata.get("dirname") or metadata.image_root
        images, kept = load_squares(self.name, folder, paths, options)
        if not kept:
            raise UserError(
                f"{self.name}: none of its {len(paths)} images can be decoded (the log says why); "
                "put the image files there"
            )
        labels = labels[kept]
        has_enough = (labels == 1).sum(1) >= options.min_classes
        if not has_enough.any():
            raise UserError(
                f"{self.name}: none of its {len(kept)} images has {options.min_classes} classes or "
                "more; lower DATASETS.MULTI_LABEL.MIN_CLASSES_TRAIN"
            )
        if not has_enough.all():
            # A copy in memory, while the whole set would be mapped from its cache.
            images, labels = images[has_enough], labels[has_enough]
        positions = torch.tensor(kept)[has_enough].tolist()
        return ImageSet(images, labels, classes, tuple(paths[position] for position in positions))


def register_multi_label() -> None:
    """Make "NAME_multi_label" known for every detection set NAME that detectron2 knows by now.

    Such sets are those in COCO's or VOC's layout. Importing anchorkit does it for the built-in
    ones; call it again for those registered later. Registering the same set twice is allowed.

    Raises:
        UserError: a name stands for another data set.
    """
    for base in DatasetCatalog.list():
        metadata = MetadataCatalog.get(base)
        is_coco = metadata.get("evaluator_type") == "coco" and metadata.get("json_file")
        is_voc = metadata.get("dirname") and metadata.get("split")
        if is_coco or is_voc:
            source = MultiLabelSet(base)
            classes = metadata.get("thing_classes")
            register_image_set(
                source.name, source, classes, lister=source.listing, multi_label=True
            )


def class_labels(objects: Objects, num_images: int, num_classes: int, difficult: str) -> Tensor:
    """(N, K) int8: 1 for a class with an object in the image, 0 for one without.

    Where all objects of a class are difficult it is 1, 0 or -1 for ``difficult`` "positive",
    "negative" or "ignore".
    """
    labels = torch.zeros(num_images, num_classes, dtype=torch.int8)
    image, label, is_difficult = torch.tensor(objects, dtype=torch.int64).view(-1, 3).T
    is_difficult = is_difficult.bool()
    labels[image[is_difficult], label[is_difficult]] = DIFFICULT_LABELS[difficult]
    labels[image[~is_difficult], label[~is_difficult]] = 1
    return labels


def _read_coco(name: str) -> tuple[list[str], Objects, tuple[str, ...]]:
    """Paths of the images, objects (crowds are some, too) and classes of a COCO file."""
    source, metadata = DatasetCatalog[name], MetadataCatalog.get(name)
    # The metadata of a user's own set name a copy without the objects whose boxes are unusable.
    json_file = source.json_file if isinstance(source, CocoSet) else metadata.json_file
    content = read_coco_json(json_file, name)
    classes = class_names(content)
    check_same_classes(name, metadata.get("thing_classes", classes), json_file, classes)
    label_of = contiguous_ids(content)
    position_of = {image["id"]: number for number, image in enumerate(content["images"])}
    objects, num_strays = [], 0
    for number, annotation in enumerate(content["annotations"]):
        if annotation["category_id"] not in label_of:
            raise UserError(
                f"{name}: {json_file}: annotation {annotation.get('id', number)} of image "
                f"{annotation['image_id']} has the category {annotation['category_id']}, which is "
                "not among the file's categories; correct it or add the category"
            )
        if annotation["image_id"] in position_of:
            label = label_of[annotation["category_id"]]
            objects.append((position_of[annotation["image_id"]], label, False))
        else:
            num_strays += 1
    if num_strays:
        logger.warning(
            "%s (%s): %d annotations belong to no image of the file and do not count",
            name,
            json_file,
            num_strays,
        )
    paths = [os.path.join(metadata.image_root, image["file_name"]) for image in content["images"]]
    return paths, objects, tuple(classes)


def _read_voc(name: str) -> tuple[list[str], Objects, tuple[str, ...]]:
    """As :func:`_read_coco`, of a VOC folder, whose difficult objects detectron2 does not tell."""
    metadata = MetadataCatalog.get(name)
    classes, folder = tuple(metadata.thing_classes), metadata.dirname
    split_file = os.path.join(folder, "ImageSets", "Main", f"{metadata.split}.txt")
    with open(split_file, encoding="utf-8") as file:
        image_ids = [line.split()[0] for line in file if line.strip()]
    objects = []
    for position, image_id in enumerate(image_ids):
        path = os.path.join(folder, "Annotations", f"{image_id}.xml")
        try:
            root = ET.parse(path)
        except (OSError, ET.ParseError) as error:
            raise UserError(
                f"{name}: {path}: {describe_error(error, path)}; complete or mend the files"
            ) from error
        for entry in root.iterfind("object"):
            class_name = entry.findtext("name")
            if class_name not in classes:
                raise UserError(
                    f"{name}: {path} has an object of the class {class_name!r}; expected one of "
                    f"{quoted(classes)}; correct it"
                )
            is_difficult = entry.findtext("difficult", "0").strip() == "1"
            objects.append((position, classes.index(class_name), is_difficult))
    paths = [os.path.join(folder, "JPEGImages", f"{image_id}.jpg") for image_id in image_ids]
    return paths, objects, classes


register_multi_label()
