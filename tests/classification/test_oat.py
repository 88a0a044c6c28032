"""OAT against loops over the paper's equations, and the facts that its mathematics promises."""

import math
import random

import pytest
import torch
from torch import nn

from anchorkit.classification import OAT, CrossEntropy
from anchorkit.classification.oat import anchor_at, center_terms, decode, encode
from tests.reference import oat as oracle

K = 7


class Linear(nn.Module):
    """A model whose features are its input."""

    def __init__(self, weight):
        super().__init__()
        self.head = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        self.head.weight.data = weight.clone()

    def features(self, images):
        return images


def identity(num_classes=K):
    return Linear(torch.eye(num_classes))


def active(**options):
    method = OAT(**{"num_classes": K} | options)
    method.activate()
    return method


def loss_of(method, outputs, labels):
    return method.losses(identity(outputs.shape[1]), outputs, labels)["loss_class"]


def one_hot(labels, num_classes=K):
    return torch.nn.functional.one_hot(torch.as_tensor(labels), num_classes).tolist()


@pytest.mark.parametrize("reduction", ["mean", "sum_classes"])
@pytest.mark.parametrize(
    ("anchor", "epsilon"), [("softmax_mean", 0.0), ("mean", 0.0), ("mean", 0.05), ("uniform", 0.0)]
)
@pytest.mark.parametrize("batch", [1, 5, 32])
def test_the_loss_is_that_of_the_loops(anchor, epsilon, reduction, batch):
    outputs = oracle.random_outputs(batch, K, scale=1.0, seed=batch)
    labels = [random.Random(i).randrange(K) for i in range(batch)]
    method = active(anchor=anchor, epsilon=epsilon, reduction=reduction)
    actual = loss_of(method, torch.tensor(outputs), torch.tensor(labels))
    expected = oracle.loss(outputs, one_hot(labels), anchor, epsilon, reduction)
    assert actual.item() == pytest.approx(expected, rel=1e-5)


def test_soft_targets_are_targets():
    outputs = oracle.random_outputs(6, K)
    targets = torch.rand(6, K).softmax(dim=1)
    actual = loss_of(active(), torch.tensor(outputs), targets)
    assert actual.item() == pytest.approx(
        oracle.loss(outputs, targets.tolist(), "softmax_mean"), rel=1e-5
    )


def test_label_smoothing_spreads_a_share_of_each_label():
    outputs = oracle.random_outputs(6, K)
    labels = [[0.7 * value + 0.3 / K for value in row] for row in one_hot([0, 1, 2, 3, 4, 5])]
    actual = loss_of(active(label_smoothing=0.3), torch.tensor(outputs), torch.arange(6))
    assert actual.item() == pytest.approx(oracle.loss(outputs, labels, "softmax_mean"), rel=1e-5)


@pytest.mark.parametrize("anchor", ["softmax_mean", "mean", "uniform"])
@pytest.mark.parametrize("num_classes", [6, 10, 25, 101])
def test_zero_outputs_lose_the_number_of_classes_less_one(anchor, num_classes):
    outputs = torch.zeros(8, num_classes)
    loss = loss_of(active(num_classes=num_classes, anchor=anchor), outputs, torch.arange(8) % 6)
    assert loss.item() == pytest.approx(num_classes - 1, rel=1e-5)


def test_decoding_undoes_encoding_for_any_anchor():
    labels = torch.rand(5, K)
    anchor = torch.rand(K) + 0.01
    torch.testing.assert_close(decode(encode(labels, anchor), anchor), labels)


def test_the_double_softmax_bounds_the_anchor():
    for scale in (0.1, 1e4):
        for num_classes in (6, 101):
            outputs = scale * torch.randn(32, num_classes)
            anchor = anchor_at(center_terms(outputs, "softmax_mean").mean(dim=0))
            low = 1 / (num_classes - 1 + math.e)
            assert low - 1e-7 <= anchor.min() and anchor.max() <= math.e * low + 1e-7
            assert anchor.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("detach", [False, True])
def test_the_gradient_goes_through_the_anchor_unless_it_is_detached(detach):
    torch.manual_seed(0)
    outputs = torch.randn(8, K, requires_grad=True)
    labels = torch.arange(8) % K
    loss_of(active(detach=detach), outputs, labels).backward()
    anchor = anchor_at(center_terms(outputs.detach(), "softmax_mean").mean(dim=0))
    targets = encode(torch.tensor(one_hot(labels)).float(), anchor)
    direct = 2 * (outputs.detach() - targets) / outputs.numel()
    assert torch.allclose(outputs.grad, direct, atol=1e-6) == detach


def test_the_gradient_is_that_of_finite_differences():
    outputs = torch.tensor(oracle.random_outputs(4, K, scale=1.0), dtype=torch.float64)
    labels = one_hot([0, 1, 1, 5])
    leaf = outputs.float().requires_grad_()
    loss_of(active(), leaf, torch.tensor([0, 1, 1, 5])).backward()
    for i, k in ((0, 0), (1, 3), (3, 5)):
        step = torch.zeros_like(outputs)
        step[i, k] = 1e-5
        up, down = (
            oracle.loss((outputs + sign * step).tolist(), labels, "softmax_mean")
            for sign in (1, -1)
        )
        assert leaf.grad[i, k].item() == pytest.approx((up - down) / 2e-5, rel=1e-3)


def test_before_the_switch_it_is_cross_entropy_bit_by_bit():
    outputs, labels = torch.randn(8, K), torch.arange(8) % K
    before = loss_of(OAT(num_classes=K, label_smoothing=0.1), outputs, labels)
    assert before == loss_of(CrossEntropy(label_smoothing=0.1), outputs, labels)
    method = OAT(num_classes=K)
    assert set(method.decodings(outputs)) == {""}
    assert torch.equal(method.scores(outputs), outputs.softmax(dim=1))


def test_the_phase_and_the_running_center_lie_in_the_state():
    method = active()
    loss_of(method, torch.randn(8, K), torch.arange(8) % K)
    restored = OAT(num_classes=K)
    restored.load_state_dict(method.state_dict())
    assert set(restored.decodings(torch.randn(3, K))) > {"", "batch"}
    assert not restored.activate(), "it is active already"
    assert torch.equal(restored.running_center, method.running_center)
    method.load_state_dict(OAT(num_classes=K).state_dict())
    assert method.activate(), "loading a checkpoint of the first phase goes back to it"


def test_the_running_center_follows_the_batches():
    method = active(momentum=0.25)
    outputs = torch.randn(8, K)
    loss_of(method, outputs, torch.arange(8) % K)
    expected = 0.75 / K + 0.25 * outputs.softmax(dim=1).mean(dim=0)
    torch.testing.assert_close(method.running_center, expected)


@pytest.mark.parametrize("anchor", ["softmax_mean", "mean"])
@pytest.mark.parametrize("number", [1, 32, 70])
def test_protocols_are_those_of_the_loops(anchor, number):
    outputs = oracle.random_outputs(number, K, scale=1.0)
    method = active(anchor=anchor, test_batch=32, test_seed=3, num_permutations=2)
    actual = method.decodings(torch.tensor(outputs))
    assert actual["batch"].shape == (2, number, K)
    for index in range(2):
        generator = torch.Generator().manual_seed(3 + index)
        order = torch.randperm(number, generator=generator).tolist()
        expected = oracle.decode_in_chunks(outputs, order, 32, anchor)
        torch.testing.assert_close(actual["batch"][index], torch.tensor(expected))
    single = [oracle.decode(row, oracle.anchor([row], anchor)) for row in outputs]
    torch.testing.assert_close(actual["single"], torch.tensor(single))
    whole = oracle.anchor(outputs, anchor)
    expected = [oracle.decode(row, whole) for row in outputs]
    torch.testing.assert_close(actual["dataset"], torch.tensor(expected))
    running = oracle.softmax(method.running_center.tolist())
    expected = [oracle.decode(row, running) for row in outputs]
    torch.testing.assert_close(actual["running"], torch.tensor(expected))


def test_a_single_image_is_decoded_to_the_highest_output():
    outputs = torch.randn(500, K) * 5
    outputs = outputs[outputs.max(dim=1).values > -1]
    method = active()
    expected = outputs.argmax(dim=1)
    assert torch.equal(method.decodings(outputs)["single"].argmax(dim=1), expected)
    assert torch.equal(method.scores(outputs).argmax(dim=1), expected)


def test_chunks_of_one_class_would_give_the_labels_away():
    """Why images are permuted: in the order of their classes more of them are decoded rightly."""
    torch.manual_seed(0)
    num_classes, number = 50, 40
    labels = torch.arange(num_classes).repeat_interleave(number)
    outputs = 2 * torch.randn(len(labels), num_classes)
    outputs[torch.arange(len(labels)), labels] += 3
    shuffled = active(num_classes=num_classes, test_batch=number, num_permutations=1)
    in_order = oracle.decode_in_chunks(
        outputs.tolist(), list(range(len(labels))), number, "softmax_mean"
    )
    honest = (shuffled.decodings(outputs)["batch"][0].argmax(dim=1) == labels).float().mean()
    leaked = (torch.tensor(in_order).argmax(dim=1) == labels).float().mean()
    assert leaked > honest + 0.02


def test_probabilities_are_shares_of_the_outputs_above_minus_one():
    scores = active(num_classes=3).scores(torch.tensor([[1.0, 0.0, -2.0], [-2.0, -3.0, -2.5]]))
    torch.testing.assert_close(scores[0], torch.tensor([2 / 3, 1 / 3, 0.0]))
    assert scores[1].argmax() == 0 and scores[1].sum().item() == pytest.approx(1)


def test_targets_of_many_classes_are_formed_in_single_precision():
    method = active(num_classes=1000, anchor="uniform")
    model = Linear(torch.eye(1000))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = method.losses(model, torch.zeros(4, 1000), torch.arange(4))
    assert losses["loss_class"].dtype == torch.float32
    assert losses["loss_class"].item() == pytest.approx(999, rel=1e-5)
