"""Labelled images in memory, their names, and the batches that a classifier is given."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import Tensor

from ..errors import UserError
from .digit_scenes import datasets_root

RESIZES = ("squash", "crop")


@dataclass(frozen=True)
class ImageSet:
    """All images of a classification set, of one size.

    Attributes:
        images: (N, C, H, W) uint8; C is 1 (grey) or 3 (RGB).
        labels: (N,) int64 class indices.
        classes: names of the K classes.
        image_names: N names for messages and dumps: a file's path, or such as "train 17".
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    image_names: Sequence[str]


@dataclass(frozen=True)
class ImageBatch:
    """Some images of an :class:`ImageSet`, on the device.

    Attributes:
        images: (B, C, H, W) uint8.
        labels: (B,) int64 class indices, or (B, K) float targets.
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


# Names, class indices and classes of a set's images, read without decoding them.
Listing = tuple[Sequence[str], Sequence[int], tuple[str, ...]]


@dataclass(frozen=True)
class ImageSource:
    """An image set as registered in detectron2's DatasetCatalog; see :func:`register_image_set`."""

    name: str
    loader: Callable[[int, str], ImageSet]
    lister: Callable[[], Listing] | None = None

    def __call__(self) -> list[dict]:
        if self.lister:
            names, labels, _ = self.lister()
        else:
            loaded = load_image_set(self.name)
            names, labels = loaded.image_names, loaded.labels.tolist()
        return [
            {"image_id": number, "file_name": name, "gt_classes": [label]}
            for number, (name, label) in enumerate(zip(names, labels, strict=True))
        ]


def register_image_set(
    name: str,
    loader: Callable[[int, str], ImageSet],
    classes: Sequence[str] | None = None,
    *,
    lister: Callable[[], Listing] | None = None,
) -> None:
    """Make a classification set known to detectron2.

    Args:
        name: stands for the set in ``DATASETS.TRAIN`` and ``TEST``. DatasetCatalog gives a dict of
            image_id, file_name (the image's name) and gt_classes for each image, without pixels.
        loader: called with the side of the images in pixels and "squash" or "crop", reads the set.
            A set whose images are stored with one size ignores both.
        classes: names of the classes; None: they are known when the set is loaded.
        lister: reads names, labels and classes alone, for DatasetCatalog. It may name images that
            the loader leaves out because they cannot be decoded. None: the set is loaded.

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
    MetadataCatalog.get(name).set(evaluator_type="classification")
    if classes is not None:
        MetadataCatalog.get(name).set(thing_classes=list(classes))


def is_image_set(name: str) -> bool:
    """Whether the name stands for a classification set."""
    return name in DatasetCatalog.keys() and isinstance(DatasetCatalog[name], ImageSource)


def load_image_set(name: str, *, size: int = 0, resize: str = "squash") -> ImageSet:
    """Load a classification set; a second call in the same process gives the same tensors.

    Args:
        name: of a registered image set.
        size: side of the square images in pixels. Sets that are stored with one size ignore it.
        resize: "squash": the whole image becomes a square; "crop": its centre square is taken.

    Returns:
        The set; its classes are then in detectron2's metadata as ``thing_classes``.

    Raises:
        UserError: an unknown name (with the nearest known one), a size or resize that is none, or
            files that are missing or damaged.
    """
    if not is_image_set(name):
        raise UserError(_unknown_message(name))
    if size < 0 or resize not in RESIZES:
        raise UserError(
            f"{name}: expected a size of 0 or more pixels and resize {' or '.join(RESIZES)}, got "
            f"{size} and {resize!r}"
        )
    loaded = _load(DatasetCatalog[name], size, resize, datasets_root())
    metadata = MetadataCatalog.get(name)
    if metadata.get("thing_classes") != list(loaded.classes):
        # The root of the data sets may have changed since the last load, and the classes with it.
        if metadata.get("thing_classes") is not None:
            del metadata.thing_classes
        metadata.thing_classes = list(loaded.classes)
    return loaded


@lru_cache(maxsize=8)
def _load(source: ImageSource, size: int, resize: str, root: str) -> ImageSet:
    return source.loader(size, resize)


def _unknown_message(name: str) -> str:
    if name in DatasetCatalog.keys():
        return f"{name} is a detection set; a classifier needs images with one class each"
    known = [other for other in DatasetCatalog.keys() if is_image_set(other)]
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return (
        f"no image set {name!r}{hint}; your own is made known with DATASETS.IMAGE_FOLDERS "
        "\"[['NAME', 'FOLDER']]\""
    )
