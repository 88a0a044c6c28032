#!/usr/bin/env python
"""Draw how a metric grew over one or more trainings.

    python tools/plot_curves.py output/ce output/oat --labels CE OAT --smoothing 0.6 \\
        --output curves.png

Runs are folders with a metrics.json. Runs with the same label are averaged, with a band of one
standard deviation to both sides. The legend gives the last values, which are never smoothed. The
exit status is 2 for a mistake in the command line or in the files.
"""

import argparse
import os
import sys

import anchorkit  # noqa: F401  first: it hides a warning that importing detectron2 raises

# isort: split
from anchorkit.errors import UserError, exit_status
from anchorkit.evaluation.training_log import average_runs, read_metric
from anchorkit.visualization import draw_curves, save_figure


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="DIR", help="OUTPUT_DIR of a training")
    parser.add_argument(
        "--metric", default="classification/acc1", metavar="NAME",
        help="as metrics.json calls it (classification/acc1)",
    )  # fmt: skip
    parser.add_argument(
        "--labels", nargs="+", metavar="TEXT", help="one for each run (the names of the folders)"
    )
    parser.add_argument(
        "--smoothing", type=float, default=0.0, metavar="B",
        help="weight of what came before in the moving average, from 0 to below 1 (0: none)",
    )  # fmt: skip
    parser.add_argument(
        "--output", default="curves.png", metavar="FILE", help=".png or .pdf (curves.png)"
    )
    return parser


def main(args: argparse.Namespace) -> None:
    labels = args.labels or [os.path.basename(os.path.normpath(run)) for run in args.runs]
    if len(labels) != len(args.runs):
        raise UserError(
            f"--labels: expected one for each of {len(args.runs)} runs, got {len(labels)}"
        )
    if not 0 <= args.smoothing < 1:
        raise UserError(f"--smoothing {args.smoothing:g}: must be at least 0 and below 1")
    if not args.output.endswith((".png", ".pdf")):
        raise UserError(f"--output {args.output}: must end in .png or .pdf")
    runs = {}
    for label, folder in zip(labels, args.runs, strict=True):
        runs.setdefault(label, []).append(read_metric(folder, args.metric))
    curves = {label: average_runs(same) for label, same in runs.items()}
    figure = draw_curves(
        curves, xlabel="iteration", ylabel=args.metric, smoothing=args.smoothing
    )  # fmt: skip
    try:
        os.makedirs(os.path.dirname(args.output) or ".", exist_ok=True)
        save_figure(figure, args.output)
    except OSError as error:
        raise UserError(f"--output {args.output}: cannot be written: {error}") from error
    print(args.output)


def run() -> int:
    """Run the command line; returns the exit status."""
    args = argument_parser().parse_args()
    return exit_status("plot_curves", lambda: main(args))


if __name__ == "__main__":
    sys.exit(run())
