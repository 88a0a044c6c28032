"""Hard negative mining against a loop."""

import pytest
import torch

from anchorkit.losses import hard_negatives
from tests.reference import ssd as oracle


@pytest.mark.parametrize("ratio", [0.5, 1.0, 3.0])
def test_the_worst_negatives_of_each_image_are_those_of_the_loop(ratio):
    generator = torch.Generator().manual_seed(0)
    # Rounded, so that there are ties.
    losses = (torch.rand(5, 40, generator=generator) * 20).round() / 10
    is_positive = torch.rand(5, 40, generator=generator) < torch.tensor([[0], [0.02], [0.1], [0.3],
                                                                         [0.9]])  # fmt: skip
    chosen = hard_negatives(losses, is_positive, ratio=ratio)
    for row in range(5):
        expected = oracle.hard_negatives(losses[row].tolist(), is_positive[row].tolist(), ratio)
        assert chosen[row].tolist() == expected
    assert not chosen[0].any() and chosen[2].any()


def test_positives_are_never_negatives_even_where_negatives_run_out():
    is_positive = torch.tensor([[True, True, False]])
    chosen = hard_negatives(torch.tensor([[9.0, 8.0, 1.0]]), is_positive, ratio=3.0)
    assert chosen.tolist() == [[False, False, True]]


def test_the_choice_has_no_gradient():
    losses = torch.rand(1, 4, requires_grad=True)
    is_positive = torch.tensor([[True, False, False, False]])
    chosen = hard_negatives(losses, is_positive, ratio=1.0)
    assert chosen.sum() == 1 and not chosen.requires_grad
