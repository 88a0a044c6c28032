#!/usr/bin/env python
"""Write the middle frame of each video of ERA (Event Recognition in Aerial videos).

Example: python datasets/prepare_era.py ERA_Dataset
"""

import argparse
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir))

from anchorkit.data.class_folders import (  # noqa: E402
    Item,
    add_arguments,
    check_folder,
    flat_name,
    middle_frame_jpeg,
    run_script,
    split_folders,
    sub_folders,
    video_files,
    write_class_folders,
)
from anchorkit.data.image_folder import PREPARED_SETS  # noqa: E402

COUNTS = {"train": 1473, "test": 1391}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", help="folder that holds Train/<Class>/ and Test/<Class>/")
    add_arguments(parser)
    return parser.parse_args()


def list_items(videos: str) -> list[Item]:
    """All videos of the class folders of both splits."""
    return [
        Item(split, class_name, source, flat_name(source, class_folder, ".jpg"))
        for split, split_folder in split_folders(check_folder(videos, "videos")).items()
        for class_name, class_folder in sub_folders(split_folder).items()
        for source in video_files(class_folder)
    ]


def main() -> int:
    args = parse_args()
    target = os.path.join(args.root, "era")
    return run_script(
        lambda: write_class_folders(
            target,
            list_items(args.videos),
            middle_frame_jpeg,
            counts=COUNTS,
            num_classes=PREPARED_SETS["era"],
            allow_missing=args.allow_missing,
        ),
        target,
    )


if __name__ == "__main__":
    sys.exit(main())
