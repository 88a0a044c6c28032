"""Two processes with half of a batch each learn what one process learns from the whole batch."""

import datetime

import pytest
import torch
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from tests import contracts
from tests.modeling import (
    test_baseline_retinanet,
    test_classifier,
    test_fcos,
    test_semi_anchored_retinanet,
    test_ssd,
)

C = 3

FULL = [[6.0, 8, 30, 40], [34.0, 30, 62, 58], [38.0, 4, 58, 20]]
POINT_DETECTORS = (*test_fcos.BASELINES, *test_fcos.WITH_DSLA)
ANCHOR_DETECTORS = ("retinanet", "semi_anchored_retinanet", "ssd", "semi_anchored_ssd")
CLASSIFIERS = ("cross_entropy", "binary_cross_entropy", "oat", "indeed")
NAMES = (*ANCHOR_DETECTORS, *POINT_DETECTORS, *CLASSIFIERS)


def build(name):
    """A model with group normalisation or none, which sees an image alone.

    Mean counts of two processes are raised to 1, a joint count of 1 is not. To stay well above,
    boxes overlap their truth from the beginning, and FoveaBox takes more of a box.
    """
    if name == "oat":
        model = test_classifier.classifier(
            size=64, MODEL__CLASSIFIER__METHOD="oat", MODEL__OAT__GLOBAL_CENTER=True
        )
        model.method.activate()
        return model
    if name == "indeed":
        # Images of one class make no valid pairs: each is its own, wherever it is.
        return test_classifier.classifier(
            size=64, MODEL__CLASSIFIER__METHOD="indeed", MODEL__INDEED__DEFAULT_PAIR="self"
        )
    if name in CLASSIFIERS:
        return test_classifier.classifier(size=64, MODEL__CLASSIFIER__METHOD=name)
    if name == "retinanet":
        return test_baseline_retinanet.small_model(norm="GN")
    if name == "ssd":
        return test_ssd.small_model()
    if name == "semi_anchored_ssd":
        return test_ssd.small_model("SemiAnchoredSSD")
    if name == "semi_anchored_retinanet":
        return test_semi_anchored_retinanet.small_model(norm="GN", width=32)
    model = test_fcos.small_model(
        name,
        RESNETS__NORM="GN",
        RESNETS__STEM_OUT_CHANNELS=32,
        RESNETS__RES2_OUT_CHANNELS=32,
        FOVEABOX__SIGMA=0.9,
    )
    with torch.no_grad():
        bias = 0.0 if "foveabox" in name else 1.0 if "fcosv2" in name else 2.5
        model.head.box_regressor.bias.fill_(bias)
    return model


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
    ]  # the classifier takes the images, each with a label of its own


def labelled(inputs):
    return [one | {"gt_classes": [int(one["image"].sum()) % C]} for one in inputs]


def learn(model, inputs):
    """Losses, gradients and updated weights of one step, which is then taken back."""
    before = {name: one.clone() for name, one in model.state_dict().items()}
    model.zero_grad()
    losses = contracts.training_losses(model, labelled(inputs))
    sum(losses.values()).backward()
    gradients = {
        name.removeprefix("module."): parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9).step()
    weights = torch.cat([one.detach().flatten() for one in model.parameters()])
    model.load_state_dict(before)
    return {name: loss.detach() for name, loss in losses.items()}, gradients, weights


def one_of_two_processes(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=60),
    )
    results = {}
    for name in NAMES:
        model = DistributedDataParallel(build(name), broadcast_buffers=False)
        results[name] = [learn(model, [batch[rank]]) for batch in batches()]
    torch.save(results, f"{folder}/{rank}.pth")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def both_processes(tmp_path_factory):
    """Results of the two processes, for all models: the processes take seconds to start."""
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(one_of_two_processes, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pth") for rank in range(2)]


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_learn_what_one_learns_from_the_joint_batch(both_processes, name):
    first, second = (results[name] for results in both_processes)
    model = build(name)
    before = torch.cat([one.detach().flatten() for one in model.parameters()])
    for i, batch in enumerate(batches()):
        losses, gradients, weights = learn(model, batch)
        for key, loss in losses.items():
            average = (first[i][0][key] + second[i][0][key]) / 2
            torch.testing.assert_close(average, loss, rtol=1e-4, atol=1e-6, msg=key)
        largest = max(gradient.abs().max().item() for gradient in gradients.values())
        for key, gradient in gradients.items():
            # DDP averages: both processes end with the same gradient.
            assert torch.equal(first[i][1][key], second[i][1][key])
            # Where group normalisation cancels a gradient, rounding is what remains.
            limit = 1e-3 * gradient.abs().max().item() + 1e-7 * largest
            assert (first[i][1][key] - gradient).abs().max() <= limit, key
        assert torch.equal(first[i][2], second[i][2])
        update = (weights - before).norm()
        assert update > 0 and (first[i][2] - weights).norm() <= 1e-3 * update


@pytest.mark.parametrize("name", POINT_DETECTORS)
def test_the_process_without_a_box_has_its_share_of_the_loss(both_processes, name):
    empty, full = (results[name][1][0] for results in both_processes)
    assert empty["loss_box"] == 0 and full["loss_box"] > 0
    # Divided by the joint count: its own, raised to 1, would make another figure.
    alone = learn(build(name), batches()[1][:1])[0]
    assert 0 < empty["loss_class"] < 0.9 * alone["loss_class"]
