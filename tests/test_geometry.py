"""IoU and generalised IoU of boxes in pairs."""

import math

import torch

from anchorkit.geometry import aligned_giou, aligned_iou, box_area
from tests.reference import boxes as oracle


def random_boxes(count, seed=0, inverted=False):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 4, generator=generator) * 50
    if inverted:
        return corners
    return torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:]], dim=1)


def test_iou_of_pairs_is_that_of_the_loop():
    boxes1, boxes2 = random_boxes(300), random_boxes(300, seed=1)
    expected = [oracle.iou(a, b) for a, b in zip(boxes1.tolist(), boxes2.tolist(), strict=True)]
    assert max(expected) > 0.3 and min(expected) == 0
    torch.testing.assert_close(aligned_iou(boxes1, boxes2), torch.tensor(expected))


def test_known_pairs_have_known_ious():
    box = torch.tensor([0.0, 0, 10, 10])
    others = torch.tensor(
        [[0.0, 0, 10, 10], [0, 0, 10, 5], [5, 0, 15, 10], [10, 0, 20, 10], [-5, -5, 15, 15]]
    )
    expected = torch.tensor([1, 0.5, 1 / 3, 0, 0.25])
    torch.testing.assert_close(aligned_iou(box.expand(5, 4), others), expected)


def test_iou_is_symmetric_and_between_zero_and_one_for_any_numbers():
    boxes1 = random_boxes(500, seed=2, inverted=True)
    boxes2 = random_boxes(500, seed=3, inverted=True)
    result = aligned_iou(boxes1, boxes2)
    assert torch.equal(result, aligned_iou(boxes2, boxes1))
    assert ((result >= 0) & (result <= 1)).all()
    expected = [oracle.iou(a, b) for a, b in zip(boxes1.tolist(), boxes2.tolist(), strict=True)]
    torch.testing.assert_close(result, torch.tensor(expected))


def test_two_boxes_without_area_have_iou_zero():
    point = torch.tensor([[5.0, 5, 5, 5]])
    line = torch.tensor([[5.0, 5, 5, 9]])
    assert aligned_iou(point, point).item() == 0
    assert aligned_iou(line, line).item() == 0
    assert aligned_iou(line, torch.tensor([[0.0, 0, 10, 10]])).item() == 0


def test_leading_dimensions_are_kept_and_broadcast():
    boxes1 = random_boxes(6).reshape(2, 3, 4)
    boxes2 = random_boxes(3, seed=1)
    result = aligned_iou(boxes1, boxes2)
    assert result.shape == (2, 3)
    torch.testing.assert_close(result[1, 2], aligned_iou(boxes1[1, 2], boxes2[2]))
    assert aligned_iou(boxes1[:, :, None], boxes2[None, None]).shape == (2, 3, 3)
    assert aligned_iou(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)


def test_the_gradient_is_finite_also_for_boxes_without_area():
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 5, 5, 5], [9, 9, 2, 2]], requires_grad=True)
    target = torch.tensor([[1.0, 1, 9, 9], [5, 5, 5, 5], [0, 0, 10, 10]])
    aligned_iou(boxes, target).sum().backward()
    assert torch.isfinite(boxes.grad).all()
    assert boxes.grad[0].abs().sum() > 0


def test_a_box_with_nan_gives_a_value_and_no_error():
    bad = torch.tensor([[math.nan, 0, 10, 10], [0.0, 0, 10, 10]])
    result = aligned_iou(bad, torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]]))
    assert result.shape == (2,)
    assert result[1].item() == 1


def test_large_boxes_keep_their_iou():
    box = torch.tensor([[0.0, 0, 100_000, 80_000]])
    half = torch.tensor([[0.0, 0, 100_000, 40_000]])
    torch.testing.assert_close(aligned_iou(box, half), torch.tensor([0.5]))


def test_generalised_iou_is_one_minus_the_loss_of_the_loop():
    boxes1, boxes2 = random_boxes(300, seed=4), random_boxes(300, seed=5)
    pairs = zip(boxes1.tolist(), boxes2.tolist(), strict=True)
    expected = [1 - oracle.box_loss(a, b, "giou") for a, b in pairs]
    assert min(expected) < -0.3 and max(expected) > 0.3
    torch.testing.assert_close(aligned_giou(boxes1, boxes2), torch.tensor(expected))


def test_generalised_iou_stays_between_minus_one_and_one_for_any_numbers():
    boxes1 = random_boxes(500, seed=6, inverted=True)
    boxes2 = random_boxes(500, seed=7, inverted=True)
    result = aligned_giou(boxes1, boxes2)
    assert ((result >= -1) & (result <= 1)).all()


def test_the_area_of_an_inverted_box_is_zero():
    boxes = random_boxes(100, seed=8, inverted=True)
    expected = [oracle.area(box) for box in boxes.tolist()]
    assert 0 in expected and max(expected) > 0
    torch.testing.assert_close(box_area(boxes), torch.tensor(expected))


def test_iou_does_not_depend_on_the_unit_of_length():
    boxes1, boxes2 = random_boxes(100), random_boxes(100, seed=1)
    for scale in (2**-10, 2**10):
        torch.testing.assert_close(
            aligned_iou(boxes1 * scale, boxes2 * scale), aligned_iou(boxes1, boxes2)
        )
        torch.testing.assert_close(
            aligned_giou(boxes1 * scale, boxes2 * scale), aligned_giou(boxes1, boxes2)
        )
