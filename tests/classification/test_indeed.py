"""INDeeD against loops over the paper's equations; pairs on random and awkward label matrices."""

import pytest
import torch
from torch import nn

from anchorkit.classification import BinaryCrossEntropy, indeed
from anchorkit.classification.indeed import INDeeD
from anchorkit.classification.standard import binary_losses
from tests.reference import indeed as oracle

K, D = 5, 9


class Linear(nn.Module):
    """A model whose features are its input."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.head = nn.Linear(D, K)

    def features(self, images):
        return images


def random_labels(number, density, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(number, K, generator=generator) < density).long()


AWKWARD = {
    "one image": torch.tensor([[1, 0, 1, 0, 0]]),
    "no labels": torch.zeros(6, K, dtype=torch.long),
    "all alike": torch.tensor([[1, 1, 0, 0, 0]] * 6),
    "nothing shared": torch.eye(K, dtype=torch.long),
    "one valid pair": torch.tensor([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0]]),
}
PARTLY_KNOWN = torch.randint(-1, 2, (24, K), generator=torch.Generator().manual_seed(4))
LABELS = [
    *AWKWARD.values(),
    PARTLY_KNOWN,
    *(random_labels(n, d, n) for n in (2, 7, 64) for d in (0.2, 0.5, 0.8)),
]


@pytest.mark.parametrize("labels", LABELS)
def test_valid_pairs_are_those_of_the_loops(labels):
    rows = labels.tolist()
    expected = [[oracle.is_valid(a, b) for b in rows] for a in rows]
    assert indeed.valid_pairs(labels).tolist() == expected


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("labels", LABELS)
def test_a_matching_is_valid_mutual_and_maximal(labels, seed):
    valid = indeed.valid_pairs(labels)
    partner = indeed.random_matching(valid, torch.Generator().manual_seed(seed))
    images = torch.arange(len(labels))
    assert torch.equal(partner[partner], images), "each image is in one pair at most"
    is_paired = partner != images
    assert valid[images, partner][is_paired].all()
    alone = ~is_paired
    assert not valid[alone][:, alone].any(), "no valid pair is left"
    again = indeed.random_matching(valid, torch.Generator().manual_seed(seed))
    assert torch.equal(partner, again)


@pytest.mark.parametrize("number", [64, 256, 1024])
def test_rounds_suffice_for_large_batches_of_many_pairs(number):
    for density in (0.3, 1.0):
        generator = torch.Generator().manual_seed(number)
        edges = torch.rand(number, number, generator=generator).triu(1) < density
        valid = (edges | edges.T) & ~torch.eye(number, dtype=torch.bool)
        partner = indeed.random_matching(valid, generator)
        alone = partner == torch.arange(number)
        assert not valid[alone][:, alone].any()


@pytest.mark.parametrize("labels", LABELS)
def test_independent_partners_are_valid_wherever_there_is_one(labels):
    valid = indeed.valid_pairs(labels)
    partner = indeed.random_partners(valid, torch.Generator().manual_seed(0))
    images = torch.arange(len(labels))
    has_partner = valid.any(dim=1)
    assert valid[images, partner][has_partner].all()
    assert torch.equal(partner[~has_partner], images[~has_partner])


@pytest.mark.parametrize("default_pair", indeed.DEFAULT_PAIRS)
@pytest.mark.parametrize("kind", indeed.MASKS)
@pytest.mark.parametrize("default_weight", [1.0, 2.0])
@pytest.mark.parametrize("labels", LABELS[:9])
def test_losses_are_those_of_the_loops(monkeypatch, labels, kind, default_pair, default_weight):
    torch.manual_seed(0)
    features = torch.rand(len(labels), D) * (torch.rand(len(labels), D) < 0.7)
    partner = indeed.random_matching(indeed.valid_pairs(labels), torch.Generator().manual_seed(1))
    monkeypatch.setattr(indeed, "random_matching", lambda valid: partner)
    model = Linear()
    method = INDeeD(
        mask=kind, weight=0.3, default_pair=default_pair, default_pair_weight=default_weight
    )
    actual = method.losses(model, features, labels.float())
    weight, bias = model.head.weight.tolist(), model.head.bias.tolist()
    own, identical, disparate = oracle.losses(
        features.tolist(), labels.tolist(), partner.tolist(), weight, bias, kind, default_pair,
        default_weight,
    )  # fmt: skip
    assert actual["loss_class"].item() == pytest.approx(own, rel=1e-4)
    assert actual["loss_identical"].item() == pytest.approx(0.3 * identical, rel=1e-4)
    assert actual["loss_disparate"].item() == pytest.approx(0.3 * disparate, rel=1e-4, abs=1e-6)


def test_masks_lie_in_their_ranges():
    product = torch.rand(20, D) * (torch.rand(20, D) < 0.5)
    low, high = indeed.mask_of(product, "minmax").aminmax(dim=1)
    assert (low == 0).all() and torch.allclose(high, torch.ones(20))
    assert torch.allclose(indeed.mask_of(product, "l2").norm(dim=1), torch.ones(20))
    assert not indeed.mask_of(torch.zeros(1, D), "l2").any()
    assert not indeed.mask_of(torch.zeros(1, D), "minmax").any()


def test_without_weight_the_gradient_is_that_of_the_plain_loss():
    labels, gradients = random_labels(16, 0.5).float(), []
    features = torch.rand(16, D)
    for method in (INDeeD(weight=0.0), INDeeD(identical=False, disparate=False)):
        model = Linear()
        sum(method.losses(model, features, labels).values()).backward()
        gradients.append(model.head.weight.grad)
    assert torch.equal(*gradients)


def test_the_weight_rises_over_the_ramp_and_lies_in_the_state():
    labels, features, model = random_labels(16, 0.5).float(), torch.rand(16, D), Linear()
    method = INDeeD(ramp_steps=4, pairing="independent", identical=False)
    values = []
    for _ in range(6):
        torch.manual_seed(0)
        values.append(method.losses(model, features, labels)["loss_disparate"].item())
    assert values == pytest.approx([values[5] * min(step / 4, 1) for step in range(6)])
    restored = INDeeD(ramp_steps=4, pairing="independent", identical=False)
    restored.load_state_dict(method.state_dict())
    torch.manual_seed(0)
    assert restored.losses(model, features, labels)["loss_disparate"].item() == values[5]


def test_no_gradient_goes_through_a_detached_mask():
    labels, gradients = random_labels(16, 0.5).float(), []
    for detach in (False, True):
        torch.manual_seed(0)
        features = torch.rand(16, D).requires_grad_()
        torch.manual_seed(1)
        losses = INDeeD(detach_mask=detach).losses(Linear(), features, labels)
        losses["loss_identical"].backward()
        gradients.append(features.grad)
    assert not torch.allclose(*gradients)


def test_the_baseline_is_the_loss_of_the_whole_images():
    model, features = Linear(), torch.rand(24, D)
    own = INDeeD().losses(model, features, PARTLY_KNOWN)["loss_class"]
    assert BinaryCrossEntropy().losses(model, features, PARTLY_KNOWN)["loss_class"] == own


def test_smoothed_labels_are_drawn_towards_a_half():
    outputs, labels = torch.randn(6, K), random_labels(6, 0.5)
    targets = 0.9 * labels + 0.05
    expected = nn.functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
    assert torch.allclose(binary_losses(outputs, labels.float(), 0.1), expected.sum(dim=1))


def test_features_that_are_negative_are_refused():
    with pytest.raises(ValueError, match="must not be negative; this body gives -0.5"):
        INDeeD().losses(Linear(), torch.full((2, D), -0.5), random_labels(2, 0.5))


def test_half_precision_features_give_single_precision_losses():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = INDeeD().losses(Linear(), torch.rand(8, D).bfloat16(), random_labels(8, 0.5))
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
