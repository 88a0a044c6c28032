#!/usr/bin/env python
"""Write a trained detector or classifier as a TorchScript or ONNX file.

    python tools/export_model.py \\
        --config-file configs/quick/semi_anchored_retinanet_digit_scenes.yaml \\
        --format onnx --output output/detector.onnx \\
        --opts MODEL.WEIGHTS weights/semi_anchored_retinanet_digit_scenes.safetensors

A detector takes one image, (C, H, W) uint8, and gives "boxes" (D, 4), XYXY in pixels of it,
"scores" (D,) and "classes" (D,); with --no-nms "boxes" (R, 4) and "scores" (R, C) of all anchors. A
classifier takes (N, C, H, W) uint8 and gives raw "outputs" (N, K) and "scores" (N, K). Normalising
and padding are inside, resizing is not: the file's metadata say to what size, in which order the
channels stand, and the names of the classes.

The file is compared with the model before the command ends. The exit status is 2 for a mistake in
the command line, config or weights, and for a model that the format cannot express.
"""

import argparse
import os
import sys

import anchorkit  # noqa: F401  first: it hides a warning that importing detectron2 raises

# isort: split
from anchorkit.config import load_config
from anchorkit.errors import exit_status
from anchorkit.export import DECODINGS, FORMATS, export_model


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", required=True, metavar="FILE", help="of the model")
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument("--output", required=True, metavar="FILE", help="the file to write")
    parser.add_argument(
        "--size", nargs=2, type=int, metavar=("HEIGHT", "WIDTH"),
        help="of all images (INPUT.FIXED_SIZE, or any size if that is 0)",
    )  # fmt: skip
    parser.add_argument("--no-nms", action="store_true", help="all boxes and scores of a detector")
    parser.add_argument(
        "--decoding", choices=DECODINGS, default="raw",
        help="scores of a classifier trained by OAT: raw outputs, or by the running anchor (raw)",
    )  # fmt: skip
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE",
        help="config keys to override, such as MODEL.WEIGHTS; must come last",
    )  # fmt: skip
    return parser


def main(args: argparse.Namespace) -> None:
    metadata = export_model(
        load_config(args.config_file, args.opts),
        args.output,
        file_format=args.format,
        config_name=os.path.splitext(os.path.basename(args.config_file))[0],
        size=args.size,
        with_nms=not args.no_nms,
        decoding=args.decoding,
    )
    for name, value in metadata.items():
        print(f"{name}: {value}")
    print(f"{args.output}: {os.path.getsize(args.output) / 1e6:.1f} MB")


def run() -> int:
    """Run the command line; returns the exit status."""
    args = argument_parser().parse_args()
    return exit_status("export_model", lambda: main(args))


if __name__ == "__main__":
    sys.exit(run())
