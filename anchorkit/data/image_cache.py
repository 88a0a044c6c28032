"""Image files decoded once to squares of one size, kept in a file that later runs map to memory."""

import hashlib
import json
import logging
import os
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import UserError
from .digit_scenes import datasets_root
from .image_files import describe_error, to_8_bits
from .image_set import ReadOptions

logger = logging.getLogger(__name__)

# Images that are in memory at once, decoded but not yet written.
CHUNK = 256
# A fixed length, so that the header can be written anew once the number of images is known.
HEADER_LENGTH = 128
# Part of the name of every cache; change it when decoding gives other pixels.
CACHE_VERSION = 1
# Broken files named in the log; the others are counted.
MAX_LOGGED = 20


def load_squares(
    name: str, folder: str, paths: Sequence[str], options: ReadOptions
) -> tuple[Tensor, list[int]]:
    """Decode a set's images to squares, or map those that an earlier run decoded.

    Files that cannot be decoded are named in the log and left out.

    Args:
        name: of the set; part of the cache's name.
        folder: that the set's files are in.
        paths: N image files.
        options: ``size`` and ``resize``, see :func:`decode_image`.

    Returns:
        (N - F, 3, size, size) uint8 RGB images, and their N - F positions in ``paths``.

    Raises:
        UserError: no size.
    """
    size, resize = options.size, options.resize
    if size < 1:
        raise UserError(
            f"{name}: its images have sizes of their own; give the side in pixels that "
            f"they are resized to (INPUT.FIXED_SIZE), got {size}"
        )
    cache_file = _cache_file(name, folder, paths, size, resize)
    images, faults = cached_images(paths, size, resize, cache_file)
    _report_faults(name, paths, faults)
    kept = [position for position in range(len(paths)) if position not in faults]
    return torch.from_numpy(images), kept


def cached_images(
    paths: Sequence[str], size: int, resize: str, cache_file: str
) -> tuple[np.ndarray, dict[int, str]]:
    """Decode images, or map those that an earlier run decoded.

    Files that cannot be decoded are left out. They are tried again each time, and the cache is
    written anew if one of them can be read by then.

    Args:
        paths: N image files.
        size: side of the squares in pixels.
        resize: see :func:`decode_image`.
        cache_file: an ``.npy`` file whose name tells apart everything that changes its content. It
            is put in place whole; if it cannot be written, one warning says so and the images are
            in memory instead.

    Returns:
        (N - F, 3, size, size) uint8 RGB images, writable without changing the file, and why each
        of the F files left out cannot be decoded, by its position in ``paths``.
    """
    found = _open_cache(paths, size, resize, cache_file)
    if found is not None:
        return found
    try:
        os.makedirs(os.path.dirname(cache_file), exist_ok=True)
        faults = _write_cache(paths, size, resize, cache_file)
        if len(faults) < len(paths):
            return np.lib.format.open_memmap(cache_file, mode="c"), faults
    except OSError as error:
        logger.warning(
            "%s cannot be written (%s): the images stay in memory and are decoded anew by each run",
            cache_file,
            error.strerror or error,
        )
    images = np.empty((len(paths), 3, size, size), dtype=np.uint8)
    position = 0

    def put(image: np.ndarray) -> None:
        nonlocal position
        images[position] = image
        position += 1

    faults = _decode_all(paths, size, resize, put)
    return images[:position], faults


def decode_image(path: str, size: int, resize: str) -> np.ndarray:
    """Decode an image file to a square, with its EXIF orientation and without aliasing.

    Args:
        path: any file that Pillow reads. Of an animation, the first picture is taken.
        size: side in pixels.
        resize: "squash": the whole image, whose ratio is lost; "crop": its centre square.

    Returns:
        (3, size, size) uint8 RGB. Grey becomes RGB, 16 bits become 8, transparency is dropped.

    Raises:
        OSError: the file is missing, truncated or no image.
        ValueError: pixels of more than 16 bits, whose range is unknown.
    """
    with Image.open(path) as file:
        image = _to_rgb(ImageOps.exif_transpose(file))
    box = None
    if resize == "crop":
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _cache_file(name: str, folder: str, paths: Sequence[str], size: int, resize: str) -> str:
    """Name of a cache that is of use for exactly these files, as they are now."""
    files = [(os.path.relpath(path, folder), *_stamp(path)) for path in paths]
    content = json.dumps([CACHE_VERSION, name, os.path.realpath(folder), files, size, resize])
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    stem = re.sub(r"[^\w.-]", "_", name)
    return os.path.join(datasets_root(), "cache", f"{stem}_{size}_{resize}_{digest}.npy")


def _stamp(path: str) -> tuple[int, int]:
    """Size and time of the last change of a file; (-1, 0) for a link that leads nowhere."""
    try:
        status = os.stat(path)
    except OSError:
        return -1, 0
    return status.st_size, status.st_mtime_ns


def _report_faults(name: str, paths: Sequence[str], faults: dict[int, str]) -> None:
    for position in sorted(faults)[:MAX_LOGGED]:
        logger.warning("%s: left out %s: %s", name, paths[position], faults[position])
    if len(faults) > MAX_LOGGED:
        logger.warning(
            "%s: left out %d more files that cannot be decoded", name, len(faults) - MAX_LOGGED
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    image = to_8_bits(image)
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _try_decode(path: str, size: int, resize: str) -> np.ndarray | str:
    """The image, or why it cannot be decoded."""
    try:
        return decode_image(path, size, resize)
    except Exception as error:
        # Pillow's decoders raise errors of many kinds on damaged files.
        return describe_error(error, path)


def _decode_chunks(
    paths: Sequence[str], size: int, resize: str
) -> Iterator[tuple[int, np.ndarray | str]]:
    """Positions and images in the order of ``paths``, decoded by threads a chunk at a time."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(paths), CHUNK):
            chunk = paths[start : start + CHUNK]
            results = list(pool.map(lambda path: _try_decode(path, size, resize), chunk))
            yield from enumerate(results, start)


def _decode_all(
    paths: Sequence[str], size: int, resize: str, put: Callable[[np.ndarray], None]
) -> dict[int, str]:
    """Hand every image that can be decoded to ``put``; return why the others cannot."""
    faults = {}
    for position, result in _decode_chunks(paths, size, resize):
        if isinstance(result, str):
            faults[position] = result
        else:
            put(result)
    return faults


def _write_cache(paths: Sequence[str], size: int, resize: str, cache_file: str) -> dict[int, str]:
    """Write the cache, unless no image can be decoded; return the faults.

    Written as a stream and not through a memory map, where a full disk would kill the process.
    """
    partial = f"{cache_file}.{uuid.uuid4().hex}.partial"
    logger.info("Decoding %d images to %d x %d, kept in %s", len(paths), size, size, cache_file)
    try:
        with open(partial, "wb") as file:
            file.write(_npy_header(len(paths), size))
            faults = _decode_all(paths, size, resize, lambda image: file.write(image.data))
            file.seek(0)
            file.write(_npy_header(len(paths) - len(faults), size))
            file.flush()
            os.fsync(file.fileno())
        if len(faults) == len(paths):
            return faults
        if faults:
            # Written before the images, which are of no use without it.
            with open(f"{partial}.json", "w", encoding="utf-8") as file:
                json.dump(sorted(faults), file)
            os.replace(f"{partial}.json", _left_out_file(cache_file))
        os.replace(partial, cache_file)
    finally:
        for path in (partial, f"{partial}.json"):
            if os.path.exists(path):
                os.remove(path)
    return faults


def _open_cache(
    paths: Sequence[str], size: int, resize: str, cache_file: str
) -> tuple[np.ndarray, dict[int, str]] | None:
    """What :func:`cached_images` returns, or None if there is no cache that can be used."""
    left_out = []
    try:
        images = np.lib.format.open_memmap(cache_file, mode="c")
        if len(images) < len(paths):
            with open(_left_out_file(cache_file), encoding="utf-8") as file:
                left_out = [int(position) for position in json.load(file)]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        logger.warning("%s is damaged (%s) and is written anew", cache_file, error)
        return None
    expected = (len(paths) - len(left_out), 3, size, size)
    if images.shape != expected or images.dtype != np.uint8:
        return None
    faults = {position: _try_decode(paths[position], size, resize) for position in left_out}
    return (images, faults) if all(isinstance(f, str) for f in faults.values()) else None


def _left_out_file(cache_file: str) -> str:
    return os.path.splitext(cache_file)[0] + ".left_out.json"


def _npy_header(num_images: int, size: int) -> bytes:
    """Header of an ``.npy`` file of uint8 images: magic, version, length, and a padded dict."""
    shape = (num_images, 3, size, size)
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    length = HEADER_LENGTH - 10
    header = text.ljust(length - 1) + "\n"
    return np.lib.format.magic(1, 0) + length.to_bytes(2, "little") + header.encode("latin1")
