"""The table of overlaps is walked in blocks; the blocks must not show."""

import pytest
import torch

from anchorkit.assigners import matching
from tests.reference import semi_anchored as oracle
from tests.reference.scenes import ONE_SHAPE, SIX_SHAPES, grid_anchors, pyramid, random_scene


def flat(levels):
    return [anchor for level in levels for anchor in level.reshape(-1, 4).tolist()]


@pytest.mark.parametrize("entries", [1, 500, 1200, 1 << 20])
def test_the_size_of_the_blocks_does_not_change_the_matches(entries, monkeypatch):
    monkeypatch.setattr(matching, "_BLOCK_ENTRIES", entries)
    levels = pyramid(shapes=[SIX_SHAPES[:2], SIX_SHAPES, ONE_SHAPE])
    boxes, _ = random_scene(0, count=20)
    boxes = torch.cat([boxes, boxes[:5]])  # equal boxes, far apart in the list
    match = matching.match_anchors(levels, boxes)
    _, gt_index, ious = oracle.label_anchors(
        flat(levels), boxes.tolist(), [0] * 25, num_classes=1, thresholds=(0, 0), low_quality=False
    )
    assert match.iou.tolist() == ious
    positive = [r for r, value in enumerate(ious) if value > 0]
    assert [match.gt_index[r].item() for r in positive] == [gt_index[r] for r in positive]
    for j, box in enumerate(boxes.tolist()):
        overlaps = [oracle.iou(anchor, box) for anchor in flat(levels)]
        assert match.best_iou[j].item() == pytest.approx(max(overlaps), rel=1e-6)
        # Rounding may make two anchors equal that differ in double precision.
        best = match.best_anchor[j].item()
        assert overlaps[best] == pytest.approx(max(overlaps), rel=1e-6)


def test_of_equal_anchors_on_two_levels_the_first_is_the_best():
    level = grid_anchors(2, 2, 8, ((1.0, 1.0),))
    boxes = torch.tensor([[8.0, 0, 16, 4], [0, 0, 16, 16]])
    match = matching.match_anchors([level, level], boxes)
    assert match.best_anchor.tolist() == [1, 0]
    assert match.best_iou.tolist() == [0.5, 0.25]


def test_a_box_that_is_not_finite_matches_nothing():
    boxes = torch.tensor([[0.0, 0, float("inf"), 10], [float("nan"), 0, 10, 10], [0, 0, 8, 8]])
    match = matching.match_anchors(pyramid(), boxes)
    assert match.best_iou[:2].tolist() == [0, 0] and match.best_iou[2] > 0
    assert set(match.gt_index[match.iou > 0].tolist()) == {2}


def test_an_empty_level_is_passed_over():
    levels = [grid_anchors(2, 2, 8, ONE_SHAPE), torch.zeros(0, 3, 1, 4)]
    match = matching.match_anchors(levels, torch.tensor([[0.0, 0, 8, 8]]))
    assert match.iou.shape == (4,) and match.best_iou[0] > 0
