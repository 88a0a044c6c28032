"""Reading image files of any kind, and what is wrong with one, by decoding it or its ends alone."""

import os

import numpy as np
from detectron2.data import detection_utils as utils
from PIL import Image, ImageOps, UnidentifiedImageError

EXIF_ORIENTATION = 0x0112


def read_image(path: str, image_format: str) -> np.ndarray:
    """(H, W, C) pixels as detectron2's ``read_image`` gives them; 16 bits become 8, not white.

    Raises:
        OSError: the file is missing, truncated or no image.
        ValueError: pixels of more than 16 bits, whose range is unknown.
    """
    with Image.open(path) as file:
        return utils.convert_PIL_to_numpy(to_8_bits(ImageOps.exif_transpose(file)), image_format)


def to_8_bits(image: Image.Image) -> Image.Image:
    """The image with 8 bits a channel; Pillow would cut larger values off.

    Raises:
        ValueError: pixels of more than 16 bits, whose range is unknown.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits; expected 8 or 16")
    return image


def read_fault(record: dict, image_format: str = "BGR") -> str | None:
    """Decode an image as training does.

    Args:
        record: detectron2's dict of the image: file_name and, if known, width and height.
        image_format: ``INPUT.FORMAT``.

    Returns:
        Why the file cannot be read or does not fit its record, or None if all is well.
    """
    try:
        image = read_image(record["file_name"], image_format)
    except Exception as error:
        return describe_error(error, record["file_name"])
    return _size_fault(record, image.shape[1], image.shape[0])


def header_fault(record: dict) -> str | None:
    """As :func:`read_fault`, from the first and last bytes of the file alone.

    Reads the header's size, with the EXIF orientation, and looks for the closing mark of JPEG and
    PNG files. Damage in between is not seen.
    """
    path = record["file_name"]
    try:
        with Image.open(path) as image:
            width, height = image.size
            if image.getexif().get(EXIF_ORIENTATION, 1) >= 5:
                width, height = height, width
            mark = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}.get(image.format, b"")
        with open(path, "rb") as file:
            file.seek(-min(64, os.path.getsize(path)), os.SEEK_END)
            if mark not in file.read():
                return "the file is truncated"
    except Exception as error:
        return describe_error(error, path)
    return _size_fault(record, width, height)


def describe_error(error: Exception, path: str) -> str:
    """Why a file cannot be decoded, for the error that decoding it raised."""
    if isinstance(error, FileNotFoundError):
        return "the file does not exist"
    if isinstance(error, UnidentifiedImageError):
        return "the file is empty" if os.path.getsize(path) == 0 else "the file is not an image"
    return " ".join(f"{type(error).__name__}: {error}".split())


def _size_fault(record: dict, width: int, height: int) -> str | None:
    wanted = record.get("width", width), record.get("height", height)
    if wanted == (width, height):
        return None
    return f"it has {width} x {height} pixels, but the annotations say {wanted[0]} x {wanted[1]}"
