"""Measure speed and memory beside detectron2's and torchvision's code, in alternating turns.

Writes the figures to a JSON file and, with ``--markdown``, as a page. Example::

    python tools/benchmark.py --output output/benchmark.json --markdown BENCHMARKS.md
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from detectron2.modeling import build_model
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import EventStorage
from torchvision.models.detection import ssd300_vgg16

import anchorkit.modeling  # noqa: F401  (registers the meta-architectures)
from anchorkit.config import load_config
from anchorkit.machine import hardware

IMAGE_SIZES = ((480, 640), (800, 1088))
# Sides of COCO's boxes span about these pixels at a shorter image side of 800.
BOX_SIDES = (16.0, 500.0)
# In each family the second model is the reference.
MODELS = {
    "semi-anchored RetinaNet, 25 anchors": ("semi_anchored_retinanet_R_50_FPN_1x", {}),
    "RetinaNet twin, 9 anchors": ("retinanet_R_50_FPN_1x", {}),
    "detectron2 RetinaNet, 9 anchors": (
        "retinanet_R_50_FPN_1x",
        {
            "MODEL.META_ARCHITECTURE": "RetinaNet",
            "MODEL.BACKBONE.NAME": "build_retinanet_resnet_fpn_backbone",
            "MODEL.RETINANET.NORM": "",
        },
    ),
}
POINT_MODELS = {
    "DSLA on FCOS": ("dsla_fcos_R_50_FPN_1x", {}),
    "FCOS": ("fcos_R_50_FPN_1x", {}),
}
SSD_MODELS = {
    "semi-anchored SSD300": ("semi_anchored_ssd300_VGG_16_120e", {}),
    "SSD300": ("ssd300_VGG_16_120e", {}),
}
SSD_THRESHOLD = 0.02


def alternate(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each call, one of each function a round, after one round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                times[name].append(1000 * (time.perf_counter() - start))
    return times


def summary(times: dict[str, list[float]], reference: str) -> list[dict]:
    """Median, quartiles, and the median ratio to the reference's call of the same round."""
    rows = []
    for name, values in times.items():
        ratios = [a / b for a, b in zip(values, times[reference], strict=True)]
        quartiles = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
        rows.append(
            {
                "name": name,
                "median_ms": round(statistics.median(values), 2),
                "quartiles_ms": [round(quartiles[0], 2), round(quartiles[2], 2)],
                "ratio": round(statistics.median(ratios), 3),
            }
        )
    return rows


def random_instances(height: int, width: int, num_boxes: int, seed: int = 0) -> Instances:
    """Boxes with log-uniform sides inside an image."""
    generator = torch.Generator().manual_seed(seed)
    low, high = (torch.tensor(side).log() for side in BOX_SIDES)
    sides = (low + (high - low) * torch.rand(num_boxes, 2, generator=generator)).exp()
    image_size = torch.tensor([width, height], dtype=torch.float32)
    sides = torch.minimum(sides, image_size - 1)
    corner = torch.rand(num_boxes, 2, generator=generator) * (image_size - sides)
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.cat([corner, corner + sides], dim=1))
    instances.gt_classes = torch.randint(80, (num_boxes,), generator=generator)
    return instances


class TorchvisionSSD(torch.nn.Module):
    """torchvision's SSD300 for 80 classes, with the inputs and outputs of a detectron2 model."""

    def __init__(self, device: str):
        super().__init__()
        self.device = torch.device(device)
        self.model = ssd300_vgg16(
            weights=None, weights_backbone=None, num_classes=81, score_thresh=SSD_THRESHOLD
        ).to(self.device)

    def forward(self, data: list[dict]):
        images = [sample["image"].to(self.device) / 255 for sample in data]
        if not self.training:
            return self.model(images)
        instances = [sample["instances"].to(self.device) for sample in data]
        targets = [{"boxes": i.gt_boxes.tensor, "labels": i.gt_classes + 1} for i in instances]
        return self.model(images, targets)


def build(name: str, device: str, depth: int):
    """One of the models above for 80 classes with random weights."""
    config, overrides = (MODELS | POINT_MODELS | SSD_MODELS)[name]
    path = os.path.join(
        os.path.dirname(__file__), "..", "configs", "COCO-Detection", f"{config}.yaml"
    )
    pairs = [text for pair in overrides.items() for text in pair]
    pairs += ["MODEL.DEVICE", device, "MODEL.NUM_CLASSES", "80", "MODEL.WEIGHTS", ""]
    if depth < 50 and name not in SSD_MODELS:
        pairs += ["MODEL.RESNETS.DEPTH", str(depth), "MODEL.RESNETS.RES2_OUT_CHANNELS", "64"]
    torch.manual_seed(0)
    return build_model(load_config(path, pairs))


def random_input(height: int, width: int, num_boxes: int = 10) -> dict:
    """One image of noise with boxes, as a data loader gives it."""
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return {"image": image, "instances": random_instances(height, width, num_boxes)}


def benchmark_inference(models: dict, size: tuple[int, int], rounds: int) -> list[dict]:
    """Latency of one image. Scores of untrained models stay below the threshold, so that both
    pay for the network and the search for candidates, and for no suppression."""
    data = [random_input(*size)]
    for model in models.values():
        model.eval()
    with torch.no_grad():
        times = alternate({name: lambda m=m: m(data) for name, m in models.items()}, rounds)
    return summary(times, list(models)[1])


def benchmark_training(models: dict, size: tuple[int, int], rounds: int) -> list[dict]:
    """Forward and backward pass of one image with 10 boxes."""
    data = [random_input(*size)]

    def step(model) -> None:
        model.train()
        model.zero_grad()
        sum(model(data).values()).backward()

    with EventStorage():
        times = alternate({name: lambda m=m: step(m) for name, m in models.items()}, rounds)
    return summary(times, list(models)[1])


def benchmark_labels(models: dict, num_boxes: int, rounds: int) -> list[dict]:
    """Labelling of one 800 x 1333 image with the same 25 anchors a location by both codes."""
    model = next(iter(models.values()))
    height, width = 800, 1333
    features = [level.to(model.device) for level in _feature_maps(height, width)]
    levels = model.grid_anchors(features)
    anchors = model.anchor_generator(features)
    instances = random_instances(height, width, num_boxes).to(model.device)
    matcher = Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=True)

    @torch.no_grad()
    def detectron2_labels():
        index, labels = matcher(pairwise_iou(instances.gt_boxes, Boxes.cat(anchors)))
        classes = instances.gt_classes[index]
        classes[labels == 0] = 80
        classes[labels == -1] = -1
        return instances.gt_boxes.tensor[index], classes

    functions = {
        "semi-anchored assigner": lambda: model.assigner(levels, instances),
        "detectron2 RetinaNet labelling": detectron2_labels,
    }
    return summary(alternate(functions, rounds), "detectron2 RetinaNet labelling")


def benchmark_point_labels(models: dict, num_boxes: int, rounds: int) -> list[dict]:
    """Labelling of the 22,400 locations of one 800 x 1333 image by DSLA and by FCOS."""
    instances = random_instances(800, 1333, num_boxes)
    locations = next(iter(models.values())).grid_locations(_feature_maps(800, 1333))
    functions = {
        name: lambda model=model: model.assigner(locations, instances.to(model.device))
        for name, model in models.items()
    }
    return summary(alternate(functions, rounds), list(models)[1])


def benchmark_model(models: dict, title: str, size: tuple[int, int], rounds: int) -> dict:
    """Tables of an inference and of a training step, which takes as long as three inferences."""
    return {
        f"Inference, {title}": benchmark_inference(models, size, rounds),
        f"Training step, {title}, 10 boxes": benchmark_training(models, size, max(1, rounds // 3)),
    }


def _feature_maps(height: int, width: int) -> list[torch.Tensor]:
    return [torch.zeros(1, 1, -(-height // s), -(-width // s)) for s in (8, 16, 32, 64, 128)]


def label_memory(name: str, num_boxes: int) -> float:
    """Megabytes that labelling one image adds to the peak memory of a fresh process on a CPU."""
    code = f"import benchmark; benchmark._print_label_memory({name!r}, {num_boxes})"
    folder = os.path.dirname(os.path.abspath(__file__))
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(result.stdout.split()[-1])


def _print_label_memory(name: str, num_boxes: int) -> None:
    model = build(name, "cpu", 18)
    maps = _feature_maps(800, 1333)
    levels = model.grid_locations(maps) if name in POINT_MODELS else model.grid_anchors(maps)
    instances = random_instances(800, 1333, num_boxes)
    model.assigner(levels, instances[:1])
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the peak starts again at the present
    before = _peak_memory()
    model.assigner(levels, instances)
    print(_peak_memory() - before)


def _peak_memory() -> float:
    """Megabytes of this process at its largest; ``ru_maxrss`` would include its parent's."""
    with open("/proc/self/status", encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file)
    return int(lines["VmHWM"].split()[0]) / 1024


def markdown(result: dict, script: str) -> str:
    """The result of a script as a page of tables."""
    facts = ", ".join(f"{key} {value}" for key, value in result["hardware"].items())
    lines = [
        "# Benchmarks",
        "",
        f"Made by `python {script} --markdown PAGE`: all rows of a table in one process, in",
        "alternating turns. Ratios are medians over turns to the reference row (1.0).",
        "",
        f"Measured on: {facts}.",
        "",
    ]
    for title, rows in result["tables"].items():
        lines += [f"## {title}", "", "| what | median ms | quartiles | ratio |"]
        lines.append("|---|---|---|---|")
        for row in rows:
            low, high = row["quartiles_ms"]
            lines.append(
                f"| {row['name']} | {row['median_ms']} | {low} to {high} | {row['ratio']} |"
            )
        lines.append("")
    if result.get("label_memory"):
        lines += ["## Memory of labelling one 800 x 1333 image", "", "| what | boxes | MB added |"]
        lines.append("|---|---|---|")
        for row in result["label_memory"]:
            lines.append(f"| {row['name']} | {row['boxes']} | {row['megabytes']:.0f} |")
        lines.append("")
    return "\n".join(lines)


def write_report(result: dict, script: str, output: str, page_file: str | None) -> None:
    """Write a script's result as a JSON file and print its page, which may be kept too."""
    os.makedirs(os.path.dirname(output) or ".", exist_ok=True)
    with open(output, "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)
    page = markdown(result, script)
    print(page)
    if page_file:
        with open(page_file, "w", encoding="utf-8") as file:
            file.write(page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="output/benchmark.json", help="JSON file to write")
    parser.add_argument("--markdown", help="page to write, such as BENCHMARKS.md")
    parser.add_argument("--rounds", type=int, default=10, help="turns of every measurement")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--quick", action="store_true", help="ResNet-18 at 160 x 160, to see that all of it works"
    )
    args = parser.parse_args()
    depth = 18 if args.quick else 50
    models, point_models, ssd_models = (
        {name: build(name, args.device, depth) for name in family}
        for family in (MODELS, POINT_MODELS, SSD_MODELS)
    )
    tables = {}
    for size in ((160, 160),) if args.quick else IMAGE_SIZES:
        for host, family in (("RetinaNet", models), ("FCOS", point_models)):
            title = f"{host}, {size[0]} x {size[1]}, R-{depth}, one image"
            tables |= benchmark_model(family, title, size, args.rounds)
    ssd_models["torchvision SSD300"] = TorchvisionSSD(args.device)
    tables |= benchmark_model(ssd_models, "SSD300, VGG-16, one image", (300, 300), args.rounds)
    for boxes in (10, 100):
        title = f"Labelling, 800 x 1333, {boxes} boxes, 557,500 anchors"
        tables[title] = benchmark_labels(models, boxes, args.rounds)
        title = f"Labelling, 800 x 1333, {boxes} boxes, 22,400 locations"
        tables[title] = benchmark_point_labels(point_models, boxes, args.rounds)
    memory = [
        {"name": name, "boxes": boxes, "megabytes": round(label_memory(name, boxes), 1)}
        for name in (next(iter(models)), *point_models)
        for boxes in ((100,) if args.quick else (100, 1000))
    ]
    result = {"hardware": hardware(args.device), "tables": tables, "label_memory": memory}
    write_report(result, "tools/benchmark.py", args.output, args.markdown)


if __name__ == "__main__":
    main()
