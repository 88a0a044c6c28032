"""Detectors beside detectron2's and torchvision's: inference, training, labels, memory."""

import argparse
import statistics
from collections.abc import Callable, Iterable

import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import EventStorage
from torch import nn

from . import models as zoo
from .timing import added_memory, alternate, in_fresh_process, table_of_times

SIZES = ((480, 640), (800, 1088))
SSD_SIZE = (300, 300)
THROUGHPUT_BATCH = 4
LABEL_SIZE = (800, 1333)
NETWORK_ONLY = (
    "Scores of untrained models stay below the threshold, so that all pay for the network and the "
    "search for candidates, and for no suppression."
)


def families_and_sizes(
    args: argparse.Namespace,
) -> Iterable[tuple[str, tuple[str, ...], tuple[int, int]]]:
    """Each family with the rows of its table, at each size."""
    sizes = ((160, 160),) if args.quick else SIZES
    for family, names in zoo.FAMILIES.items():
        for size in (SSD_SIZE,) if family == "SSD300" else sizes:
            yield family, names, size


def title_of(kind: str, family: str, size: tuple[int, int], args: argparse.Namespace) -> str:
    body = "VGG-16" if family == "SSD300" else f"R-{args.depth}"
    return f"{kind}, {family}, {size[0]} x {size[1]}, {body}"


def infer(model: nn.Module, data: list[dict]) -> None:
    model.eval()
    with torch.no_grad():
        model(data)


def train(model: nn.Module, data: list[dict]) -> None:
    """Forward and backward pass."""
    model.train()
    model.zero_grad()
    with EventStorage():
        sum(model(data).values()).backward()


def speed(args: argparse.Namespace) -> dict[str, dict]:
    """Inference of one image and of a batch, and training steps."""
    tables = {}
    for family, names, size in families_and_sizes(args):
        models = {name: zoo.build(name, args.device, args.depth) for name in names}
        peers = [name for name in names if name in zoo.PEERS]
        data = [zoo.random_input(*size)]

        def table(run: Callable, data: list[dict], rounds: int, note: str) -> dict:
            calls = {name: lambda m=model: run(m, data) for name, model in models.items()}  # noqa: B023
            return table_of_times(
                alternate(calls, rounds), names[0], peers, images=len(data), note=note  # noqa: B023
            )  # fmt: skip

        tables[title_of("Inference", family, size, args)] = table(
            infer, data, args.rounds, f"One image. {NETWORK_ONLY}"
        )
        # A training step takes as long as three inferences.
        few = max(1, args.rounds // 2)
        note = "Forward and backward pass of one image with 10 boxes."
        tables[title_of("Training step", family, size, args)] = table(train, data, few, note)
        if size != SIZES[1]:
            batch = data * THROUGHPUT_BATCH
            note = f"{len(batch)} images at a time."
            tables[title_of("Throughput", family, size, args)] = table(infer, batch, few, note)
    return tables


def labels(args: argparse.Namespace) -> dict[str, dict]:
    """Labelling of the same anchors, or locations, of one image by both codes."""
    tables = {}
    maps = zoo.feature_maps(*LABEL_SIZE)
    anchored = zoo.build("semi-anchored RetinaNet, 25 anchors", args.device, 18)
    anchors = anchored.anchor_generator([level.to(anchored.device) for level in maps])
    grids = {"semi-anchored assigner": (anchored, zoo.grid_of(anchored, maps))}
    points = {}
    for name in ("DSLA on FCOS", "FCOS", "DSLA on FoveaBox", "FoveaBox"):
        model = zoo.build(name, args.device, 18)
        points[name] = (model, zoo.grid_of(model, maps))
    detectron2 = zoo.detectron2_fcos(args.device, 18)
    matcher = Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=True)
    size = f"{LABEL_SIZE[0]} x {LABEL_SIZE[1]}"

    def random_boxes(count: int) -> Instances:
        return zoo.random_instances(*LABEL_SIZE, count).to(anchored.device)

    for num_boxes in (10, 100):
        instances = random_boxes(num_boxes)

        @torch.no_grad()
        def detectron2_retinanet(instances=instances) -> None:
            index, labels = matcher(pairwise_iou(instances.gt_boxes, Boxes.cat(anchors)))
            classes = instances.gt_classes[index]
            classes[labels == 0] = 80
            classes[labels == -1] = -1
            instances.gt_boxes.tensor[index]

        def detectron2_fcos(instances=instances) -> None:
            levels = detectron2.anchor_generator(maps)
            detectron2.label_anchors(levels, [instances])

        def ours(models: dict, instances=instances) -> dict[str, Callable]:
            return {
                name: lambda m=model, g=grid: m.assigner(g, instances)
                for name, (model, grid) in models.items()
            }

        name = "detectron2 RetinaNet labelling"
        calls = ours(grids) | {name: detectron2_retinanet}
        tables[f"Labelling, {size}, {num_boxes} boxes, 557,500 anchors"] = table_of_times(
            alternate(calls, args.rounds), name
        )
        name = "detectron2 FCOS labelling"
        calls = ours(points) | {name: detectron2_fcos}
        tables[f"Labelling, {size}, {num_boxes} boxes, 22,400 locations"] = table_of_times(
            alternate(calls, args.rounds), name
        )
    counts = (10, 100) if args.quick else (10, 100, 1000)
    images = {count: random_boxes(count) for count in counts}
    rows = []
    for name, (model, grid) in (grids | points).items():
        calls = {
            count: lambda m=model, g=grid, i=instances: m.assigner(g, i)
            for count, instances in images.items()
        }
        times = alternate(calls, max(1, args.rounds // 2))
        rows.append([name, *(round(statistics.median(each), 1) for each in times.values())])
    tables[f"Labelling, {size}, growth with boxes"] = {
        "note": "Linear growth is a factor of ten from column to column.",
        "columns": ["what", *(f"{count:,} boxes, ms" for count in images)],
        "rows": rows,
    }
    return tables


def memory(args: argparse.Namespace) -> dict[str, dict]:
    """Peaks of inference, training and labelling, each in a process of its own."""
    size = (160, 160) if args.quick else SIZES[1]
    tables = {}
    for family, names in zoo.FAMILIES.items():
        image = SSD_SIZE if family == "SSD300" else size
        rows = []
        for name in names:
            fields = (name, args.device, args.depth, image)
            peaks = in_fresh_process("detectors", "_peaks", *fields)
            rows.append([name, *(round(peak) for peak in peaks)])
        tables[title_of("Memory", family, image, args)] = {
            "note": "Above the model's weights; the step includes the gradients.",
            "columns": ["what", "inference MB", "training step MB"],
            "rows": rows,
        }
    rows = []
    for name in ("semi-anchored RetinaNet, 25 anchors", "DSLA on FCOS", "FCOS"):
        boxes = (100,) if args.quick else (10, 100, 1000)
        peaks = [in_fresh_process("detectors", "_label_peak", name, n)[0] for n in boxes]
        rows.append([name, *(round(peak) for peak in peaks)])
    tables[f"Memory of labelling one {LABEL_SIZE[0]} x {LABEL_SIZE[1]} image"] = {
        "note": "557,500 anchors, or 22,400 locations; on a CPU.",
        "columns": ["what", *(f"{n} boxes, MB" for n in boxes)],
        "rows": rows,
    }
    return tables


def _peaks(name: str, device: str, depth: int, size: tuple[int, int]) -> tuple[float, float]:
    model = zoo.build(name, device, depth)
    data = [zoo.random_input(*size)]
    small = data if size == SSD_SIZE else [zoo.random_input(128, 128)]
    infer(model, small)  # what libraries load at their first use is not counted
    inference = added_memory(lambda: infer(model, data))
    train(model, small)
    model.zero_grad()
    return inference, added_memory(lambda: train(model, data))


def _label_peak(name: str, num_boxes: int) -> tuple[float]:
    model = zoo.build(name, "cpu", 18)
    grid = zoo.grid_of(model, zoo.feature_maps(*LABEL_SIZE))
    instances = zoo.random_instances(*LABEL_SIZE, num_boxes)
    model.assigner(grid, instances[:1])
    return (added_memory(lambda: model.assigner(grid, instances)),)
