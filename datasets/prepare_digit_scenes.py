#!/usr/bin/env python
"""Write the digit scenes, of any number and size.

Example: python datasets/prepare_digit_scenes.py --num-train 500 --num-val 100 --size 256
"""

import argparse
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir))

from anchorkit.data.digit_scenes import SPLITS, datasets_root, write_digit_scenes  # noqa: E402
from anchorkit.errors import UserError  # noqa: E402


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--root",
        default=datasets_root(),
        help="folder of all data sets (default: $DETECTRON2_DATASETS or datasets)",
    )
    parser.add_argument("--num-train", type=int, default=2000, help="training scenes")
    parser.add_argument("--num-val", type=int, default=300, help="validation scenes")
    parser.add_argument("--size", type=int, default=160, help="width and height in pixels")
    parser.add_argument("--seed", type=int, default=0, help="seed of all scenes")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    try:
        folder = write_digit_scenes(
            args.root,
            num_train=args.num_train,
            num_val=args.num_val,
            size=args.size,
            seed=args.seed,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(folder)
    for split in SPLITS:
        with open(os.path.join(folder, "annotations", f"{split}.json"), encoding="utf-8") as file:
            content = json.load(file)
        print(f"{split}: {len(content['images'])} scenes, {len(content['annotations'])} digits")
    return 0


if __name__ == "__main__":
    sys.exit(main())
