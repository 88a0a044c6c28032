"""Labels of FoveaBox against the loops of tests/reference/fcos.py."""

import math

import pytest
import torch

from anchorkit.assigners import FoveaBoxAssigner
from tests.assigners.test_fcos import FLAT, NO_BOXES
from tests.reference import fcos as oracle
from tests.reference.scenes import grid_locations, instances, random_scene

C = 3
# Neighbouring ranges overlap, as the paper's do.
RANGES = ((1.0, 16.0), (8.0, 32.0), (16.0, 512.0))


def compare(boxes, classes, *, locations=None, size_ranges=RANGES, sigma=0.4):
    """Labels of the library, after they were found equal to the oracle's."""
    locations = grid_locations() if locations is None else locations
    boxes, classes = torch.as_tensor(boxes), torch.as_tensor(classes)
    options = {"num_classes": C, "size_ranges": size_ranges, "sigma": sigma}
    expected = oracle.assign_foveabox(locations, boxes, classes, **options)
    actual = FoveaBoxAssigner(**options)(locations, instances(boxes, classes))
    assert actual.labels.tolist() == expected.labels
    assert actual.gt_index.tolist() == expected.gt_index
    assert actual.score.tolist() == expected.score
    return actual


def label_at(x, y, boxes, classes, **options):
    """Label of one location of one level whose range holds everything."""
    options = {"size_ranges": ((0.0, math.inf),)} | options
    location = [torch.tensor([[float(x), float(y)]])]
    return compare(boxes, classes, locations=location, **options).labels.item()


# --- random scenes ---


@pytest.mark.parametrize("sigma", [0.3, 0.4, 0.5, 1.0])
def test_random_scenes_are_labelled_as_the_loops_label_them(sigma):
    levels_seen, classes_seen = set(), set()
    for seed in range(12):
        labels = compare(*random_scene(seed, count=8), sigma=sigma).labels
        for i, level in enumerate(labels.split([64, 16, 4])):
            levels_seen |= {i} if (level < C).any() else set()
        classes_seen |= set(labels.tolist())
    assert levels_seen == {0, 1, 2} and classes_seen == {0, 1, 2, C}


def test_a_hundred_boxes_are_labelled_as_the_loops_label_them():
    compare(*random_scene(7, count=100))


# --- which level ---


def test_both_ends_of_a_range_belong_to_it():
    def levels_of(width, height):
        box = [32 - width / 2, 32 - height / 2, 32 + width / 2, 32 + height / 2]
        locations = [torch.tensor([[32.0, 32.0]])] * 3
        return (compare([box], [1], locations=locations).labels == 1).tolist()

    assert levels_of(1.0, 1.0) == [True, False, False]
    assert levels_of(0.5, 1.0) == [False, False, False]
    assert levels_of(8.0, 8.0) == [True, True, False]
    assert levels_of(16.0, 4.0) == [True, True, False]  # the root of the area counts
    assert levels_of(7.5, 8.0) == [True, False, False]
    assert levels_of(16.0, 16.0) == [True, True, True]
    assert levels_of(16.5, 16.0) == [False, True, True]
    assert levels_of(32.0, 32.0) == [False, True, True]
    assert levels_of(32.0, 32.5) == [False, False, True]
    assert levels_of(512.0, 512.0) == [False, False, True]
    assert levels_of(512.0, 513.0) == [False, False, False]


# --- which location ---


def test_the_border_of_the_fovea_belongs_to_it():
    box = [0.0, 0.0, 40.0, 40.0]  # two fifths of it: 12 to 28
    for value, label in ((11.75, C), (12, 1), (20, 1), (28, 1), (28.25, C)):
        assert label_at(value, 16, [box], [1]) == label
        assert label_at(16, value, [box], [1]) == label


def test_rounding_does_not_move_the_border_of_the_fovea():
    for n in range(1, 200):
        width = 2.5 * n  # the fovea starts at 0.75 n, exactly
        assert label_at(0.75 * n, width / 2, [[0.0, 0, width, width]], [1]) == 1
        assert label_at(0.75 * n - 0.001 * n, width / 2, [[0.0, 0, width, width]], [1]) == C


def test_with_sigma_one_a_location_on_a_side_is_still_outside():
    assert label_at(0.25, 16, [[0.0, 0, 32, 32]], [1], sigma=1.0) == 1
    assert label_at(0, 16, [[0.0, 0, 32, 32]], [1], sigma=1.0) == C


def test_a_box_that_holds_no_location_in_its_fovea_has_no_positive():
    small = [33.0, 33.0, 39.0, 39.0]  # locations are at 36 on the finest level
    assert (compare([small], [1]).labels == 1).sum() == 1
    moved = [29.0, 29.0, 35.0, 35.0]  # those at 28 and 36 are both outside
    assert (compare([moved], [1]).labels == C).all()


def test_boxes_beyond_the_border_of_the_image_are_labelled():
    assert (compare([[-20.0, -30.0, 40.0, 60.0]], [2]).labels == 2).any()
    assert (compare([[70.0, 70.0, 90.0, 90.0]], [2]).labels == C).all()


# --- which box ---


def test_the_smallest_box_wins_and_then_the_first():
    large, small, same = [0.0, 0, 32, 32], [4.0, 4, 28, 28], [4.0, 6, 28, 30]
    assert label_at(16, 16, [large, small], [0, 1]) == 1
    assert label_at(16, 16, [small, large], [1, 0]) == 1
    assert label_at(16, 16, [large, small, same], [0, 1, 2]) == 1
    assert label_at(16, 16, [large, same, small], [0, 2, 1]) == 2


def test_no_boxes_make_everything_background():
    result = compare(*NO_BOXES)
    assert (result.labels == C).all() and (result.gt_index == -1).all()
    assert not result.score.any()


@pytest.mark.parametrize("flat", FLAT.values(), ids=FLAT.keys())
def test_a_box_without_area_is_never_matched(flat):
    ranges = ((0.0, 16.0), (8.0, 32.0), (16.0, 512.0))
    assert (compare([flat], [0], size_ranges=ranges).labels == C).all()
    result = compare([flat, [16.0, 16, 40, 40]], [0, 1], size_ranges=ranges)
    assert set(result.gt_index.tolist()) == {-1, 1}


def test_a_flat_box_through_a_location_is_never_matched():
    for flat in ([20.0, 4, 20, 36], [4.0, 20, 36, 20], [20.0, 20, 20, 20]):
        assert label_at(20, 20, [flat], [1]) == C


# --- the contract of an assigner ---


def test_the_same_input_gives_the_same_labels_and_is_left_as_it_was():
    locations, (boxes, classes) = grid_locations(), random_scene(3)
    copies, truth = [points.clone() for points in locations], instances(boxes, classes)
    assigner = FoveaBoxAssigner(num_classes=C, size_ranges=RANGES)
    first, second = assigner(locations, truth), assigner(locations, truth)
    for name in ("labels", "gt_index", "score"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert all(torch.equal(a, b) for a, b in zip(locations, copies, strict=True))
    assert torch.equal(truth.gt_boxes.tensor, boxes)


def test_the_shrunk_box_of_the_paper_is_the_default():
    box, locations = [0.0, 0.0, 40.0, 40.0], [torch.tensor([[12.5, 20.0], [11.5, 20.0]])]
    assigner = FoveaBoxAssigner(num_classes=C, size_ranges=((1.0, 64.0),))
    assert assigner(locations, instances([box], [1])).labels.tolist() == [1, C]


def test_labels_are_integers_scores_are_floats_and_nothing_has_a_gradient():
    locations = [points.requires_grad_() for points in grid_locations()]
    result = FoveaBoxAssigner(num_classes=C, size_ranges=RANGES)(
        locations, instances(*random_scene(1))
    )
    assert result.labels.dtype == result.gt_index.dtype == torch.int64
    assert result.score.dtype == torch.float32 and not result.score.requires_grad
    assert result.labels.shape == result.gt_index.shape == result.score.shape == (84,)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_labels_on_a_gpu_are_those_of_the_cpu_and_stay_on_the_gpu():
    boxes, classes = random_scene(2)
    assigner = FoveaBoxAssigner(num_classes=C, size_ranges=RANGES)
    expected = assigner(grid_locations(), instances(boxes, classes))
    on_gpu = [points.cuda() for points in grid_locations()]
    result = assigner(on_gpu, instances(boxes, classes).to("cuda"))
    assert result.labels.is_cuda and result.gt_index.is_cuda and result.score.is_cuda
    assert torch.equal(result.labels.cpu(), expected.labels)
