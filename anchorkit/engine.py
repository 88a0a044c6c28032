"""The training command: arguments, checks of the config, training or evaluation alone."""

import argparse
import ctypes
import difflib
import logging
import math
import os
import time

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from . import modeling  # noqa: F401  registers the meta-architectures
from .checkpoint import Checkpointer
from .closing import closing_note
from .config import check_choice, check_registered, load_config
from .data import (
    check_classes,
    check_datasets,
    check_files,
    is_image_set,
    is_multi_label,
    register_datasets,
)
from .data.image_batches import iterations_per_epoch
from .errors import UserError
from .evaluation import check_test_augmentation, evaluate
from .launch import launch
from .modeling.meta_arch import ImageClassifier
from .modeling.meta_arch.classifier import MULTI_LABEL_METHODS, SINGLE_LABEL_METHODS
from .solver import check_best_metric, check_schedule, scale_learning_rate
from .trainer import Trainer, verify

__all__ = ["Trainer", "argument_parser", "launch", "main", "setup"]

logger = logging.getLogger(__name__)

# glibc's malloc.h: freed memory beyond the first goes back to the system, blocks from the second on
# are taken from it one by one; 32 MiB is the largest that it accepts.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def argument_parser() -> argparse.ArgumentParser:
    """detectron2's arguments and ``--max-time``."""
    parser = default_argument_parser()
    parser.add_argument(
        "--max-time",
        type=_positive_seconds,
        metavar="S",
        help="stop training S seconds after the start, with a checkpoint to --resume from",
    )
    # A free port: two runs on one machine do not disturb each other.
    parser.set_defaults(dist_url="auto")
    return parser


def setup(args: argparse.Namespace) -> CfgNode:
    """Load and check the config, then start logging; nothing is built before all checks passed.

    Args:
        args: of :func:`argument_parser`.

    Returns:
        The frozen config.

    Raises:
        UserError: anything the user can mend: unknown keys, missing files, data sets or weights.
    """
    cfg = load_config(args.config_file, args.opts)
    _check_model(cfg)
    _check_solver(cfg, args)
    _check_weights(cfg, args)
    # One process of a machine first: it may write files, such as the digit scenes.
    is_first = comm.get_local_rank() == 0
    if is_first:
        _check_data(cfg, train=not args.eval_only)
    comm.synchronize()
    if not is_first:
        _check_data(cfg, train=not args.eval_only)
    scaling = ""
    if not args.eval_only:
        resolve_epochs(cfg)
        scaling = scale_learning_rate(cfg)
    wanted_device = cfg.MODEL.DEVICE
    if wanted_device.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    cfg.freeze()
    try:
        os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="anchorkit")
        default_setup(cfg, args)
    except OSError as error:
        raise UserError(f"OUTPUT_DIR {cfg.OUTPUT_DIR}: cannot be written: {error}") from error
    if cfg.MODEL.DEVICE != wanted_device:
        logger.warning("MODEL.DEVICE is %s, but there is no CUDA device: using cpu", wanted_device)
    if scaling:
        logger.info("%s", scaling)
    if cfg.SEED >= 0:
        _make_deterministic()
    if cfg.MODEL.DEVICE == "cpu":
        _keep_freed_memory()
    return cfg


def main(args: argparse.Namespace) -> dict:
    """Train, or only evaluate, as the command line says; runs in every process.

    Returns:
        The results by data set, task and metric (on the main process).
    """
    started = time.monotonic()
    cfg = setup(args)
    if args.eval_only:
        return _evaluate_only(cfg, args)
    check_datasets(cfg)
    trainer = Trainer(cfg, max_seconds=args.max_time, started=started)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def _evaluate_only(cfg: CfgNode, args: argparse.Namespace) -> dict:
    model = Trainer.build_model(cfg)
    checkpointer = Checkpointer(model, cfg.OUTPUT_DIR)
    path = cfg.MODEL.WEIGHTS
    if args.resume and checkpointer.has_checkpoint():
        path = checkpointer.get_checkpoint_file()
    checkpointer.load_weights(path, use_average=cfg.SOLVER.EMA.ENABLED)
    results = evaluate(cfg, model, num_pictures=cfg.TEST.NUM_PICTURES)
    if comm.is_main_process():
        logger.info(closing_note(cfg, path))
        verify(cfg, results)
    return results


def _make_deterministic() -> None:
    """Same seed, same weights also on CUDA, as far as torch has such kernels; some are slower."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False


def _keep_freed_memory() -> None:
    """Keep the memory of a step for the next one, where the C library is glibc.

    By default large blocks go back to the system when they are freed. A step on a CPU then asks
    for all of its activations anew, which takes a tenth of the time of a small model.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 2**30)
        mallopt(_M_MMAP_THRESHOLD, 2**25)


def _positive_seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number of seconds, got {text}")
    return seconds


def _check_data(cfg: CfgNode, *, train: bool) -> None:
    register_datasets(cfg)
    if train:
        check_registered(cfg.DATASETS.TRAIN, "DATASETS.TRAIN")
    check_registered(cfg.DATASETS.TEST, "DATASETS.TEST")
    _check_task(cfg, train=train)
    check_files(cfg, train=train)
    check_classes(cfg, train=train)


def resolve_epochs(cfg: CfgNode) -> None:
    """Turn a classifier's epochs into iterations, in place.

    Raises:
        UserError: a detector, whose batches do not make epochs, or what
            :func:`iterations_per_epoch` raises.
    """
    solver = cfg.SOLVER
    is_sgdr = solver.LR_SCHEDULER_NAME == "SGDR"
    epochs = {
        "SOLVER.MAX_EPOCHS": solver.MAX_EPOCHS,
        "SOLVER.STEP_EPOCHS": solver.STEP_EPOCHS,
        "SOLVER.SGDR.EPOCHS": solver.SGDR.EPOCHS if is_sgdr else 0,
        "TEST.EVAL_EPOCHS": cfg.TEST.EVAL_EPOCHS,
    }
    given = [key for key, number in epochs.items() if number > 0]
    if not given:
        return
    if cfg.MODEL.META_ARCHITECTURE != ImageClassifier.__name__:
        raise UserError(
            f"{given[0]} is {epochs[given[0]]}, but only a classifier counts epochs; for "
            f"{cfg.MODEL.META_ARCHITECTURE} set 0 and give iterations"
        )
    iterations = iterations_per_epoch(cfg)
    if solver.MAX_EPOCHS > 0:
        solver.MAX_ITER = solver.MAX_EPOCHS * iterations
    if solver.STEP_EPOCHS > 0:
        step = solver.STEP_EPOCHS * iterations
        solver.STEPS = tuple(range(step, solver.MAX_ITER, step))
    if is_sgdr and solver.SGDR.EPOCHS > 0:
        solver.SGDR.ITERS = solver.SGDR.EPOCHS * iterations
    if cfg.TEST.EVAL_EPOCHS > 0:
        cfg.TEST.EVAL_PERIOD = cfg.TEST.EVAL_EPOCHS * iterations


def _check_task(cfg: CfgNode, *, train: bool) -> None:
    """A classifier needs classification sets, and a detector needs others."""
    classifies = cfg.MODEL.META_ARCHITECTURE == ImageClassifier.__name__
    for name in (*(cfg.DATASETS.TRAIN if train else ()), *cfg.DATASETS.TEST):
        if is_image_set(name) != classifies:
            kind = "classification" if is_image_set(name) else "detection"
            wanted = "a classification" if classifies else "a detection"
            hint = f", such as {name}_multi_label" if classifies else ""
            raise UserError(
                f"{name} is a {kind} set; {cfg.MODEL.META_ARCHITECTURE} needs {wanted} set in "
                f"DATASETS.TRAIN and TEST{hint}"
            )
        if not classifies:
            continue
        methods, others = SINGLE_LABEL_METHODS, MULTI_LABEL_METHODS
        if is_multi_label(name):
            methods, others = others, methods
        method = cfg.MODEL.CLASSIFIER.METHOD
        check_choice("MODEL.CLASSIFIER.METHOD", method, (*methods, *others))
        if method in others:
            number = "any number of classes" if is_multi_label(name) else "one class"
            raise UserError(
                f"an image of {name} has {number}, and MODEL.CLASSIFIER.METHOD {method!r} is not "
                f"for that; choose {' or '.join(map(repr, methods))}, or another data set"
            )


def _check_model(cfg: CfgNode) -> None:
    for key, name, registry in (
        ("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, META_ARCH_REGISTRY),
        ("MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME, BACKBONE_REGISTRY),
    ):
        if name not in registry:
            known = [known_name for known_name, _ in registry]
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(known)}"
            raise UserError(f"{key}: there is no {name!r}; {hint}")
    check_test_augmentation(cfg)


def _check_solver(cfg: CfgNode, args: argparse.Namespace) -> None:
    if args.eval_only:
        if not cfg.DATASETS.TEST:
            raise UserError("--eval-only evaluates DATASETS.TEST, which is empty")
        return
    if not cfg.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN is empty; name at least one data set to train on")
    solver = cfg.SOLVER
    for key, value in (
        ("MAX_ITER", solver.MAX_ITER),
        ("IMS_PER_BATCH", solver.IMS_PER_BATCH),
        ("ACCUMULATION_STEPS", solver.ACCUMULATION_STEPS),
        ("METRIC_PERIOD", solver.METRIC_PERIOD),
        ("CHECKPOINT_PERIOD", solver.CHECKPOINT_PERIOD),
    ):
        if value < 1:
            raise UserError(f"SOLVER.{key} is {value}; it must be at least 1")
    check_schedule(cfg)
    check_best_metric(cfg)
    if not 0.0 <= solver.EMA.DECAY < 1.0:
        raise UserError(f"SOLVER.EMA.DECAY is {solver.EMA.DECAY}; it must be in [0, 1)")
    if solver.IMS_PER_BATCH % comm.get_world_size():
        raise UserError(
            f"SOLVER.IMS_PER_BATCH {solver.IMS_PER_BATCH} is the number of images over all "
            f"processes and must be a multiple of their number, {comm.get_world_size()}"
        )


def _check_weights(cfg: CfgNode, args: argparse.Namespace) -> None:
    if args.resume and os.path.isfile(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint")):
        return  # the weights come from there
    path = cfg.MODEL.WEIGHTS
    if args.eval_only and not path:
        raise UserError(
            "--eval-only needs weights: MODEL.WEIGHTS FILE, or --resume for the last checkpoint of "
            f"OUTPUT_DIR {cfg.OUTPUT_DIR}, which has none yet"
        )
    if path and "://" not in path and not os.path.isfile(path):
        folder = os.path.dirname(path) or "."
        there = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        nearest = difflib.get_close_matches(os.path.basename(path), there, n=1)
        hint = f"; did you mean {os.path.join(folder, nearest[0])}?" if nearest else ""
        raise UserError(f"MODEL.WEIGHTS: no file {path}{hint}")
