"""CIFAR-10, MNIST and scikit-learn's digits: image sets that come as arrays of one size."""

import gzip
import logging
import os
import zlib
from functools import lru_cache

import numpy as np
import torch
from detectron2.data import DatasetCatalog

from ..errors import UserError
from ..unpickling import ArrayUnpickler, UnsafeError
from .digit_scenes import FIRST_VAL_DIGIT, datasets_root
from .image_set import ImageSet, register_image_set

logger = logging.getLogger(__name__)

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
DIGIT_CLASSES = tuple(str(digit) for digit in range(10))
CIFAR10_FILES = {
    "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
    "test": ("test_batch",),
}
CIFAR10_SHAPE = (3, 32, 32)
# MNIST's files of a split begin so; 2051 and 2049 stand at the beginning of all of them.
MNIST_PREFIXES = {"train": "train", "test": "t10k"}
MNIST_SIDE = 28
IMAGES_MAGIC, LABELS_MAGIC = 2051, 2049
OFFICIAL_COUNTS = {
    "cifar10_train": 50_000,
    "cifar10_test": 10_000,
    "mnist_train": 60_000,
    "mnist_test": 10_000,
}


def read_cifar10(root: str, split: str) -> ImageSet:
    """Read CIFAR-10 from ``cifar-10-batches-py`` or, failing that, ``cifar-10-batches-bin``.

    Pickles may hold numpy arrays and plain values; anything else is refused unread.

    Args:
        root: folder of all data sets.
        split: "train" or "test".

    Returns:
        (N, 3, 32, 32) images in the order of the files.

    Raises:
        UserError: missing or damaged files.
    """
    name = f"cifar10_{split}"
    layouts = (
        ("cifar-10-batches-py", "", _read_pickled_batch),
        ("cifar-10-batches-bin", ".bin", _read_binary_batch),
    )
    missing = {}
    for folder, ending, read in layouts:
        paths = [os.path.join(root, folder, file + ending) for file in CIFAR10_FILES[split]]
        lacking = [path for path in paths if not os.path.isfile(path)]
        if not lacking:
            batches = [read(path) for path in paths]
            break
        if folder == layouts[0][0] or len(lacking) < len(paths):
            missing = {"folder": os.path.join(root, folder), "file": os.path.basename(lacking[0])}
    else:
        raise UserError(
            f"{name}: {missing['folder']} has no file {missing['file']}; "
            f"{_download_hint('CIFAR10', root)}. The binary version is read from "
            "cifar-10-batches-bin beside it"
        )
    images = np.concatenate([pixels for pixels, _ in batches]).reshape(-1, *CIFAR10_SHAPE)
    labels = np.concatenate([labels for _, labels in batches])
    return _image_set(name, images, labels, CIFAR10_CLASSES)


def read_mnist(root: str, split: str) -> ImageSet:
    """Read MNIST from ``MNIST/raw``, unpacked files or their ``.gz``.

    Args:
        root: folder of all data sets.
        split: "train" or "test".

    Returns:
        (N, 1, 28, 28) images in the order of the file.

    Raises:
        UserError: missing or damaged files.
    """
    start = os.path.join(root, "MNIST", "raw", MNIST_PREFIXES[split])
    images_path = _mnist_path(f"{start}-images-idx3-ubyte", root, split)
    labels_path = _mnist_path(f"{start}-labels-idx1-ubyte", root, split)
    images = _read_idx(images_path, IMAGES_MAGIC, 3)
    labels = _read_idx(labels_path, LABELS_MAGIC, 1)
    if images.shape[1:] != (MNIST_SIDE, MNIST_SIDE):
        raise _damaged(images_path, f"images of 28 x 28 pixels, got {images.shape[1:]}")
    if len(images) != len(labels):
        raise _damaged(
            labels_path,
            f"a label for each of the {len(images)} images of {os.path.basename(images_path)}, "
            f"got {len(labels)}",
        )
    labels = _checked_labels(labels, len(images), labels_path)
    return _image_set(f"mnist_{split}", images[:, None], labels, DIGIT_CLASSES)


def read_digits(root: str, split: str) -> ImageSet:
    """Scikit-learn's digits, 8 x 8 pixels, cut into train and test where the digit scenes are.

    Args:
        root: not used; there is nothing to download.
        split: "train" (the first 1,437) or "test" (the last 360).

    Returns:
        (N, 1, 8, 8) images; 16 shades of ink become 0 to 255.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    part = slice(None, FIRST_VAL_DIGIT) if split == "train" else slice(FIRST_VAL_DIGIT, None)
    images = np.rint(digits.images[part] * (255 / 16)).astype(np.uint8)
    return _image_set(f"digits_{split}", images[:, None], digits.target[part], DIGIT_CLASSES)


def _image_set(name: str, images: np.ndarray, labels: np.ndarray, classes: tuple) -> ImageSet:
    official = OFFICIAL_COUNTS.get(name, len(images))
    if len(images) != official:
        logger.warning("%s has %d images; the published set has %d", name, len(images), official)
    split = name.rpartition("_")[2]
    names = tuple(f"{split} {number}" for number in range(len(images)))
    labels = torch.from_numpy(labels.astype(np.int64))
    return ImageSet(torch.from_numpy(np.ascontiguousarray(images)), labels, classes, names)


def _read_pickled_batch(path: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        with open(path, "rb") as file:
            content = ArrayUnpickler(file, encoding="latin1").load()
    except UnsafeError as error:
        raise UserError(
            f"{path}: refused, it holds the Python object {error} and reading it would run code; "
            "download the set again"
        ) from error
    except Exception as error:
        # A damaged pickle raises whatever its bytes happen to say.
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise _damaged(path, f"a pickled batch, got {reason}") from error
    pixels = content.get("data") if isinstance(content, dict) else None
    is_array = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8
    if not is_array or pixels.shape[1:] != (np.prod(CIFAR10_SHAPE),) or not len(pixels):
        raise _damaged(path, "an entry 'data' of 3072 bytes for each image")
    return pixels, _checked_labels(content.get("labels"), len(pixels), path)


def _read_binary_batch(path: str) -> tuple[np.ndarray, np.ndarray]:
    length = 1 + int(np.prod(CIFAR10_SHAPE))
    data = np.fromfile(path, dtype=np.uint8)
    if not len(data) or len(data) % length:
        raise _damaged(path, f"a multiple of {length} bytes, got {len(data)}")
    records = data.reshape(-1, length)
    return records[:, 1:], _checked_labels(records[:, 0], len(records), path)


def _checked_labels(labels, num_images: int, path: str) -> np.ndarray:
    """(N,) labels as an array of whole numbers from 0 to 9, or a UserError that names the file."""
    try:
        labels = np.asarray(labels)
    except ValueError:
        labels = np.zeros(0, dtype=object)
    if labels.shape != (num_images,) or labels.dtype.kind not in "iu":
        raise _damaged(path, f"{num_images} labels, one for each image")
    if labels.size and not (labels.min() >= 0 and labels.max() <= 9):
        raise _damaged(path, f"labels from 0 to 9, got {labels.min()} to {labels.max()}")
    return labels


def _mnist_path(path: str, root: str, split: str) -> str:
    for candidate in (path, f"{path}.gz"):
        if os.path.isfile(candidate):
            return candidate
    raise UserError(
        f"mnist_{split}: neither {path} nor its .gz exists; {_download_hint('MNIST', root)}"
    )


def _read_idx(path: str, magic: int, num_axes: int) -> np.ndarray:
    """Array of bytes in the IDX format: magic number and axes (big-endian, 4 bytes), then data."""
    try:
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
            data = bytearray(file.read())
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, f"a file that unpacks, got {type(error).__name__}: {error}") from error
    length = 4 * (1 + num_axes)
    if len(data) < length:
        raise _damaged(path, f"a header of {length} bytes, got a file of {len(data)}")
    found, *shape = np.frombuffer(data, ">u4", 1 + num_axes).tolist()
    if found != magic:
        raise _damaged(path, f"the magic number {magic}, got {found}")
    num_bytes = len(data) - length
    if num_bytes != np.prod(shape, dtype=object):
        raise _damaged(path, f"data for {' x '.join(map(str, shape))}, got {num_bytes} bytes")
    return np.frombuffer(data, np.uint8, offset=length).reshape(shape)


def _damaged(path: str, expected: str) -> UserError:
    return UserError(f"{path} is damaged: expected {expected}; download it again")


def _download_hint(kind: str, root: str) -> str:
    return (
        f"torchvision.datasets.{kind}({root!r}, download=True) downloads the set to that place, or "
        "set the environment variable DETECTRON2_DATASETS to the folder that holds it"
    )


# A set of one size is the same for every size that is asked for, and is kept only once.
_READERS = {
    "cifar10": (lru_cache(maxsize=2)(read_cifar10), CIFAR10_CLASSES),
    "mnist": (lru_cache(maxsize=2)(read_mnist), DIGIT_CLASSES),
    "digits": (lru_cache(maxsize=2)(read_digits), DIGIT_CLASSES),
}


def _register(kind: str, split: str) -> None:
    read, classes = _READERS[kind]
    register_image_set(f"{kind}_{split}", lambda options: read(datasets_root(), split), classes)


for _kind in _READERS:
    for _split in ("train", "test"):
        if f"{_kind}_{_split}" not in DatasetCatalog.keys():
            _register(_kind, _split)
