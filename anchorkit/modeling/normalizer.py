"""Loss normalisers that mean the same on one process and on many."""

import torch
from detectron2.utils import comm
from torch import Tensor


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
