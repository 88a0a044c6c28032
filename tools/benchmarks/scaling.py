"""How a training step grows with the image, the batch, boxes, anchors and classes."""

import argparse
import math
import time

import torch

from . import models as zoo
from .detectors import train
from .timing import added_memory, in_fresh_process

SIZE = (480, 640)
ANCHORED, POINTS = "semi-anchored RetinaNet, 25 anchors", "DSLA on FCOS"
# What is varied, and its values; the rest stays at one 480 x 640 image with 10 boxes.
AXES: dict[str, tuple] = {
    "area": ((240, 320), SIZE, (800, 1088), (960, 1280)),
    "batch": (1, 2, 4),
    "boxes": (1, 10, 100, 1000),
    "anchors": (1, 9, 25, 49),
    "classes": (1, 80, 365, 1203),
}
QUICK_AXES = {"area": ((160, 160), (160, 320)), "anchors": (1, 9)}


def scaling(args: argparse.Namespace) -> dict[str, dict]:
    tables = {}
    for name in (ANCHORED, POINTS):
        for axis, values in (QUICK_AXES if args.quick else AXES).items():
            if axis == "anchors" and name == POINTS:
                continue
            rows = []
            for value in values:
                rounds = 1 if args.quick else 3
                arguments = (name, args.device, args.depth, axis, value, rounds)
                milliseconds, megabytes = in_fresh_process("scaling", "_point", *arguments)
                rows.append([_text(value), round(milliseconds, 1), round(megabytes)])
            amounts = [math.prod(value) if axis == "area" else value for value in values]
            for column in (1, 2):
                measured = [row[column] for row in rows]
                for index, row in enumerate(rows):
                    row.append(_exponent(amounts, measured, index))
            tables[f"Scaling, {name}, {axis}"] = {
                "note": "",
                "columns": [axis, "step ms", "memory MB", "exponent of time", "of memory"],
                "rows": rows,
                "plot": {"model": name, "axis": axis, "amounts": amounts},
            }
    return tables


def _text(value: int | tuple[int, int]) -> str:
    return " x ".join(map(str, value)) if isinstance(value, tuple) else f"{value:,}"


def _exponent(amounts: list[float], measured: list[float], index: int) -> str:
    """Slope in logarithms from the row before; above 1 the growth is faster than linear."""
    if index == 0:
        return ""
    growth = math.log(measured[index] / measured[index - 1])
    return f"{growth / math.log(amounts[index] / amounts[index - 1]):.2f}"


def _point(
    name: str, device: str, depth: int, axis: str, value: int | tuple[int, int], rounds: int
) -> tuple[float, float]:
    """Milliseconds (the fastest of some steps) and megabytes of a training step."""
    overrides = []
    if axis == "classes":
        overrides = ["MODEL.NUM_CLASSES", str(value)]
    elif axis == "anchors":
        side = math.isqrt(value)
        scales = [[8.0 * 4 * 2**level * 2 ** (i / side) for i in range(side)] for level in range(5)]
        ratios = [[2.0 ** (i - (side - 1) / 2) for i in range(side)]]
        overrides = ["MODEL.ANCHOR_GENERATOR.SIZES", str(scales)]
        overrides += ["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", str(ratios)]
    model = zoo.build(name, device, depth, overrides)
    size = value if axis == "area" else SIZE
    data = [zoo.random_input(*size, num_boxes=value if axis == "boxes" else 10)]
    for sample in data:
        sample["instances"].gt_classes %= model.num_classes
    data *= value if axis == "batch" else 1
    train(model, [zoo.random_input(128, 128, num_boxes=0)])
    model.zero_grad()
    megabytes = added_memory(lambda: train(model, data))
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        train(model, data)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return min(times), megabytes
