#!/usr/bin/env python
"""Look into a detector's results: its worst images, curves, confusion and a table of classes.

    python tools/visualize_results.py --dataset digit_scenes_val --output output/results \\
        --input output/inference/digit_scenes_val/coco_instances_results.json
    python tools/visualize_results.py --config-file F --input output/predictions.json --output DIR

--input is what an evaluation or tools/demo.py leaves. The output folder gets

- worst/001.png, ...: detections beside ground truth, of the images with the most errors,
- images.csv: all images, from the most errors to the fewest,
- precision_recall.png: by COCO's evaluation at IoU 0.5 and 0.75, of all classes and of each,
- confusion.png: what was taken for what, with a row for false detections, a column for the missed,
- classes.csv: average precision, and precision, recall and F1; this is printed, too.

All but the curves and the average precision are at IoU 0.5 and, for each class, at the score with
the highest F1. An image's errors are its false detections and its missed objects; an object found
with a wrong class is one of each. The exit status is 2 for a mistake in the command line or data.
"""

import argparse
import os
import sys

import anchorkit  # noqa: F401  first: it hides a warning that importing detectron2 raises

# isort: split
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from tabulate import tabulate

from anchorkit.config import load_config
from anchorkit.data import load_dataset, register_datasets
from anchorkit.data.image_files import read_fault
from anchorkit.errors import UserError, exit_status
from anchorkit.evaluation.coco import category_names, evaluate_boxes, load_truth
from anchorkit.evaluation.coco_results import read_results
from anchorkit.evaluation.detection_report import (
    TABLE_HEADER,
    DetectionReport,
    detection_report,
    write_report,
)
from anchorkit.evaluation.pictures import write_picture
from anchorkit.evaluation.predictions import write_rows
from anchorkit.visualization import draw_detections


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", required=True, metavar="FILE", help="results, a JSON file")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of what is written")
    parser.add_argument(
        "--dataset", metavar="NAME", help="that was evaluated (the first of DATASETS.TEST)"
    )
    parser.add_argument(
        "--num-images", type=int, default=16, metavar="N", help="images to draw (16)"
    )
    parser.add_argument(
        "--confidence", type=float, metavar="SCORE",
        help="lowest score of a detection (for each class the one with the highest F1)",
    )  # fmt: skip
    parser.add_argument(
        "--config-file", default="", metavar="FILE", help="if it names the data set"
    )
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE",
        help="config keys to override, such as DATASETS.COCO_FORMAT; must come last",
    )  # fmt: skip
    return parser


def main(args: argparse.Namespace) -> None:
    if args.num_images < 0:
        raise UserError(f"--num-images {args.num_images}: must be at least 0")
    if args.confidence is not None and not 0 <= args.confidence <= 1:
        raise UserError(f"--confidence {args.confidence:g}: must be from 0 to 1")
    cfg = load_config(args.config_file, args.opts)
    # A completed copy of the user's annotations is written there.
    cfg.OUTPUT_DIR = args.output
    name = dataset_name(cfg, args.dataset)
    images, _ = load_dataset(name)
    truth = load_truth(name)
    results = read_results(args.input, truth)
    report = detection_report(
        evaluate_boxes(truth, results), category_names(truth), threshold=args.confidence
    )
    try:
        write_report(report, args.output, name)
        write_images(report, args.output, name, images, args.num_images)
    except OSError as error:
        raise UserError(f"--output {args.output}: cannot be written: {error}") from error
    # Names that look like numbers stay as they are.
    columns = ("left", *["right"] * (len(TABLE_HEADER) - 1))
    print(tabulate(report.table(), TABLE_HEADER, disable_numparse=True, colalign=columns))
    print(f"\nwritten to {args.output}")


def dataset_name(cfg: CfgNode, wanted: str | None) -> str:
    """The data set of the command line, else of the config; all the config's are registered."""
    register_datasets(cfg)
    if wanted:
        return wanted
    if not cfg.DATASETS.TEST:
        raise UserError("name the data set with --dataset, or a --config-file with DATASETS.TEST")
    return cfg.DATASETS.TEST[0]


def write_images(
    report: DetectionReport, folder: str, dataset: str, images: list[dict], count: int
) -> None:
    """``images.csv`` with all images, and pictures of the first ``count`` of them."""
    records = {image["image_id"]: image for image in images}
    rows = [
        (rank, image.image_id, records[image.image_id]["file_name"], image.num_errors,
         image.num_false, image.num_missed, image.num_objects)
        for rank, image in enumerate(report.images, 1)
    ]  # fmt: skip
    header = ("rank", "image_id", "file_name", "errors", "false", "missed", "objects")
    write_rows(os.path.join(folder, "images.csv"), header, rows)
    if count:
        os.makedirs(os.path.join(folder, "worst"), exist_ok=True)
    for rank, image in enumerate(report.images[:count], 1):
        record = records[image.image_id]
        reason = read_fault(record)
        if reason is not None:
            print(f"not drawn: {record['file_name']}: {reason}", file=sys.stderr)
            continue
        picture = draw_detections(
            record, image.instances(record["height"], record["width"]),
            MetadataCatalog.get(dataset), score_threshold=None,
        )  # fmt: skip
        write_picture(os.path.join(folder, "worst", f"{rank:03d}.png"), picture)


def run() -> int:
    """Run the command line; returns the exit status."""
    args = argument_parser().parse_args()
    return exit_status("visualize_results", lambda: main(args))


if __name__ == "__main__":
    sys.exit(run())
