#!/usr/bin/env python
"""Convert torchvision's VGG-16 or SSD300 to the weights of anchorkit's SSD.

    python tools/convert_checkpoint.py vgg16 weights/vgg16_ssd.pth
    python tools/convert_checkpoint.py ssd300_vgg16 weights/ssd300_coco.pth

The first argument is a file of torchvision's weights, or the name of the model, whose weights
torchvision then downloads. The exit status is 2 for a mistake in the command line or in the file.
"""

import argparse
import os
import sys

import anchorkit  # noqa: F401  first: it hides a warning that importing detectron2 raises

# isort: split
import torch
from torchvision.models import get_model_weights

from anchorkit.checkpoint import read_checkpoint, write_atomically
from anchorkit.conversion import convert_torchvision
from anchorkit.errors import UserError

MODELS = ("vgg16", "ssd300_vgg16")


def main(source: str, target: str) -> None:
    state = load(source)
    weights = convert_torchvision(state)
    os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
    write_atomically(target, lambda file: torch.save({"model": weights}, file))
    print(f"{target}: {len(weights)} tensors, {sum(w.numel() for w in weights.values()):,} numbers")


def load(source: str) -> dict:
    """The state dict of a file, or of one of ``MODELS``."""
    if source in MODELS:
        weights = get_model_weights(source).DEFAULT
        try:
            return weights.get_state_dict(progress=True)
        except OSError as error:
            raise UserError(
                f"{weights.url}: cannot be fetched ({error}); download it, and give its path"
            ) from error
    if not os.path.isfile(source):
        raise UserError(f"no file {source}; give a file, or one of {', '.join(MODELS)}")
    state = read_checkpoint(source)
    return state.get("model", state)


def run() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", metavar="FILE", help=f"torchvision's, or {' or '.join(MODELS)}")
    parser.add_argument("target", metavar="OUTPUT", help="file for MODEL.WEIGHTS")
    args = parser.parse_args()
    try:
        main(args.source, args.target)
    except UserError as error:
        print(f"convert_checkpoint: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(run())
