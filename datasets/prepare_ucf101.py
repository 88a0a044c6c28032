#!/usr/bin/env python
"""Write the middle frame of each UCF-101 video, by the official split 1.

Example: python datasets/prepare_ucf101.py UCF-101 ucfTrainTestlist
"""

import argparse
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir))

from anchorkit.data.class_folders import (  # noqa: E402
    Item,
    add_arguments,
    check_folder,
    middle_frame_jpeg,
    run_script,
    write_class_folders,
)
from anchorkit.data.image_folder import PREPARED_SETS  # noqa: E402
from anchorkit.errors import UserError  # noqa: E402

COUNTS = {"train": 9537, "test": 3783}
SPLIT_FILES = {"train": "trainlist01.txt", "test": "testlist01.txt"}
# Missing videos that are named; the others are counted.
MAX_NAMED = 20


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", help="folder UCF-101, which holds <Class>/v_*.avi")
    parser.add_argument("splits", help="folder ucfTrainTestlist with classInd.txt and the lists")
    add_arguments(parser)
    return parser.parse_args()


def read_lines(folder: str, name: str) -> list[list[str]]:
    """Words of each line of a split file that is not empty."""
    path = os.path.join(folder, name)
    try:
        with open(path, encoding="utf-8") as file:
            return [line.split() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); give the folder of the official split files"
        ) from error


def list_items(videos: str, splits: str) -> list[Item]:
    """What the split files name and is there; videos that are not there are named."""
    check_folder(videos, "videos")
    class_lines = read_lines(splits, "classInd.txt")
    classes = {words[-1] for words in class_lines}
    items, missing = [], []
    for split, name in SPLIT_FILES.items():
        for words in read_lines(splits, name):
            class_name, _, file_name = words[0].partition("/")
            if class_name not in classes or not file_name or "/" in file_name:
                raise UserError(
                    f"{os.path.join(splits, name)}: expected lines such as Class/v_name.avi with "
                    f"the classes of classInd.txt, got {' '.join(words)!r}"
                )
            source = os.path.join(videos, class_name, file_name)
            if not os.path.isfile(source):
                missing.append(source)
                continue
            items.append(Item(split, class_name, source, os.path.splitext(file_name)[0] + ".jpg"))
    for source in missing[:MAX_NAMED]:
        print(f"missing: {source}", file=sys.stderr)
    if len(missing) > MAX_NAMED:
        print(f"missing: {len(missing) - MAX_NAMED} more", file=sys.stderr)
    return items


def main() -> int:
    args = parse_args()
    target = os.path.join(args.root, "ucf101")
    return run_script(
        lambda: write_class_folders(
            target,
            list_items(args.videos, args.splits),
            middle_frame_jpeg,
            counts=COUNTS,
            num_classes=PREPARED_SETS["ucf101"],
            allow_missing=args.allow_missing,
        ),
        target,
    )


if __name__ == "__main__":
    sys.exit(main())
