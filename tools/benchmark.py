#!/usr/bin/env python
"""Measure speed and memory beside detectron2's and torchvision's code.

    python tools/benchmark.py --markdown BENCHMARKS.md --plot docs/scaling.png   # make bench
    python tools/benchmark.py --sections labels options

Each section's figures go to the JSON file as soon as they are there. Sections that are not asked
for keep the figures that the file has, so that one can be measured again alone.
"""

import argparse
import json
import os

import torch
from benchmarks.around import around_the_network
from benchmarks.classifiers import classifiers
from benchmarks.detectors import labels, memory, speed
from benchmarks.options import options
from benchmarks.page import draw_scaling, markdown
from benchmarks.scaling import scaling

from anchorkit.checkpoint import write_atomically
from anchorkit.machine import hardware
from anchorkit.visualization import save_figure

SECTIONS = {
    "speed": speed,
    "around": around_the_network,
    "labels": labels,
    "memory": memory,
    "scaling": scaling,
    "classifiers": classifiers,
    "options": options,
}


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="(all)"
    )
    parser.add_argument(
        "--output", default="output/benchmark.json", metavar="FILE", help="figures (%(default)s)"
    )
    parser.add_argument("--markdown", metavar="FILE", help="page of all figures")
    parser.add_argument("--plot", metavar="FILE", help="picture of the section scaling, a .png")
    parser.add_argument(
        "--rounds", type=int, default=10, metavar="N", help="turns of an inference (10)"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--quick", action="store_true", help="small, to see that all of it works; once with "
        "--rounds 1"
    )  # fmt: skip
    return parser


def main(args: argparse.Namespace) -> None:
    args.depth = 18 if args.quick else 50
    sections = {}
    if os.path.exists(args.output):
        with open(args.output, encoding="utf-8") as file:
            sections = json.load(file)
    for name in args.sections:
        print(f"measuring {name}", flush=True)
        tables = SECTIONS[name](args)
        sections[name] = {"hardware": hardware(args.device), "tables": tables}
        # In the order of SECTIONS, whichever was measured first.
        sections = {name: sections[name] for name in SECTIONS if name in sections}
        os.makedirs(os.path.dirname(args.output) or ".", exist_ok=True)
        text = json.dumps(sections, indent=1)
        write_atomically(args.output, lambda file, text=text: file.write(text.encode()))
    plot = None
    if args.plot and "scaling" in sections:
        save_figure(draw_scaling(sections["scaling"]["tables"]), args.plot, dpi=110)
        plot = os.path.relpath(args.plot, os.path.dirname(args.markdown or "") or ".")
    page = markdown(sections, plot)
    print(page)
    if args.markdown:
        write_atomically(args.markdown, lambda file: file.write(page.encode()))


if __name__ == "__main__":
    main(argument_parser().parse_args())
