#!/usr/bin/env python
"""Draw which locations of a detector are positive at which level, and count them.

    python tools/visualize_assignment.py --num-images 4 \\
        --config-file configs/quick/semi_anchored_retinanet_digit_scenes.yaml

Writes one picture an image and prints how many locations and anchors are positive; ``--beside``
draws the training labels of several detectors on the same image. Images are resized as in testing;
weights play no part. The exit status is 2 for a mistake in the command line, config or data.
"""

import argparse
import difflib
import os
import sys
from collections.abc import Iterator

import anchorkit  # noqa: F401  first: it hides a warning that importing detectron2 raises

# isort: split
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, MetadataCatalog
from matplotlib.figure import Figure

from anchorkit.anchor_analysis import build_detector
from anchorkit.config import load_config
from anchorkit.data import load_dataset, register_coco_format
from anchorkit.data.image_files import read_fault
from anchorkit.data.mapper import resize_augmentations
from anchorkit.errors import UserError, exit_status
from anchorkit.visualization import (
    AssignmentStatistics,
    ImageLabels,
    draw_assignment,
    draw_label_comparison,
    label_levels,
    save_figure,
)


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", required=True, metavar="FILE", help="of the detector")
    parser.add_argument(
        "--beside", nargs="+", default=[], metavar="FILE",
        help="configs of more detectors, whose labels are drawn below those of the first",
    )  # fmt: skip
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--input", nargs="+", metavar="IMAGE", help="image files of the data set")
    which.add_argument("--image-ids", nargs="+", metavar="ID", help="their ids in the data set")
    which.add_argument("--num-images", type=int, default=4, metavar="N", help="the first N (4)")
    parser.add_argument("--dataset", metavar="NAME", help="in place of those of DATASETS.TRAIN")
    parser.add_argument(
        "--output", metavar="DIR", help="folder of the pictures (OUTPUT_DIR/assignment)"
    )
    parser.add_argument("--table-only", action="store_true", help="count, and draw nothing")
    parser.add_argument("--format", choices=("png", "pdf"), default="png", help="of the pictures")
    parser.add_argument("--columns", type=int, default=3, help="most panels side by side (3)")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE",
        help="config keys to override; must come last",
    )  # fmt: skip
    return parser


def main(args: argparse.Namespace) -> None:
    if args.num_images < 1 or args.columns < 1:
        raise UserError(
            f"--num-images {args.num_images} and --columns {args.columns}: both must be at least 1"
        )
    cfg = load_config(args.config_file, args.opts)
    cfg.MODEL.DEVICE = "cpu"
    register_coco_format(cfg)
    if args.dataset:
        cfg.DATASETS.TRAIN = (args.dataset,)
    images = select_images(cfg, args)
    models = {_title(args.config_file): build_detector(cfg)}
    for path in args.beside:
        other = load_config(path, args.opts)
        other.MODEL.DEVICE = "cpu"
        other.DATASETS.TRAIN = cfg.DATASETS.TRAIN
        models[_title(path)] = build_detector(other)
    names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes")
    folder = args.output or os.path.join(cfg.OUTPUT_DIR, "assignment")
    if not args.table_only:
        make_folder(folder)
    statistics = {title: AssignmentStatistics() for title in models}
    for image, sample in load_samples(cfg, images):
        labels = {title: label_levels(model, sample) for title, model in models.items()}
        for title in models:
            statistics[title].add(labels[title])
        if not args.table_only:
            name = str(image["image_id"]).replace(os.sep, "_")
            path = os.path.join(folder, f"{name}.{args.format}")
            save_figure(draw(image, sample, labels, names, args.columns), path)
            print(path, flush=True)
    for title in models:
        print(f"\n{title}\n" if args.beside else "")
        print(statistics[title].table())


def draw(
    image: dict, sample: dict, labels: dict[str, ImageLabels], names: list[str], columns: int
) -> Figure:
    """The picture of one image, for one detector or for several."""
    pixels = sample["image"].permute(1, 2, 0).numpy()
    title = (
        f"{os.path.basename(image['file_name'])} (image {image['image_id']}), "
        f"{pixels.shape[1]} × {pixels.shape[0]} px"
    )
    if len(labels) > 1:
        return draw_label_comparison(pixels, list(labels.items()), names, title=title)
    ((detector, only),) = labels.items()
    return draw_assignment(pixels, only, names, title=f"{title}, {detector}", columns=columns)


def _title(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def make_folder(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {path}: cannot be made: {error}") from error


def select_images(cfg: CfgNode, args: argparse.Namespace) -> list[dict]:
    """The dicts of the images that were asked for, in the order of the command line."""
    if not cfg.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN is empty; name a data set with --dataset")
    images = [image for name in cfg.DATASETS.TRAIN for image in load_dataset(name)[0]]
    if args.image_ids:
        known = {str(image["image_id"]): image for image in reversed(images)}
        return [_find(known, wanted, "image id", cfg.DATASETS.TRAIN) for wanted in args.image_ids]
    if args.input:
        known = {os.path.basename(image["file_name"]): image for image in reversed(images)}
        known |= {os.path.abspath(image["file_name"]): image for image in reversed(images)}
        return [
            known.get(os.path.abspath(path))
            or _find(known, os.path.basename(path), "image file", cfg.DATASETS.TRAIN)
            for path in args.input
        ]
    return images[: args.num_images]


def load_samples(cfg: CfgNode, images: list[dict]) -> Iterator[tuple[dict, dict]]:
    """Each image's dict and what the detector sees of it: RGB pixels, and boxes with classes."""
    resize = resize_augmentations(cfg)
    # is_train keeps the annotations; nothing is random here.
    mapper = DatasetMapper(is_train=True, augmentations=resize, image_format="RGB")
    for image in images:
        try:
            sample = mapper(image)
        except Exception:
            reason = read_fault(image, "RGB")
            if reason is None:
                raise
            raise UserError(
                f"image {image['image_id']} ({image['file_name']}): {reason}"
            ) from None
        yield image, sample


def _find(known: dict[str, dict], wanted: str, kind: str, names) -> dict:
    if wanted in known:
        return known[wanted]
    match = difflib.get_close_matches(wanted, list(known), n=1)
    hint = f"; did you mean {match[0]}?" if match else f"; there is for example {next(iter(known))}"
    raise UserError(f"no {kind} {wanted} in data set {', '.join(names)}{hint}")


def run() -> int:
    """Run the command line; returns the exit status."""
    args = argument_parser().parse_args()
    return exit_status("visualize_assignment", lambda: main(args))


if __name__ == "__main__":
    sys.exit(run())
