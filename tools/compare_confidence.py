#!/usr/bin/env python
"""Draw how sure multi-label classifiers are of each class on images of one class, side by side.

    python tools/compare_confidence.py A/confidence.json B/confidence.json \\
        --labels baseline INDeeD --output confidence.png

An evaluation of a multi-label set leaves confidence.json in its folder, inference/<set>. Prints the
mean confidence in the images' own classes and in the others. The exit status is 2 for a mistake in
the command line or in the files.
"""

import argparse
import os
import sys

import anchorkit  # noqa: F401  first: it hides a warning that importing detectron2 raises

# isort: split
from PIL import Image

from anchorkit.errors import UserError, exit_status
from anchorkit.evaluation.confidence import caption, read_confidence
from anchorkit.visualization import draw_confidences


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", metavar="FILE", help="confidence.json of a classifier")
    parser.add_argument(
        "--labels", nargs="+", metavar="TEXT", help="one for each file (the files' paths)"
    )
    parser.add_argument(
        "--output", default="confidence.png", metavar="FILE", help=".png (confidence.png)"
    )
    return parser


def main(args: argparse.Namespace) -> None:
    labels = args.labels or args.files
    if len(labels) != len(args.files):
        raise UserError(
            f"--labels: expected one for each of {len(args.files)} files, got {len(labels)}"
        )
    if not args.output.endswith(".png"):
        raise UserError(f"--output {args.output}: must end in .png")
    class_names, maps = [], []
    for path in args.files:
        names, confidence = read_confidence(path)
        if maps and names != class_names:
            raise UserError(
                f"{path}: other classes than {args.files[0]} has, or in another order; evaluate "
                "all on one data set"
            )
        class_names = names
        maps.append(confidence)
    titles = [f"{label}: {caption(one)}" for label, one in zip(labels, maps, strict=True)]
    picture = Image.fromarray(draw_confidences([one.numpy() for one in maps], titles, class_names))
    try:
        os.makedirs(os.path.dirname(args.output) or ".", exist_ok=True)
        picture.save(args.output)
    except OSError as error:
        raise UserError(f"--output {args.output}: cannot be written: {error}") from error
    print("\n".join([*titles, args.output]))


def run() -> int:
    """Run the command line; returns the exit status."""
    args = argument_parser().parse_args()
    return exit_status("compare_confidence", lambda: main(args))


if __name__ == "__main__":
    sys.exit(run())
