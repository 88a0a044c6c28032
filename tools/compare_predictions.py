#!/usr/bin/env python
"""Compare two image classifiers: what one gets wrong and the other right.

    python tools/compare_predictions.py output/ce/predictions.csv output/oat/predictions.csv \\
        --output output/comparison

Prints how many images both, one or none get right, with McNemar's exact test. Writes the images
that A gets wrong and B right as a CSV file and, where --dataset says where they come from, as a
picture. The exit status is 2 for a mistake in the command line or in the files.
"""

import argparse
import os
import sys

import anchorkit  # noqa: F401  first: it hides a warning that importing detectron2 raises

# isort: split
import numpy as np
from PIL import Image
from tabulate import tabulate

from anchorkit.errors import UserError, exit_status
from anchorkit.evaluation.predictions import (
    Comparison,
    Prediction,
    compare_predictions,
    distinct_names,
    read_predictions,
    write_comparison,
)
from anchorkit.visualization import draw_image_grid


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("a", metavar="A", help="predictions.csv of one classifier")
    parser.add_argument("b", metavar="B", help="and of another one")
    parser.add_argument(
        "--reverse", action="store_true", help="list what A gets right and B wrong instead"
    )
    parser.add_argument("--dataset", metavar="NAME", help="of the images, to draw them")
    parser.add_argument(
        "--images", type=int, default=16, metavar="N",
        help="pictures to draw, evenly spaced over the list (16)",
    )  # fmt: skip
    parser.add_argument(
        "--size", type=int, default=0, metavar="PIXELS",
        help="load images with this side; needed where theirs differ (0: as they are)",
    )  # fmt: skip
    parser.add_argument(
        "--output", default=os.path.join("output", "comparison"), metavar="DIR",
        help="folder of the list and the picture (output/comparison)",
    )  # fmt: skip
    return parser


def main(args: argparse.Namespace) -> None:
    if args.images < 1 or args.size < 0:
        raise UserError(f"--images {args.images} must be at least 1, --size {args.size} at least 0")
    comparison = compare_predictions(read_predictions(args.a), read_predictions(args.b))
    print(table(comparison))
    pairs = comparison.only_first if args.reverse else comparison.only_second
    path = os.path.join(args.output, "wrong_in_b" if args.reverse else "wrong_in_a")
    try:
        write_comparison(f"{path}.csv", pairs)
    except OSError as error:
        raise UserError(f"--output {args.output}: cannot be written: {error}") from error
    print(f"{path}.csv")
    if args.dataset and pairs:
        picture = draw(pairs, args.dataset, args.images, args.size)
        Image.fromarray(picture).save(f"{path}.png")
        print(f"{path}.png")


def table(comparison: Comparison) -> str:
    """Counts of the images by who is right, the accuracies, and the test."""
    counts, total = comparison.counts, sum(comparison.counts.values())
    rows = [
        [f"A {word}", counts[a, True], counts[a, False]]
        for word, a in (("right", True), ("wrong", False))
    ]
    lines = [tabulate(rows, ["images", "B right", "B wrong"]), ""]
    if total:
        right = [counts[True, True] + counts[pair] for pair in ((True, False), (False, True))]
        accuracies = [f"{name} {100 * n / total:.3f}" for name, n in zip("AB", right, strict=True)]
        lines.append(f"accuracy, %: {', '.join(accuracies)} ({total} images)")
    lines.append(f"McNemar's exact test, two-sided: p = {comparison.p_value:.4g}")
    return "\n".join(lines)


def draw(
    pairs: list[tuple[Prediction, Prediction]], dataset: str, count: int, size: int
) -> np.ndarray:
    """Some of the images, with what A and B take them for."""
    # Imported here: most comparisons draw nothing.
    from anchorkit.data.image_set import load_image_set

    images = load_image_set(dataset, size=size)
    classes = distinct_names(images.classes)
    chosen = np.linspace(0, len(pairs) - 1, min(count, len(pairs))).round().astype(int)
    pixels, captions = [], []
    for a, b in (pairs[index] for index in chosen):
        index = int(a.image_id) if a.image_id.isdecimal() else -1
        label = classes[int(images.labels[index])] if 0 <= index < len(images.labels) else None
        if label != a.label:
            found = "has no such image" if label is None else f"calls it {label!r}"
            raise UserError(
                f"--dataset {dataset}: image {a.image_id} is a {a.label!r} in the files, but the "
                f"data set {found}; name the set that was evaluated"
            )
        pixels.append(images.images[index].permute(1, 2, 0).numpy())
        captions.append(f"A: {a.prediction}, B: {b.prediction}")
    return draw_image_grid(pixels, captions)


def run() -> int:
    """Run the command line; returns the exit status."""
    args = argument_parser().parse_args()
    return exit_status("compare_predictions", lambda: main(args))


if __name__ == "__main__":
    sys.exit(run())
