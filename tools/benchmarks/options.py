"""Memory layout, mixed precision and compilation of a detector and a classifier."""

import argparse
import tempfile
import time
from collections.abc import Callable

import torch

from anchorkit.modeling.compilation import compile_networks

from . import models as zoo
from .classifiers import BATCH, CROSS_ENTROPY, SET_NAME, noise, registered, steps_of
from .detectors import infer, train
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
        inference[row] = _in_precision(args, PRECISION in keys, infer, model, data)
        training[row] = _in_precision(args, PRECISION in keys, train, model, data)
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
    args: argparse.Namespace, mixed: bool, function: Callable, *arguments: object
) -> Callable[[], None]:
    kind = torch.device(args.device).type
    dtype = torch.bfloat16 if kind == "cpu" else torch.float16

    def run() -> None:
        with torch.autocast(kind, dtype=dtype, enabled=mixed):
            function(*arguments)

    return run


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
