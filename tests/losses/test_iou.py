"""IoU losses of decoded boxes, against the loop of tests/reference/boxes.py."""

import math

import pytest
import torch
from torchvision.ops import generalized_box_iou_loss

from anchorkit.losses import BOX_LOSSES, box_iou_loss
from tests.reference import boxes as oracle


def random_boxes(count, seed):
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(count, 2, generator=generator) * 20
    return torch.cat([start, start + 1 + torch.rand(count, 2, generator=generator) * 30], dim=1)


@pytest.mark.parametrize("kind", BOX_LOSSES)
def test_box_losses_are_those_of_the_loop(kind):
    pred, target = random_boxes(200, 0), random_boxes(200, 1)
    expected = [
        oracle.box_loss(a, b, kind) for a, b in zip(pred.tolist(), target.tolist(), strict=True)
    ]
    torch.testing.assert_close(box_iou_loss(pred, target, kind), torch.tensor(expected))


@pytest.mark.parametrize("kind", BOX_LOSSES)
def test_equal_boxes_have_no_loss_and_a_better_box_has_a_lower_one(kind):
    target = torch.tensor([[10.0, 10, 30, 30]])
    assert box_iou_loss(target, target, kind).item() == pytest.approx(0, abs=1e-6)
    shifts = torch.tensor([0.0, 2, 5, 10, 15])
    losses = box_iou_loss(target + shifts[:, None], target.expand(5, 4), kind)
    assert (losses.diff() > 0).all()


def test_known_pairs_have_known_box_losses():
    pred, target = torch.tensor([[0.0, 0, 10, 5]]), torch.tensor([[0.0, 0, 10, 10]])
    assert box_iou_loss(pred, target, "iou_log").item() == pytest.approx(math.log(2))
    assert box_iou_loss(pred, target, "iou_linear").item() == pytest.approx(0.5)
    apart = torch.tensor([[20.0, 0, 30, 10]])  # the hull is a third empty
    assert box_iou_loss(apart, target, "giou").item() == pytest.approx(1 + 1 / 3)
    assert box_iou_loss(apart, target, "iou_log").item() == pytest.approx(-math.log(1e-6))
    assert box_iou_loss(apart, target, "iou_linear").item() == 1


def test_giou_is_that_of_torchvision():
    pred, target = random_boxes(100, 2), random_boxes(100, 3)
    expected = generalized_box_iou_loss(pred, target, reduction="none")
    torch.testing.assert_close(box_iou_loss(pred, target, "giou"), expected)


@pytest.mark.parametrize("kind", BOX_LOSSES)
def test_the_gradient_shrinks_a_box_that_is_too_large(kind):
    pred = torch.tensor([[0.0, 0, 40, 40]], requires_grad=True)
    box_iou_loss(pred, torch.tensor([[10.0, 10, 30, 30]]), kind).sum().backward()
    assert (pred.grad[0, :2] < 0).all() and (pred.grad[0, 2:] > 0).all()


@pytest.mark.parametrize("kind", BOX_LOSSES)
def test_boxes_without_area_inverted_or_far_off_have_finite_losses_and_gradients(kind):
    pred = torch.tensor(
        [[5.0, 5, 5, 5], [9.0, 9, 2, 2], [5.0, 5, 5, 9], [1e6, 1e6, 2e6, 2e6], [5.0, 5, 5, 5]],
        requires_grad=True,
    )
    target = torch.tensor([[0.0, 0, 10, 10]] * 4 + [[5.0, 5, 5, 5]])
    losses = box_iou_loss(pred, target, kind)
    expected = [
        oracle.box_loss(a, b, kind) for a, b in zip(pred.tolist(), target.tolist(), strict=True)
    ]
    torch.testing.assert_close(losses, torch.tensor(expected))
    assert (losses >= 0).all()
    losses.sum().backward()
    assert torch.isfinite(pred.grad).all()


@pytest.mark.parametrize("kind", BOX_LOSSES)
def test_no_boxes_have_a_loss_that_can_be_summed_and_differentiated(kind):
    pred = torch.zeros(0, 4, requires_grad=True)
    losses = box_iou_loss(pred, torch.zeros(0, 4), kind)
    assert losses.shape == (0,)
    losses.sum().backward()
    assert pred.grad.shape == (0, 4)


@pytest.mark.parametrize("kind", BOX_LOSSES)
def test_large_boxes_in_half_precision_do_not_overflow(kind):
    target = torch.tensor([[0.0, 0, 1000, 1000]])
    pred = torch.tensor([[0.0, 0, 1000, 800]])
    losses = box_iou_loss(pred.half(), target.half(), kind)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, box_iou_loss(pred, target, kind))


def test_an_unknown_kind_of_box_loss_is_named_in_the_error():
    box = torch.tensor([[0.0, 0, 1, 1]])
    with pytest.raises(ValueError, match="iou_cubic"):
        box_iou_loss(box, box, "iou_cubic")
