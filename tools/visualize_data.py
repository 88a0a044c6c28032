#!/usr/bin/env python
"""Draw what a network is fed: the images of a config's own loader, with boxes or class names.

    python tools/visualize_data.py --output output/data --num-images 32 \\
        --config-file configs/quick/semi_anchored_retinanet_digit_scenes.yaml

Images come out of the loader of training, so that resizing, augmentation, mixing and the order of
the classes are those of the run; --test draws what is evaluated. Sheets of 16 images are written,
and a table says what is left of each channel after the model's normalisation: means near 0 and
deviations near 1, or near 57 where PIXEL_STD is 1, as some pretrained weights want it. The exit
status is 2 for a mistake in the command line, config or data.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from itertools import islice

import anchorkit  # noqa: F401  first: it hides a warning that importing detectron2 raises

# isort: split
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import convert_image_to_rgb
from PIL import Image

from anchorkit.config import check_registered, load_config
from anchorkit.data import (
    build_test_loader,
    build_train_loader,
    check_files,
    is_image_set,
    load_dataset,
    register_datasets,
)
from anchorkit.errors import UserError, exit_status
from anchorkit.visualization import (
    NetworkInput,
    draw_image_grid,
    network_inputs,
    normalization_table,
)

IMAGES_PER_SHEET = 16


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", required=True, metavar="FILE", help="of the model")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the sheets")
    parser.add_argument("--num-images", type=int, default=16, metavar="N", help="images (16)")
    parser.add_argument("--test", action="store_true", help="draw what is evaluated")
    parser.add_argument(
        "--dataset", metavar="NAME", help="in place of those of DATASETS.TRAIN, or of TEST"
    )
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE",
        help="config keys to override; must come last",
    )  # fmt: skip
    return parser


def main(args: argparse.Namespace) -> None:
    if args.num_images < 1:
        raise UserError(f"--num-images {args.num_images}: must be at least 1")
    cfg = load_config(args.config_file, args.opts)
    cfg.OUTPUT_DIR = args.output
    cfg.MODEL.DEVICE = "cpu"
    # The loader gives the same images with any number of workers.
    cfg.DATALOADER.NUM_WORKERS = 0
    kind = "TEST" if args.test else "TRAIN"
    sets = (args.dataset,) if args.dataset else tuple(cfg.DATASETS[kind])
    if not sets:
        raise UserError(f"DATASETS.{kind} is empty; name a data set with --dataset")
    # What is not drawn need not be there.
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    cfg.DATASETS[kind] = sets
    register_datasets(cfg)
    check_registered(sets, "--dataset" if args.dataset else f"DATASETS.{kind}")
    check_files(cfg)
    inputs = load_inputs(cfg, sets, args.num_images, is_test=args.test)
    # A classifier's images are RGB, or grey with one channel.
    image_format = "RGB" if is_image_set(sets[0]) else cfg.INPUT.FORMAT
    try:
        os.makedirs(args.output, exist_ok=True)
        for first in range(0, len(inputs), IMAGES_PER_SHEET):
            number = first // IMAGES_PER_SHEET + 1
            path = os.path.join(args.output, f"{kind.lower()}_{number:02d}.png")
            sheet = draw_sheet(inputs[first : first + IMAGES_PER_SHEET], image_format)
            Image.fromarray(sheet).save(path)
            print(path)
    except OSError as error:
        raise UserError(f"--output {args.output}: cannot be written: {error}") from error
    print(f"\nafter normalisation, {len(inputs)} images:\n")
    print(normalization_table(inputs, image_format, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))


def load_inputs(
    cfg: CfgNode, sets: tuple[str, ...], count: int, *, is_test: bool
) -> list[NetworkInput]:
    """The first images that the loader of training, or those of testing, give."""
    if is_test:
        batches = test_batches(cfg, sets)
    else:
        batches = ((batch, {}) for batch in build_train_loader(cfg))
    names = MetadataCatalog.get(sets[0]).get("thing_classes")
    samples = (one for batch, records in batches for one in network_inputs(batch, names, records))
    return list(islice(samples, count))


def test_batches(cfg: CfgNode, sets: tuple[str, ...]) -> Iterator[tuple]:
    """Batches of all sets, with the images of a detection set by id: its samples lack objects."""
    for name in sets:
        images = [] if is_image_set(name) else load_dataset(name)[0]
        records = {image["image_id"]: image for image in images}
        for batch in build_test_loader(cfg, name):
            yield batch, records


def draw_sheet(inputs: list[NetworkInput], image_format: str) -> np.ndarray:
    """One page of images."""
    pixels = [
        convert_image_to_rgb(one.pixels, image_format if one.pixels.shape[2] > 1 else "L")
        for one in inputs
    ]
    return draw_image_grid(
        [np.clip(image, 0, 255).astype(np.uint8) for image in pixels],
        [one.caption for one in inputs],
        boxes=[one.boxes for one in inputs],
        image_width=480 if any(one.boxes for one in inputs) else 256,
    )


def run() -> int:
    """Run the command line; returns the exit status."""
    args = argument_parser().parse_args()
    return exit_status("visualize_data", lambda: main(args))


if __name__ == "__main__":
    sys.exit(run())
