"""Writing a data set with one folder per class: middle frames of videos, or copies of images."""

import argparse
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from ..errors import UserError
from .digit_scenes import datasets_root

JPEG_QUALITY = 95
VIDEO_ENDINGS = (".avi", ".mp4", ".mov", ".mkv", ".webm", ".mpg", ".mpeg")


@dataclass(frozen=True)
class Item:
    """One image to be written: from ``source`` to ``<split>/<class_name>/<file_name>``."""

    split: str
    class_name: str
    source: str
    file_name: str


def write_class_folders(
    target: str,
    items: Sequence[Item],
    read: Callable[[str], bytes],
    *,
    counts: dict[str, int],
    num_classes: int,
    allow_missing: bool = False,
) -> dict[str, int]:
    """Write the images of a set to ``target/<split>/<class>/`` and check their number.

    They are written to a temporary folder beside ``target`` that is renamed at the end, so that an
    interrupted run leaves no half set.

    Args:
        target: folder of the set; must not exist yet.
        items: what to write.
        read: called with a source, returns the content of the file to write; raises OSError if the
            source cannot be read.
        counts: images that the published set has, by split.
        num_classes: classes that the published set has.
        allow_missing: write what is there, even if that is not the whole set.

    Returns:
        Number of images written, by split.

    Raises:
        UserError: ``target`` exists, nothing to write, two sources of one file, or, unless
            ``allow_missing``, other numbers of images or classes than published or an unreadable
            source. Each unreadable source is named on the standard error output, too.
    """
    if os.path.exists(target):
        raise UserError(f"{target} exists already; remove or rename it to have it written anew")
    _check_items(items, counts, num_classes, allow_missing)
    root = os.path.dirname(os.path.abspath(target))
    os.makedirs(root, exist_ok=True)
    work = tempfile.mkdtemp(prefix=f".{os.path.basename(target)}_", dir=root)
    try:
        # What mkdtemp makes can be entered by its owner alone; the set itself should not be so.
        folder = os.path.join(work, "set")
        for item in items:
            os.makedirs(os.path.join(folder, item.split, item.class_name), exist_ok=True)
        failed = _write_items(folder, items, read)
        if failed and (not allow_missing or len(failed) == len(items)):
            raise UserError(
                f"{len(failed)} of {len(items)} files cannot be read, such as {failed[0].source}; "
                "get them again" + ("" if allow_missing else ", or go without: --allow-missing")
            )
        os.rename(folder, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return {
        split: sum(item.split == split for item in items)
        - sum(item.split == split for item in failed)
        for split in counts
    }


def middle_frame_jpeg(path: str) -> bytes:
    """The middle frame of a video as the content of a JPEG file; see :func:`middle_frame`."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    return cv2.imencode(".jpg", middle_frame(path), quality)[1].tobytes()


def middle_frame(path: str) -> np.ndarray:
    """Frame F // 2, from 0, of a video of F frames: (H, W, 3) uint8 BGR.

    Frames are counted by going through the file, as seeking is inexact with many codecs and the
    number in a file's header may be wrong.

    Raises:
        OSError: no such file, or no video with at least one frame.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError("the file does not exist")
    video = cv2.VideoCapture(path)
    expected = max(int(video.get(cv2.CAP_PROP_FRAME_COUNT)), 0) // 2 if video.isOpened() else 0
    video.release()
    frame, num_frames = _read_frame(path, expected)
    if num_frames and num_frames // 2 != expected:
        frame, _ = _read_frame(path, num_frames // 2)
    if frame is None:
        raise OSError("the file is no video that OpenCV can read")
    return frame


def video_files(folder: str) -> list[str]:
    """Sorted paths of the videos at any depth below a folder; hidden files do not count."""
    return sorted(
        os.path.join(place, name)
        for place, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(VIDEO_ENDINGS) and not name.startswith(".")
    )


def flat_name(path: str, folder: str, ending: str) -> str:
    """Name of a file in one flat folder: its path below ``folder``, with another ending."""
    stem = os.path.splitext(os.path.relpath(path, folder))[0]
    return re.sub(r"[\\/]", "_", stem) + ending


def check_folder(path: str, what: str) -> str:
    """Return the path of a folder that exists; otherwise a UserError tells what it should be."""
    if not os.path.isdir(path):
        raise UserError(f"{what}: {path} is no folder; give the folder that the archive unpacks to")
    return path


def sub_folders(folder: str) -> dict[str, str]:
    """Paths of the sub-folders by name, sorted; hidden ones do not count."""
    with os.scandir(folder) as entries:
        found = {e.name: e.path for e in entries if e.is_dir() and not e.name.startswith(".")}
    return dict(sorted(found.items()))


def split_folders(folder: str) -> dict[str, str]:
    """Paths of the folders "train" and "test", written in small or capital letters.

    Raises:
        UserError: one of them is not there.
    """
    found = {name.lower(): path for name, path in sub_folders(folder).items()}
    if not {"train", "test"} <= set(found):
        raise UserError(
            f"{folder} has the folders {', '.join(sub_folders(folder)) or '(none)'}; expected "
            "train and test"
        )
    return {split: found[split] for split in ("train", "test")}


def run_script(write: Callable[[], dict[str, int]], folder: str) -> int:
    """Run what a prepare script does and print where and how much it wrote; its exit status."""
    try:
        written = write()
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(folder)
    for split, number in written.items():
        print(f"{split}: {number} images")
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that all prepare scripts of class folders have."""
    parser.add_argument(
        "--root",
        default=datasets_root(),
        help="folder of all data sets (default: $DETECTRON2_DATASETS or datasets)",
    )
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="write what is there, even if it is not the whole set",
    )


def _read_frame(path: str, number: int) -> tuple[np.ndarray | None, int]:
    """Frame of that number, or None if it cannot be read; and the number of all frames."""
    video = cv2.VideoCapture(path)
    frame, num_frames = None, 0
    while video.grab():
        if num_frames == number:
            is_there, frame = video.retrieve()
            frame = frame if is_there else None
        num_frames += 1
    video.release()
    return frame, num_frames


def _check_items(
    items: Sequence[Item], counts: dict[str, int], num_classes: int, allow_missing: bool
) -> None:
    if not items:
        raise UserError("nothing to write: no file of the data set was found")
    places = {}
    for item in items:
        place = (item.split, item.class_name, item.file_name)
        if places.setdefault(place, item.source) != item.source:
            raise UserError(
                f"{places[place]} and {item.source} would both become {os.path.join(*place)}; "
                "remove one of them"
            )
    found = {split: sum(item.split == split for item in items) for split in counts}
    found_classes = len({item.class_name for item in items})
    if not allow_missing and (found != counts or found_classes != num_classes):
        raise UserError(
            f"expected {_numbers(counts)} in {num_classes} classes, found {_numbers(found)} in "
            f"{found_classes} classes; complete the download, or go on "
            "with what is there: --allow-missing"
        )


def _write_items(folder: str, items: Sequence[Item], read: Callable[[str], bytes]) -> list[Item]:
    """Write all items with some threads; return those that cannot be read."""

    def read_and_write(item: Item) -> str:
        try:
            content = read(item.source)
        except (OSError, cv2.error) as error:
            return " ".join(str(getattr(error, "strerror", None) or error).split())
        path = os.path.join(folder, item.split, item.class_name, item.file_name)
        with open(path, "wb") as file:
            file.write(content)
        return ""

    failed = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for item, fault in zip(items, pool.map(read_and_write, items), strict=True):
            if fault:
                print(f"cannot be read: {item.source}: {fault}", file=sys.stderr)
                failed.append(item)
    return failed


def _numbers(counts: dict[str, int]) -> str:
    return " and ".join(f"{number:,} for {split}" for split, number in counts.items())
