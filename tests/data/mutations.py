"""Seeded damage to a COCO file and to image files, as careless tools and broken disks do it."""

import copy
import json
import random
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from anchorkit.data.image_files import EXIF_ORIENTATION

NAN, INFINITY = float("nan"), float("inf")
VALUES = (
    None, True, False, "", "x", "3", 0, -1, 1, 2, 7, 5, 0.5, 3.0, -0.5, 1e308, -1e308, 10**30,
    2**63, NAN, INFINITY, -INFINITY, [], {}, [1], [[1, 2]], {"a": 1}, "\x00", "../../0.png",
    "/etc/hostname", "é", "[1, 2, 3, 4]",
)  # fmt: skip
BOXES = (
    [], [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 0, 4], [1, 2, 4, 0], [1, 2, -3, 4], [-500, -500, 3, 3],
    [-5, -5, 9, 9], [-1e9, -1e9, 2e9, 2e9], [0, 0, 1e308, 1e308], [1e308, 0, 1e308, 1],
    [0, 0, 1e-9, 1e-9], [0, 0, 1e-320, 5], [NAN, 0, 5, 5], [0, 0, INFINITY, 5], ["1", 2, 3, 4],
    [True, True, True, True], [[1], 2, 3, 4], [0, 0, 10**400, 5], {"x": 1}, "box", None,
    [1e16, 0, 5, 5], [0, 0, 10**30, 5], [31.9999999, 2, 10, 8], [0.1, 0.2, 0.3, 0.4],
)  # fmt: skip


def mutated_json(content: dict, seed: int) -> tuple[str, bytes]:
    """One to three kinds of damage; their description and the file's bytes."""
    rng = random.Random(seed)
    content = copy.deepcopy(content)
    kinds = rng.choices(
        (set_value, delete_key, set_box, duplicate, empty_part, swap_ids, wrong_id, cut_text,
         change_byte, replace_part, nest_deeply),
        (30, 12, 20, 8, 4, 4, 8, 4, 4, 3, 1), k=rng.choice((1, 1, 1, 2, 3)),
    )  # fmt: skip
    told, data = [], None
    for kind in kinds:
        if kind in (cut_text, change_byte, nest_deeply):
            data = kind(data if data is not None else json.dumps(content).encode(), rng)
            told.append(kind.__name__)
        elif data is None and isinstance(content, dict):
            told.append(f"{kind.__name__} {kind(content, rng)}")
    return "; ".join(told), json.dumps(content).encode() if data is None else data


def _entry(content, rng):
    parts = [part for part in content if isinstance(content[part], list) and content[part]]
    if not parts:
        return None, None
    part = rng.choices(parts, [3 if part == "annotations" else 2 for part in parts])[0]
    return part, rng.randrange(len(content[part]))


def set_value(content, rng):
    part, number = _entry(content, rng)
    if part is None or not isinstance(content[part][number], dict) or not content[part][number]:
        return "nothing"
    key = rng.choice(sorted(content[part][number]))
    content[part][number][key] = value = rng.choice(VALUES)
    return f"{part}[{number}].{key} = {value!r}"


def delete_key(content, rng):
    part, number = _entry(content, rng)
    if part is None or not isinstance(content[part][number], dict) or not content[part][number]:
        return "nothing"
    key = rng.choice(sorted(content[part][number]))
    del content[part][number][key]
    return f"{part}[{number}].{key}"


def set_box(content, rng):
    annotations = content.get("annotations")
    if not isinstance(annotations, list) or not annotations:
        return "nothing"
    one = rng.choice(annotations)
    if isinstance(one, dict):
        one["bbox"] = rng.choice(BOXES)
        return str(one["bbox"])
    return "nothing"


def duplicate(content, rng):
    part, number = _entry(content, rng)
    if part is not None:
        content[part].append(copy.deepcopy(content[part][number]))
    return f"{part}[{number}]"


def empty_part(content, rng):
    part = rng.choice(sorted(content))
    content[part] = []
    return part


def replace_part(content, rng):
    part = rng.choice(sorted(content))
    if rng.random() < 0.5:
        content[part] = value = rng.choice(VALUES)
    elif isinstance(content[part], list) and content[part]:
        content[part][rng.randrange(len(content[part]))] = value = rng.choice(VALUES)
    else:
        return "nothing"
    return f"{part}: {value!r}"


def swap_ids(content, rng):
    part, number = _entry(content, rng)
    if part is None:
        return "nothing"
    one, other = content[part][number], rng.choice(content[part])
    if isinstance(one, dict) and isinstance(other, dict):
        one["id"], other["id"] = other.get("id"), one.get("id")
    return f"{part}[{number}]"


def wrong_id(content, rng):
    part, number = _entry(content, rng)
    if part is None or not isinstance(content[part][number], dict):
        return "nothing"
    keys = [key for key in ("id", "image_id", "category_id") if key in content[part][number]]
    if not keys:
        return "nothing"
    key = rng.choice(keys)
    content[part][number][key] = value = rng.choice((0, -1, 1, 2, 3, 5, 7, 9999, "5", 5.0, 2**40))
    return f"{part}[{number}].{key} = {value!r}"


def cut_text(data, rng):
    return data[: rng.randrange(len(data) + 1)]


def change_byte(data, rng):
    place = rng.randrange(max(1, len(data)))
    return data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :]


def nest_deeply(data, rng):
    return b'{"images": ' + b"[" * 100_000 + data


# Kinds that show the pixels of the original, and kinds of which nothing can be used.
GOOD_IMAGES = {"a JPEG named png", "a GIF", "grayscale", "palette", "alpha", "grayscale and alpha",
               "CMYK", "16 bit"}  # fmt: skip
BAD_IMAGES = {"zero bytes", "text", "a truncated JPEG", "32 bit", "float", "1 x 1", "another size",
              "20,000 px wide", "a bomb", "missing", "a folder"}  # fmt: skip


def mutated_image(path: Path, seed: int) -> str:
    """Damage to an image file, or another kind of image in its place; its kind."""
    rng = random.Random(seed)
    with Image.open(path) as image:
        image = image.convert("RGB")
    kinds = {
        "truncated": lambda: path.write_bytes(path.read_bytes()[: rng.randrange(1, 800)]),
        "zero bytes": lambda: path.write_bytes(b""),
        "changed bytes": lambda: _change_bytes(path, rng),
        "text": lambda: path.write_text("<html>404 not found</html>"),
        "a JPEG named png": lambda: image.save(path, format="JPEG", quality=95),
        "a truncated JPEG": lambda: _truncated_jpeg(path, image, rng),
        "a GIF": lambda: image.save(path, format="GIF"),
        "grayscale": lambda: image.convert("L").save(path),
        "one bit": lambda: image.convert("1").save(path),
        "palette": lambda: image.convert("P").save(path, transparency=0),
        "alpha": lambda: image.convert("RGBA").save(path),
        "grayscale and alpha": lambda: image.convert("LA").save(path),
        "CMYK": lambda: image.convert("CMYK").save(path, format="JPEG", quality=95),
        "16 bit": lambda: _deep(image).save(path),
        "32 bit": lambda: image.convert("I").save(path, format="TIFF"),
        "float": lambda: image.convert("F").save(path, format="TIFF"),
        "turned by EXIF": lambda: _turned(path, image, rng),
        "1 x 1": lambda: image.resize((1, 1)).save(path),
        "another size": lambda: image.resize((33, 24)).save(path),
        "20,000 px wide": lambda: image.resize((20_000, 24)).save(path, compress_level=1),
        "a bomb": lambda: path.write_bytes(_bomb()),
        "missing": path.unlink,
        "a folder": lambda: (path.unlink(), path.mkdir()),
    }
    kind = rng.choice(sorted(kinds))
    kinds[kind]()
    return kind


def _change_bytes(path, rng):
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 5, 50))):
        data[rng.randrange(len(data))] = rng.randrange(256)
    path.write_bytes(data)


def _truncated_jpeg(path, image, rng):
    image.save(path, format="JPEG", quality=95)
    path.write_bytes(path.read_bytes()[: -rng.randrange(3, 400)])


def _deep(image):
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def _turned(path, image, rng):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = rng.randrange(0, 12)
    image.save(path, format="JPEG", exif=exif, quality=95)


def _bomb():
    """A PNG whose header claims 30,000 x 30,000 pixels."""

    def chunk(kind, data):
        data = kind + data
        return struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
