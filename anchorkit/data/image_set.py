"""Labelled images in memory, their names, and the batches that a classifier is given."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import Tensor

from ..config import check_choice
from ..errors import UserError
from .digit_scenes import datasets_root

RESIZES = ("squash", "crop")
DIFFICULT = ("positive", "negative", "ignore")
CELLS = ("random", "fixed")


@dataclass(frozen=True)
class ReadOptions:
    """How a set is read. A set ignores what does not concern it.

    Attributes:
        size: side of the square images in pixels; 0 leaves images of one size as they are.
        resize: "squash": the whole image becomes a square; "crop": its centre square is taken.
        difficult: a class whose objects in an image are all marked difficult is there
            ("positive"), not there ("negative") or not known ("ignore").
        min_classes: multi-label images with fewer classes are left out.
        cells: where composed images have their parts: "random" or "fixed".
        fresh: composed images are others in every epoch.
    """

    size: int = 0
    resize: str = "squash"
    difficult: str = "positive"
    min_classes: int = 0
    cells: str = "random"
    fresh: bool = False

    def check(self) -> None:
        """Raise a :class:`UserError` for a value that is none."""
        if self.size < 0:
            raise UserError(f"the size of images is {self.size}; it must be 0 or more pixels")
        check_choice("resize", self.resize, RESIZES)
        check_choice("difficult", self.difficult, DIFFICULT)
        check_choice("cells", self.cells, CELLS)


@dataclass(frozen=True)
class ImageSet:
    """All images of a classification set, of one size.

    Attributes:
        images: (N, C, H, W) uint8; C is 1 (grey) or 3 (RGB).
        labels: (N,) int64 class indices. Of a multi-label set (N, K) int8: 1 for a class that is
            there, 0 for one that is not, -1 where it is not known.
        classes: names of the K classes.
        image_names: N names for messages and dumps: a file's path, or such as "train 17".
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    image_names: Sequence[str]

    def pixels(self, rows: Tensor | slice) -> Tensor:
        """(B, C, H, W) images of the set's rows."""
        return self.images[rows]

    def class_counts(self) -> list[int]:
        """For each class the number of images that are known to have it."""
        if self.labels.dim() == 1:
            return self.labels.bincount(minlength=len(self.classes)).tolist()
        return (self.labels == 1).sum(dim=0).tolist()

    def to(self, device: str | torch.device) -> "ImageSet":
        """The set with its tensors on a device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def of_epoch(self, epoch: int) -> "ImageSet":
        """The set as it is in an epoch; some compose other images in each."""
        return self


@dataclass(frozen=True)
class ImageBatch:
    """Some images of an :class:`ImageSet`, on the device.

    Attributes:
        images: (B, C, H, W) uint8.
        labels: (B,) int64 class indices, or (B, K) as in the set, or float targets.
        indices: (B,) int64 positions in the set, which are the image ids.
        image_names: those of the whole set.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    image_names: Sequence[str]

    def __len__(self) -> int:
        return len(self.images)

    def namer(self) -> Callable[[], list[str]]:
        """Gives the images' names when it is called, and does not hold their pixels until then."""
        indices, image_names = self.indices, self.image_names
        return lambda: [image_names[index] for index in indices.tolist()]


# Names, labels (as in an ImageSet) and classes of a set's images, read without decoding them.
Listing = tuple[Sequence[str], Tensor, tuple[str, ...]]


@dataclass(frozen=True)
class ImageSource:
    """An image set as registered in detectron2's DatasetCatalog; see :func:`register_image_set`."""

    name: str
    loader: Callable[[ReadOptions], ImageSet]
    lister: Callable[[], Listing] | None = None

    def __call__(self) -> list[dict]:
        if self.lister:
            names, labels, _ = self.lister()
        else:
            loaded = load_image_set(self.name)
            names, labels = loaded.image_names, loaded.labels
        return [
            {"image_id": number, "file_name": name, "gt_classes": classes}
            for number, (name, classes) in enumerate(
                zip(names, _class_indices(labels), strict=True)
            )
        ]


def register_image_set(
    name: str,
    loader: Callable[[ReadOptions], ImageSet],
    classes: Sequence[str] | None = None,
    *,
    lister: Callable[[], Listing] | None = None,
    multi_label: bool = False,
) -> None:
    """Make a classification set known to detectron2.

    Args:
        name: stands for the set in ``DATASETS.TRAIN`` and ``TEST``. DatasetCatalog gives a dict of
            image_id, file_name (the image's name) and gt_classes for each image, without pixels.
        loader: reads the set.
        classes: names of the classes; None: they are known when the set is loaded.
        lister: reads names, labels and classes alone, for DatasetCatalog. It may name images that
            the loader leaves out because they cannot be decoded. None: the set is loaded.
        multi_label: an image may have any number of classes.

    Raises:
        UserError: the name stands for another data set. The same set twice is allowed.
    """
    if name in DatasetCatalog.keys():
        known = DatasetCatalog[name]
        if isinstance(known, ImageSource) and known.loader == loader:
            return
        raise UserError(
            f"the name {name!r} already stands for another data set; choose another name"
        )
    DatasetCatalog.register(name, ImageSource(name, loader, lister))
    kind = "multi_label" if multi_label else "classification"
    MetadataCatalog.get(name).set(evaluator_type=kind)
    if classes is not None:
        MetadataCatalog.get(name).set(thing_classes=list(classes))


def is_image_set(name: str) -> bool:
    """Whether the name stands for a classification set."""
    return name in DatasetCatalog.keys() and isinstance(DatasetCatalog[name], ImageSource)


def is_multi_label(name: str) -> bool:
    """Whether the images of this classification set may have any number of classes."""
    return is_image_set(name) and MetadataCatalog.get(name).evaluator_type == "multi_label"


def load_image_set(name: str, **options) -> ImageSet:
    """Load a classification set; a second call in the same process gives the same tensors.

    Args:
        name: of a registered image set.
        options: of :class:`ReadOptions`.

    Returns:
        The set; its classes are then in detectron2's metadata as ``thing_classes``.

    Raises:
        UserError: an unknown name (with the nearest known one), an option's value that is none, or
            files that are missing or damaged.
    """
    if not is_image_set(name):
        raise UserError(_unknown_message(name))
    read_options = ReadOptions(**options)
    read_options.check()
    loaded = _load(DatasetCatalog[name], read_options, datasets_root())
    metadata = MetadataCatalog.get(name)
    if metadata.get("thing_classes") != list(loaded.classes):
        # The root of the data sets may have changed since the last load, and the classes with it.
        if metadata.get("thing_classes") is not None:
            del metadata.thing_classes
        metadata.thing_classes = list(loaded.classes)
    return loaded


@lru_cache(maxsize=8)
def _load(source: ImageSource, options: ReadOptions, root: str) -> ImageSet:
    return source.loader(options)


def _class_indices(labels: Tensor) -> list[list[int]]:
    """For each image the classes that it is known to have."""
    if labels.dim() == 1:
        return [[label] for label in labels.tolist()]
    return [(row == 1).nonzero()[:, 0].tolist() for row in labels]


def _unknown_message(name: str) -> str:
    if name in DatasetCatalog.keys():
        return (
            f"{name} is a detection set; a classifier needs a classification set, such as "
            f"{name}_multi_label: its images with the classes of their objects"
        )
    known = [other for other in DatasetCatalog.keys() if is_image_set(other)]
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return (
        f"no image set {name!r}{hint}; your own is made known with DATASETS.IMAGE_FOLDERS "
        "\"[['NAME', 'FOLDER']]\""
    )
