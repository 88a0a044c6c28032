"""Loss normalisers that mean the same on one process and on many."""

from collections.abc import Sequence

import torch
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor

# Reading a count waits for the device: it is done in one of so many iterations.
_LOG_PERIOD = 20


def mean_over_ranks(counts: Tensor) -> Tensor:
    """Average counts over all processes and raise each to at least 1.

    Gradients are averaged over processes, so that a sum divided by the mean count gives the same
    gradient as one process with the joint batch. All counts travel in one collective, which
    every rank must reach, whatever its images hold.

    Args:
        counts: any shape, not changed.

    Returns:
        float32 of the same shape, at least 1.
    """
    counts = counts.detach().float().clone()
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(counts)
        counts /= comm.get_world_size()
    return counts.clamp(min=1)


def log_counts(names: Sequence[str], counts: Tensor, num_images: int) -> None:
    """Log counts of positives per image of this process as ``positives/<name>``.

    Args:
        counts: one for each name, summed over ``num_images`` images.
    """
    storage = get_event_storage()
    if storage.iter % _LOG_PERIOD == 0:
        for name, value in zip(names, (counts / num_images).tolist(), strict=True):
            storage.put_scalar(f"positives/{name}", value)
