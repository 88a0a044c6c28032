"""The training losses on a test set, computed beside a training without a trace in it."""

import contextlib
import copy
import random
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from ..data.validation import build_validation_batches
from ..errors import UserError
from ..modeling.meta_arch import ImageClassifier


def validation_losses(cfg: CfgNode, model: nn.Module, dataset_name: str) -> dict[str, float]:
    """Mean losses over a set's images; all ranks must call it.

    A copy of the model computes them, so that what it keeps of a batch, such as OAT's centre or a
    normaliser, stays as it is. Batch normalisation and dropout work as in testing, and the random
    state is as before. The batches have training's size, since the losses are divided by counts
    of a batch.

    Args:
        cfg: the run's config.
        model: a dense detector or a classifier.
        dataset_name: a set with ground truth.

    Returns:
        "loss", the sum, and each loss by its name; the same on all ranks.

    Raises:
        UserError: another kind of model, or no ground truth.
    """
    if not isinstance(model, DenseDetector | ImageClassifier):
        raise UserError(
            f"TEST.VALIDATION_LOSS is for dense detectors and classifiers, not for "
            f"{type(model).__name__}; set it False"
        )
    model = copy.deepcopy(model).eval()
    model.training = True  # of the model alone, which then gives losses; not of its layers
    sums, num_images = defaultdict(float), 0
    # The storage takes what a model logs of its batches. Scripted losses round as in a training.
    with (
        _random_state_kept(model),
        torch.no_grad(),
        EventStorage(1),
        torch.jit.optimized_execution(False),
    ):
        for batch in build_validation_batches(cfg, dataset_name):
            for name, value in model(batch).items():
                sums[name] += value.double() * len(batch)
            num_images += len(batch)
    ranks = comm.all_gather(({name: float(value) for name, value in sums.items()}, num_images))
    total = sum(number for _, number in ranks)
    names = sorted({name for losses, _ in ranks for name in losses})
    means = {name: sum(losses.get(name, 0.0) for losses, _ in ranks) / total for name in names}
    return {"loss": sum(means.values()), **means}


@contextlib.contextmanager
def _random_state_kept(model: nn.Module) -> Iterator[None]:
    """Within the block random numbers are always the same; after it they go on as before."""
    states = np.random.get_state(), random.getstate()
    device = next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        try:
            yield
        finally:
            np.random.set_state(states[0])
            random.setstate(states[1])
