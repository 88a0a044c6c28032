"""Two processes with half of a batch each learn what one process learns from the whole batch."""

import datetime

import torch
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from tests import contracts
from tests.modeling.test_semi_anchored_retinanet import C, small_model

FULL = [[6.0, 8, 30, 40], [34.0, 30, 62, 58], [38.0, 4, 58, 20]]


def batches():
    """Two batches of two images; in the second, one process has no box at all."""
    return [
        [
            contracts.make_input(FULL, num_classes=C),
            contracts.make_input(FULL[1:2], num_classes=C, seed=1),
        ],
        [
            contracts.make_input([], num_classes=C, seed=2),
            contracts.make_input(FULL, num_classes=C, seed=3),
        ],
    ]


def learn(model, inputs):
    """Losses and gradients of one step."""
    model.zero_grad()
    losses = contracts.training_losses(model, inputs)
    sum(losses.values()).backward()
    gradients = {
        name.removeprefix("module."): parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    return {name: loss.detach() for name, loss in losses.items()}, gradients


def one_of_two_processes(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=60),
    )
    # Group normalisation sees an image alone, so that batches can be split.
    model = DistributedDataParallel(small_model(norm="GN", width=32), broadcast_buffers=False)
    results = [learn(model, [batch[rank]]) for batch in batches()]
    torch.save(results, f"{folder}/{rank}.pth")
    distributed.destroy_process_group()


def test_two_processes_learn_what_one_learns_from_the_joint_batch(tmp_path):
    multiprocessing.spawn(one_of_two_processes, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in range(2))
    model = small_model(norm="GN", width=32)
    for i, batch in enumerate(batches()):
        losses, gradients = learn(model, batch)
        for name, loss in losses.items():
            average = (first[i][0][name] + second[i][0][name]) / 2
            torch.testing.assert_close(average, loss, rtol=1e-4, atol=1e-6)
        for name, gradient in gradients.items():
            # DDP averages: both processes end with the same gradient.
            assert torch.equal(first[i][1][name], second[i][1][name])
            scale = gradient.abs().max().item()
            torch.testing.assert_close(
                first[i][1][name], gradient, rtol=1e-3, atol=1e-3 * scale, msg=name
            )
