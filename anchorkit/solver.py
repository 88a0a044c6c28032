"""The optimizers and learning-rate schedules that a config can name."""

import math
from collections.abc import Mapping

import torch
from detectron2 import solver
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LRScheduler, OneCycleLR

from .config import check_choice
from .errors import UserError

ADAM_KINDS = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}
OPTIMIZERS = ("SGD", *ADAM_KINDS)
# Parts of the names of metrics whose best value is the smallest one.
LOWER_IS_BETTER = ("loss", "error", "iou_lost", "wrong_survivors", "label_step")
SCHEDULES = ("WarmupMultiStepLR", "WarmupCosineLR", "SGDR", "OneCycleLR")


def build_optimizer(cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimizer of ``SOLVER.OPTIMIZER``, with detectron2's parameter groups and clipping.

    "SGD" is detectron2's own. The others read the same keys but MOMENTUM and NESTEROV; "Adam" adds
    the decay to the gradient, "AdamW" takes it off the weight. Swin's position biases are not
    decayed, as in its authors' recipes.
    """
    name = check_choice("SOLVER.OPTIMIZER", cfg.SOLVER.OPTIMIZER, OPTIMIZERS)
    if name == "SGD":
        return solver.build_optimizer(cfg, model)
    parameters = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
        overrides={"relative_position_bias_table": {"weight_decay": 0.0}},
    )
    optimizer = maybe_add_gradient_clipping(cfg, ADAM_KINDS[name])
    # Fused, a small model's training on a CPU takes 8 % less time. Under AMP a fused optimizer
    # would unscale the gradients itself, after they were clipped.
    return optimizer(
        parameters,
        lr=cfg.SOLVER.BASE_LR,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        fused=not cfg.SOLVER.AMP.ENABLED,
    )


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """The schedule of ``SOLVER.LR_SCHEDULER_NAME``, which makes a step after every iteration.

    "SGDR" and "OneCycleLR" are torch's, the others detectron2's.

    Raises:
        UserError: see :func:`check_schedule`.
    """
    check_schedule(cfg)
    name = cfg.SOLVER.LR_SCHEDULER_NAME
    if name == "SGDR":
        keys = cfg.SOLVER.SGDR
        return CosineAnnealingWarmRestarts(optimizer, T_0=keys.ITERS, T_mult=keys.MULTIPLY)
    if name == "OneCycleLR":
        # Group by group: biases may have a rate of their own.
        max_rates = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, max_lr=max_rates, total_steps=cfg.SOLVER.MAX_ITER)
    return solver.build_lr_scheduler(cfg, optimizer)


def check_schedule(cfg: CfgNode) -> None:
    """Raise a :class:`UserError` for a schedule that is not known or makes no sense."""
    keys = cfg.SOLVER
    name = check_choice("SOLVER.LR_SCHEDULER_NAME", keys.LR_SCHEDULER_NAME, SCHEDULES)
    for key, value, least in (
        ("STEP_EPOCHS", keys.STEP_EPOCHS, 0),
        ("SGDR.EPOCHS", keys.SGDR.EPOCHS, 0),
        ("SGDR.ITERS", keys.SGDR.ITERS, 0),
        ("SGDR.MULTIPLY", keys.SGDR.MULTIPLY, 1),
    ):
        if value < least:
            raise UserError(f"SOLVER.{key} is {value}; it must be at least {least}")
    if keys.STEP_EPOCHS > 0 and name != "WarmupMultiStepLR":
        raise UserError(
            f"SOLVER.STEP_EPOCHS is {keys.STEP_EPOCHS}, but SOLVER.LR_SCHEDULER_NAME {name!r} has "
            "no steps; set 0, or the name 'WarmupMultiStepLR'"
        )
    if name == "SGDR" and keys.SGDR.EPOCHS == keys.SGDR.ITERS == 0:
        raise UserError(
            "SOLVER.SGDR.EPOCHS and SOLVER.SGDR.ITERS are 0; SOLVER.LR_SCHEDULER_NAME 'SGDR' needs "
            "the length of its first cycle"
        )


def check_best_metric(cfg: CfgNode) -> None:
    """Raise a :class:`UserError` for a best metric or an early stop that cannot be."""
    solver, stop = cfg.SOLVER, cfg.SOLVER.EARLY_STOP
    check_choice("SOLVER.BEST_METRIC_MODE", solver.BEST_METRIC_MODE, ("auto", "max", "min"))
    for key, value in stop.items():
        if not 0 <= value < math.inf:
            raise UserError(f"SOLVER.EARLY_STOP.{key} is {value}; it must be 0 or more")
    if "validation/loss" in solver.BEST_METRIC and not cfg.TEST.VALIDATION_LOSS:
        raise UserError(
            f"SOLVER.BEST_METRIC {solver.BEST_METRIC!r} is not computed; set TEST.VALIDATION_LOSS "
            "True"
        )
    if stop.PATIENCE == 0:
        return
    if not (solver.BEST_METRIC and cfg.DATASETS.TEST):
        raise UserError(
            "SOLVER.EARLY_STOP needs SOLVER.BEST_METRIC, and DATASETS.TEST to compute it on; one "
            "of them is empty: fill it, or set SOLVER.EARLY_STOP.PATIENCE 0"
        )
    if cfg.TEST.EVAL_PERIOD <= 0 and cfg.TEST.EVAL_EPOCHS <= 0:
        raise UserError(
            f"SOLVER.EARLY_STOP.PATIENCE is {stop.PATIENCE} evaluations, but TEST.EVAL_PERIOD is 0:"
            " nothing is evaluated before the end; set it, or SOLVER.EARLY_STOP.PATIENCE 0"
        )


def is_lower_better(cfg: CfgNode) -> bool:
    """Whether the best value of ``SOLVER.BEST_METRIC`` is the smallest one."""
    mode = cfg.SOLVER.BEST_METRIC_MODE
    if mode != "auto":
        return mode == "min"
    # "<data set>/<task>/<metric>-<class>": the other parts are anybody's names.
    metric = cfg.SOLVER.BEST_METRIC.rpartition("/")[2].partition("-")[0]
    return any(word in metric for word in LOWER_IS_BETTER)


def scale_learning_rate(cfg: CfgNode) -> str:
    """Multiply ``SOLVER.BASE_LR``, in place, by the batch over ``SOLVER.REFERENCE_BATCH``.

    The reference becomes the batch, so that a config that was written out is not scaled again.
    Do it before ``SOLVER.REFERENCE_WORLD_SIZE`` is looked at, which scales batch and rate alike.

    Returns:
        One line about what was done; "" where the reference is 0.
    """
    solver, reference = cfg.SOLVER, cfg.SOLVER.REFERENCE_BATCH
    if reference == 0:
        return ""
    if reference < 0:
        raise UserError(f"SOLVER.REFERENCE_BATCH is {reference}; it must be 0 (off) or more")
    batch = solver.IMS_PER_BATCH * solver.ACCUMULATION_STEPS
    before = solver.BASE_LR
    solver.BASE_LR = before * batch / reference
    solver.REFERENCE_BATCH = batch
    return (
        f"SOLVER.BASE_LR {before:g} is for {reference} images a step (SOLVER.REFERENCE_BATCH); for "
        f"{batch} it is {solver.BASE_LR:g}; the iterations of warm-up and schedule stay"
    )


def load_schedule(scheduler: LRScheduler, state: Mapping) -> None:
    """Load the state of a schedule of the same kind and length.

    Raises:
        ValueError: another kind or length. torch's schedules keep their length in their state, so
            that the config's would be forgotten without a word.
    """
    own = _lengths(scheduler.state_dict())
    theirs = _lengths(state)
    if own != theirs:
        raise ValueError(f"the schedule's lengths in iterations are {theirs}, now {own}")
    scheduler.load_state_dict(state)


def _lengths(state: Mapping) -> dict[str, int]:
    """What makes the length of torch's schedules; detectron2's do not keep theirs."""
    return {name: state[name] for name in ("total_steps", "T_0", "T_mult") if name in state}
