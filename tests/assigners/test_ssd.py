"""SSD's matching against loops over boxes and anchors."""

import pytest
import torch

from anchorkit.assigners import SSDAssigner
from tests.reference import ssd as oracle
from tests.reference.scenes import ONE_SHAPE, SIX_SHAPES, instances, pyramid, random_scene

C = 3


def compare(levels, boxes, classes, threshold=0.5):
    assigner = SSDAssigner(num_classes=C, iou_threshold=threshold)
    assignment = assigner(levels, instances(boxes, classes))
    anchors = torch.cat([level.flatten(0, 2) for level in levels]).tolist()
    expected = oracle.match(anchors, torch.as_tensor(boxes).view(-1, 4).tolist(), threshold)
    assert assignment.gt_index.tolist() == expected
    labels = [int(classes[i]) if i >= 0 else C for i in expected]
    assert assignment.labels.tolist() == labels
    assert assignment.score.tolist() == [float(i >= 0) for i in expected]
    return expected


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("threshold", [0.35, 0.5])
def test_anchors_get_the_boxes_of_the_loops(seed, threshold):
    # Levels with one, six and one anchors at a location.
    levels = pyramid(shapes=(ONE_SHAPE, SIX_SHAPES, ONE_SHAPE))
    matched = compare(levels, *random_scene(seed, count=8), threshold)
    assert sum(index >= 0 for index in matched) >= 4


def test_a_box_keeps_its_best_anchor_although_another_box_overlaps_that_more():
    # The large box has the first anchor; the second, with IoU 0.875, would be its own, too.
    levels = [torch.tensor([[0.0, 0.0, 16.0, 16.0], [0.0, 0.0, 16.0, 14.0]]).view(1, 1, 2, 4)]
    boxes = torch.tensor([[0.0, 0.0, 16.0, 16.0], [0.0, 0.0, 8.0, 8.0]])
    assert compare(levels, boxes, torch.tensor([2, 0])) == [0, 1]


def test_the_first_of_equal_boxes_takes_the_anchor_they_share():
    levels = pyramid(size=32, strides=(16,), shapes=((1.0, 1.0),))
    boxes = torch.tensor([[0.0, 0.0, 12.0, 12.0]] * 3)
    assert compare(levels, boxes, torch.tensor([0, 1, 2])) == [0, -1, -1, -1]


def test_the_box_that_overlaps_a_shared_anchor_most_takes_it():
    levels = pyramid(size=32, strides=(32,), shapes=((1.0, 1.0),))
    boxes = torch.tensor([[4.0, 4.0, 12.0, 12.0], [4.0, 4.0, 16.0, 16.0], [4.0, 4.0, 10.0, 10.0]])
    assert compare(levels, boxes, torch.tensor([0, 1, 2])) == [1]


def test_boxes_that_touch_no_anchor_match_nothing():
    levels = pyramid(size=32, strides=(16,), shapes=((0.5, 0.5),))
    outside = [[100.0, 100.0, 120.0, 120.0], [0.0, 0.0, 2.0, 2.0], [8.0, 8.0, 8.0, 20.0]]
    matched = compare(levels, torch.tensor(outside), torch.tensor([0, 1, 2]))
    assert matched == [-1] * 4


def test_an_image_without_boxes_is_background():
    levels = pyramid(size=32)
    matched = compare(levels, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert set(matched) == {-1}
