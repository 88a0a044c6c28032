"""Memory layout, mixed precision and compilation of a detector and a classifier."""

import argparse
import tempfile
import time
from collections.abc import Callable

import torch
from detectron2.utils.events import EventStorage
from torch import nn

from anchorkit.modeling.compilation import compile_networks

from . import models as zoo
from .classifiers import BATCH, CROSS_ENTROPY, SET_NAME, noise, registered, steps_of
from .timing import alternate, table_of_times

SIZE = (480, 640)
DETECTOR = "semi-anchored RetinaNet, 25 anchors"
LAYOUT, PRECISION, COMPILATION = "MODEL.CHANNELS_LAST", "SOLVER.AMP.ENABLED", "MODEL.COMPILE"
# Rows: the keys that are True.
ROWS = {
    "default": (),
    LAYOUT: (LAYOUT,),
    PRECISION: (PRECISION,),
    f"{PRECISION}, {LAYOUT}": (PRECISION, LAYOUT),
    COMPILATION: (COMPILATION,),
}


def options(args: argparse.Namespace) -> dict[str, dict]:
    return _detector_tables(args) | _classifier_table(args)


def _detector_tables(args: argparse.Namespace) -> dict[str, dict]:
    size = (160, 160) if args.quick else SIZE
    data = [zoo.random_input(*size)]
    inference, training, note = {}, {}, "One image."
    # Compilation takes minutes.
    rows = {row: keys for row, keys in ROWS.items() if not (args.quick and COMPILATION in keys)}
    for row, keys in rows.items():
        overrides = [LAYOUT, str(LAYOUT in keys)]
        model = zoo.build(DETECTOR, args.device, args.depth, overrides)
        if COMPILATION in keys:
            compile_networks(model)
        inference[row] = _in_precision(args.device, PRECISION in keys, _infer, model.eval, data)
        training[row] = _in_precision(args.device, PRECISION in keys, _step, model.train, data)
        if COMPILATION in keys:
            start = time.perf_counter()
            inference[row]()
            training[row]()
            seconds = time.perf_counter() - start
            note = f"One image. The first calls of the compiled model took {seconds:.0f} s."
    title = f"{DETECTOR}, {size[0]} x {size[1]}, R-{args.depth}"
    few = max(1, args.rounds // 2)
    return {
        f"Options, inference, {title}": table_of_times(
            alternate(inference, args.rounds), "default", note=note
        ),
        f"Options, training step, {title}": table_of_times(alternate(training, few), "default"),
    }


def _in_precision(
    device: str, mixed: bool, function: Callable, mode: Callable[[], nn.Module], data: list[dict]
) -> Callable[[], None]:
    kind = torch.device(device).type
    dtype = torch.bfloat16 if kind == "cpu" else torch.float16

    def run() -> None:
        with torch.autocast(kind, dtype=dtype, enabled=mixed):
            function(mode(), data)

    return run


@torch.no_grad()
def _infer(model: nn.Module, data: list[dict]) -> None:
    model(data)


def _step(model: nn.Module, data: list[dict]) -> None:
    model.zero_grad()
    with EventStorage():
        sum(model(data).values()).backward()


def _classifier_table(args: argparse.Namespace) -> dict[str, dict]:
    """Epochs of the training command's steps."""
    num_images = 320 if args.quick else 50_000
    images = noise(num_images)
    steps = -(-num_images // BATCH)
    with tempfile.TemporaryDirectory() as folder, registered(SET_NAME, images):

        def epoch(keys: tuple[str, ...]) -> Callable[[], None]:
            pairs = [text for key in keys for text in (key, "True")]
            return steps_of(CROSS_ENTROPY, steps, args.device, folder, pairs)

        epochs = {row: epoch(keys) for row, keys in ROWS.items()}
        times = alternate(epochs, max(1, args.rounds // 4))
    title = f"Options, training, {num_images} images of 32 x 32, lightweight CNN, batch {BATCH}"
    return {title: table_of_times(times, "default", images=num_images)}
