#!/usr/bin/env python
"""Sort the images of BAR (Biased Action Recognition) into one folder per class.

Example: python datasets/prepare_bar.py BAR
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir))

from anchorkit.data.class_folders import (  # noqa: E402
    Item,
    add_arguments,
    check_folder,
    flat_name,
    run_script,
    split_folders,
    sub_folders,
    write_class_folders,
)
from anchorkit.data.image_folder import PREPARED_SETS, image_files  # noqa: E402
from anchorkit.errors import UserError  # noqa: E402

COUNTS = {"train": 1941, "test": 654}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "images", help="folder that holds train/ and test/ with <class>_<number>.jpg or <class>/"
    )
    add_arguments(parser)
    return parser.parse_args()


def list_items(images: str) -> list[Item]:
    """All images of both splits; the class is the folder, or the file's name up to the last _."""
    items = []
    for split, split_folder in split_folders(check_folder(images, "images")).items():
        classes = sub_folders(split_folder)
        for class_name, class_folder in classes.items():
            for source in sorted(image_files(class_folder)):
                ending = os.path.splitext(source)[1]
                items.append(
                    Item(split, class_name, source, flat_name(source, class_folder, ending))
                )
        for source in [] if classes else sorted(image_files(split_folder)):
            file_name = os.path.basename(source)
            class_name = file_name.rpartition("_")[0]
            if not class_name:
                raise UserError(
                    f"{source}: expected a name such as climbing_12.jpg, which begins with the "
                    "class; take the file away or rename it"
                )
            items.append(Item(split, class_name, source, file_name))
    return items


def main() -> int:
    args = parse_args()
    target = os.path.join(args.root, "bar")
    return run_script(
        lambda: write_class_folders(
            target,
            list_items(args.images),
            lambda source: Path(source).read_bytes(),
            counts=COUNTS,
            num_classes=PREPARED_SETS["bar"],
            allow_missing=args.allow_missing,
        ),
        target,
    )


if __name__ == "__main__":
    sys.exit(main())
