"""Normalisation folded into convolutions: the same maps, and the same training, as without."""

import copy
from unittest import mock

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d, get_norm
from torch import nn

from anchorkit.modeling.backbone.folding import FoldingConv2d, fold_norms


def network(norm):
    """Two layers with statistics that are not those of the start."""
    torch.manual_seed(0)
    layers = [
        Conv2d(3, 8, 3, stride=2, padding=1, bias=False, norm=get_norm(norm, 8)),
        Conv2d(8, 6, 1, bias=False, groups=2, norm=get_norm(norm, 6), activation=nn.ReLU()),
        Conv2d(6, 4, 1),
    ]
    for layer in layers[:2]:
        for tensor in (layer.norm.weight, layer.norm.bias, layer.norm.running_mean):
            tensor.data.normal_()
        layer.norm.running_var.uniform_(0.5, 2)
    return nn.Sequential(*layers)


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_the_maps_are_those_of_the_plain_layers_in_every_mode(norm):
    plain = network(norm)
    folded = copy.deepcopy(plain)
    fold_norms(folded)
    assert [type(layer) for layer in folded] == [FoldingConv2d, FoldingConv2d, Conv2d]
    assert list(folded.state_dict()) == list(plain.state_dict())
    images = torch.randn(2, 3, 9, 7)
    for _ in range(2):  # before and after a step that changes weights and statistics
        for model in (plain, folded):
            model.eval()
        with torch.no_grad():
            torch.testing.assert_close(folded(images), plain(images), rtol=1e-5, atol=1e-5)
        assert torch.equal(folded(images), plain(images))  # what learns is not folded
        for model in (plain, folded):
            model.train()
            model.zero_grad()
            model(images).square().mean().backward()
        for expected, got in zip(plain.parameters(), folded.parameters(), strict=True):
            assert torch.equal(got.grad, expected.grad)
        for model in (plain, folded):
            torch.optim.SGD(model.parameters(), lr=0.1).step()
    with torch.no_grad():  # in training mode batch statistics count
        torch.testing.assert_close(folded(images), plain(images), rtol=1e-5, atol=1e-5)


def test_folding_draws_nothing():
    model = network("BN")
    state = torch.get_rng_state()
    fold_norms(model)
    assert torch.equal(torch.get_rng_state(), state)


def test_layers_that_do_not_learn_are_folded_in_training():
    plain = network("FrozenBN").requires_grad_(False)
    folded = copy.deepcopy(plain)
    fold_norms(folded)
    images = torch.randn(2, 3, 9, 7)
    with mock.patch.object(FrozenBatchNorm2d, "forward", side_effect=AssertionError("not folded")):
        maps = folded.train()(images)
    torch.testing.assert_close(maps, plain(images), rtol=1e-5, atol=1e-5)
    learning = images.clone().requires_grad_()
    folded(learning).sum().backward()
    assert learning.grad.abs().max() > 0


def test_what_has_no_batch_normalisation_stays_as_it_is():
    layers = nn.Sequential(
        Conv2d(4, 4, 1, norm=nn.GroupNorm(2, 4)),
        nn.Conv2d(4, 4, 1),
        Conv2d(4, 4, 1, bias=True, norm=FrozenBatchNorm2d(4)),
    )
    before = list(layers)
    fold_norms(layers)
    assert list(layers) == before
