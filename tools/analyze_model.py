#!/usr/bin/env python
"""Count parameters, multiply-accumulates and activations of a model, and print its structure.

    python tools/analyze_model.py --tasks parameter flop \\
        --config-file configs/COCO-Detection/semi_anchored_retinanet_R_50_FPN_1x.yaml

Needs neither weights nor data sets. ``KEY VALUE`` pairs at the end override config keys. The exit
status is 2 for a mistake in the command line or the config.
"""

import argparse
import difflib
import logging
import sys
from collections.abc import Sequence

import anchorkit  # noqa: F401  first: it hides a warning that importing detectron2 raises

# isort: split
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.analysis import activation_count_operators, parameter_count_table
from tabulate import tabulate
from torch import nn

from anchorkit.analysis import Network, build_input, build_meta_model, count_macs, count_parameters
from anchorkit.config import load_config
from anchorkit.errors import UserError, exit_status
from anchorkit.modeling.meta_arch import ImageClassifier


def parameters(cfg: CfgNode, size: Sequence[int] | None) -> str:
    model = build_meta_model(cfg)
    depth = table_depth(model)
    trained = sum(tensor.numel() for tensor in model.parameters() if tensor.requires_grad)
    total = count_parameters(model)
    return (
        f"{total:,} parameters with those of frozen normalisation; {trained:,} are trained\n\n"
        f"{parameter_count_table(model, max_depth=depth)}"
    )


def flops(cfg: CfgNode, size: Sequence[int] | None) -> str:
    model, batch = build_meta_model(cfg), build_input(cfg, size)
    macs = count_macs(model, batch)
    depth = table_depth(model)
    modules = [name for name, _ in model.named_modules() if name.count(".") < depth]
    rows = [(name or "model", macs[name] / 1e9) for name in modules if name in macs]
    table = tabulate(rows, headers=("module", "GMACs"), floatfmt=".3f", tablefmt="pipe")
    return (
        f"{macs['']:,} multiply-accumulates of convolutions, linear layers and attention, for an "
        f"image of {image_size(batch)}\n\n{table}"
    )


def activations(cfg: CfgNode, size: Sequence[int] | None) -> str:
    # detectron2 counts while it traces a run, which the meta device does not allow.
    cfg.MODEL.DEVICE = "cpu"
    batch = build_input(cfg, size, device="cpu")
    with torch.no_grad():
        millions = activation_count_operators(Network(build_model(cfg)), batch)
    table = tabulate(millions.items(), headers=("operator", "millions"), tablefmt="pipe")
    return (
        f"{sum(millions.values()):.2f} M activations, which are outputs of convolutions and matrix "
        f"products, for an image of {image_size(batch)}\n\n{table}"
    )


def structure(cfg: CfgNode, size: Sequence[int] | None) -> str:
    return str(build_meta_model(cfg))


TASKS = {
    "parameter": parameters,
    "flop": flops,
    "activation": activations,
    "structure": structure,
}


def table_depth(model: nn.Module) -> int:
    """Modules within modules that a table shows; the bodies of libraries lie one deeper."""
    return 3 if isinstance(model, ImageClassifier) else 2


def image_size(batch: list[dict]) -> str:
    return " x ".join(map(str, batch[0]["image"].shape[1:]))


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", required=True, metavar="FILE", help="of the model")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"),
        help="of the image in pixels (the config's in testing)",
    )  # fmt: skip
    parser.add_argument(
        "--tasks", nargs="+", required=True, metavar="TASK",
        help=f"any of {', '.join(TASKS)}; KEY VALUE pairs that override the config may follow",
    )  # fmt: skip
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    return parser


def split_tasks(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The tasks at the beginning, and the overrides of config keys behind them."""
    number = next((n for n, word in enumerate(words) if word not in TASKS), len(words))
    tasks, opts = list(words[:number]), list(words[number:])
    if not tasks or (opts and "." not in opts[0]):
        nearest = difflib.get_close_matches(words[number], TASKS, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(TASKS)}"
        raise UserError(f"--tasks: there is no {words[number]!r}; {hint}")
    return tasks, opts


def main(args: argparse.Namespace) -> None:
    tasks, opts = split_tasks(args.tasks)
    if args.size and min(args.size) < 1:
        raise UserError(f"--size {args.size[0]} {args.size[1]}: both must be at least 1 pixel")
    cfg = load_config(args.config_file, [*opts, *args.opts])
    # fvcore tells of each operator that it does not count.
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    for task in tasks:
        try:
            text = TASKS[task](cfg, args.size)
        except (RuntimeError, AssertionError) as error:
            if not args.size:
                raise
            height, width = args.size
            raise UserError(
                f"--size {height} {width}: this model cannot take such an image: {error}"
            ) from error
        print(f"{task}: {text}\n")


def run() -> int:
    """Run the command line; returns the exit status."""
    args = argument_parser().parse_args()
    return exit_status("analyze_model", lambda: main(args))


if __name__ == "__main__":
    sys.exit(run())
