#!/usr/bin/env python
"""Count how a detector's anchors and labels fit the boxes it is trained on, and fit the anchors.

    python tools/analyze_anchors.py --fit \\
        --config-file configs/quick/retinanet_digit_scenes.yaml

Boxes are resized as in training, without crops and expansion; images are not read, and weights play
no part. ``--fit`` proposes sizes and aspect ratios, as many as the config has, that overlap boxes
more, and writes them as a config for ``train_net.py``. The exit status is 2 for a mistake in the
command line, config or data.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

import anchorkit  # noqa: F401  first: it hides a warning that importing detectron2 raises

# isort: split
from detectron2.config import CfgNode
from torch import nn

from anchorkit.anchor_analysis import (
    analyze,
    anchor_table,
    build_detector,
    fit_boxes,
    size_ranges,
    training_samples,
    write_table,
)
from anchorkit.anchor_fit import fit_anchors
from anchorkit.config import load_config
from anchorkit.data import register_datasets
from anchorkit.errors import UserError, exit_status
from anchorkit.visualization import BoxCoverage


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", required=True, metavar="FILE", help="of the detector")
    parser.add_argument("--fit", action="store_true", help="propose a table of anchors")
    parser.add_argument(
        "--num-images", type=int, default=1000, metavar="N",
        help="training images that are looked at, drawn by --seed; 0: all (1000)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (0)")
    parser.add_argument(
        "--output", metavar="FILE", help="config that --fit writes (OUTPUT_DIR/anchors.yaml)"
    )
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE",
        help="config keys to override; must come last",
    )  # fmt: skip
    return parser


def main(args: argparse.Namespace) -> None:
    if args.num_images < 0 or args.seed < 0:
        raise UserError(
            f"--num-images {args.num_images} and --seed {args.seed}: both must be 0 or more"
        )
    cfg = load_config(args.config_file, args.opts)
    path = args.output or os.path.join(cfg.OUTPUT_DIR, "anchors.yaml")
    if not path.endswith(".yaml"):
        raise UserError(f"--output {path}: the name of a config ends in .yaml")
    cfg.MODEL.DEVICE = "cpu"
    register_datasets(cfg)
    model = build_detector(cfg)
    samples, number = training_samples(cfg, args.num_images, args.seed)
    print(f"{len(samples)} of {number} images of {', '.join(cfg.DATASETS.TRAIN)}\n")
    before = report(cfg, model, samples)
    print(f"\n{before.class_table()}", flush=True)
    if not args.fit:
        return
    table = anchor_table(cfg, model)
    if table is None:
        print(f"\n{type(model).__name__} has no anchors to fit; see the ranges of its levels above")
        return
    boxes, sizes = fit_boxes(samples, args.seed)
    if not len(boxes):
        raise UserError(f"--fit: {', '.join(cfg.DATASETS.TRAIN)} has no boxes")
    fit_anchors(table, boxes, sizes)
    note = f"Anchors fitted to {', '.join(cfg.DATASETS.TRAIN)} by tools/analyze_anchors.py."
    write_table(path, table, args.config_file, note)
    fitted = load_config(path, args.opts)
    fitted.MODEL.DEVICE = "cpu"
    print("\nWith the fitted anchors:\n")
    after = report(fitted, build_detector(fitted), samples)
    print(
        f"\nmean best IoU {before.mean_iou:.3f} -> {after.mean_iou:.3f}; boxes without an anchor "
        f"above IoU 0.5: {100 * before.share_uncovered:.2f} % -> "
        f"{100 * after.share_uncovered:.2f} %\n\n{Path(path).read_text(encoding='utf-8')}\n"
        f"python tools/train_net.py --config-file {shlex.join([path, *args.opts])}"
    )


def report(cfg: CfgNode, model: nn.Module, samples: list[dict]) -> BoxCoverage:
    """Print what there is to say of a detector's labels."""
    statistics, coverage = analyze(cfg, model, samples)
    print(f"{statistics.table()}\n\n{coverage.tables(size_ranges(model))}", flush=True)
    return coverage


def run() -> int:
    """Run the command line; returns the exit status."""
    args = argument_parser().parse_args()
    return exit_status("analyze_anchors", lambda: main(args))


if __name__ == "__main__":
    sys.exit(run())
