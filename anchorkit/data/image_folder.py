"""Classification sets with one folder of image files per class."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..errors import UserError, quoted
from .digit_scenes import datasets_root
from .image_cache import load_squares
from .image_set import ImageSet, Listing, ReadOptions, register_image_set

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
# Sets that a script in datasets/ writes, <name>/{train,test}/<class>/ below the root, and how many
# classes they have.
PREPARED_SETS = {"ucf101": 101, "era": 25, "bar": 6}


@dataclass(frozen=True)
class ImageFolder:
    """A folder with a sub-folder for each class.

    Attributes:
        name: of the set.
        folder: where the class folders are; relative to the root of all data sets if the set has
            a script.
        script: what writes the folder, for the message when it is missing; "" for a user's own.
    """

    name: str
    folder: str
    script: str = ""

    @property
    def path(self) -> str:
        return os.path.join(datasets_root(), self.folder) if self.script else self.folder

    def class_names(self) -> tuple[str, ...]:
        """Names of the sub-folders, sorted by code point; hidden ones (".name") do not count.

        Raises:
            UserError: no such folder, or one without sub-folders.
        """
        path = self.path
        if not os.path.isdir(path):
            todo = "correct the path"
            if self.script:
                todo = (
                    f"write it with {self.script} (datasets/README.md tells how), or set the "
                    "environment variable DETECTRON2_DATASETS to the folder that holds all sets"
                )
            raise UserError(f"{self.name}: the folder {path} does not exist; {todo}")
        with os.scandir(path) as entries:
            classes = [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
        if not classes:
            raise UserError(
                f"{self.name}: {path} has no sub-folders; expected one for each class, with the "
                "class's images in it"
            )
        return tuple(sorted(classes))

    def listing(self) -> Listing:
        """Paths and labels of all image files, and the classes, without opening a file.

        Files count at any depth below the class folder, those of the same class sorted by path.
        Hidden files and links to folders inside of a class do not count.

        Raises:
            UserError: see :meth:`class_names`, or a class without image files.
        """
        classes = self.class_names()
        paths, labels = [], []
        for label, class_name in enumerate(classes):
            found = sorted(image_files(os.path.join(self.path, class_name)))
            if not found:
                raise UserError(
                    f"{self.name}: empty class {class_name!r}: no image files ({', '.join(ENDINGS)}"
                    f") in {os.path.join(self.path, class_name)}; add images or remove the folder"
                )
            paths += found
            labels += [label] * len(found)
        return paths, torch.tensor(labels), classes

    def __call__(self, options: ReadOptions) -> ImageSet:
        """Decode the images to squares, or map those that an earlier run decoded.

        Files that cannot be decoded are named in the log and left out.

        Args:
            options: ``size`` and ``resize``, see :func:`~.image_cache.decode_image`.

        Raises:
            UserError: see :meth:`listing`, no size, or a class of which no file can be decoded.
        """
        paths, labels, classes = self.listing()
        images, kept = load_squares(self.name, self.path, paths, options)
        labels = labels[kept]
        left = set(labels.tolist())
        lost = [name for label, name in enumerate(classes) if label not in left]
        if lost:
            raise UserError(
                f"{self.name}: none of the images of {quoted(lost)} can be decoded (the log "
                "names the files); replace them or remove the class folder"
            )
        return ImageSet(
            images=images,
            labels=labels,
            classes=classes,
            image_names=tuple(paths[position] for position in kept),
        )


def register_image_folders(cfg: CfgNode) -> None:
    """Make the data sets of ``DATASETS.IMAGE_FOLDERS`` known to detectron2, with their class names.

    Registering the same set twice is allowed.

    Raises:
        UserError: an entry of the wrong shape, a missing folder or one without sub-folders, or a
            name that stands for another data set.
    """
    for entry in cfg.DATASETS.IMAGE_FOLDERS:
        source = _parse_entry(entry)
        _register(source, source.class_names())


def image_files(folder: str) -> list[str]:
    """Paths of the image files at any depth below a folder, in no order; hidden ones left out."""
    return [
        os.path.join(place, name)
        for place, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(ENDINGS) and not name.startswith(".")
    ]


def _parse_entry(entry: Any) -> ImageFolder:
    is_pair = isinstance(entry, Sequence) and not isinstance(entry, str) and len(entry) == 2
    if not is_pair or not all(isinstance(part, str) and part for part in entry):
        raise UserError(
            "DATASETS.IMAGE_FOLDERS: expected a list of [name, folder], such as "
            f"\"[['mine_train', 'mine/train']]\"; got the entry {entry!r}"
        )
    name, folder = entry
    folder = os.path.abspath(os.path.expanduser(folder))
    if not os.path.isdir(folder):
        raise UserError(
            f"DATASETS.IMAGE_FOLDERS: the folder {entry[1]} of {name!r} does not exist; relative "
            f"paths start at {os.getcwd()}"
        )
    return ImageFolder(name, folder)


def _register(source: ImageFolder, classes: Sequence[str] | None = None) -> None:
    register_image_set(source.name, source, classes, lister=source.listing)


for _name, _num_classes in PREPARED_SETS.items():
    for _split in ("train", "test"):
        if f"{_name}_{_split}" not in DatasetCatalog.keys():
            _register(
                ImageFolder(
                    f"{_name}_{_split}",
                    os.path.join(_name, _split),
                    f"datasets/prepare_{_name}.py",
                )
            )
            # Known before the files are there, so that a model can be built.
            MetadataCatalog.get(f"{_name}_{_split}").set(num_classes=_num_classes)
