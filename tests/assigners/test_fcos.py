"""Labels of FCOS and its second version against the loops of tests/reference/fcos.py."""

import math

import pytest
import torch

from anchorkit.assigners import FCOSAssigner
from anchorkit.geometry import centerness, ltrb_distances
from tests.reference import fcos as oracle
from tests.reference.scenes import STRIDES, grid_locations, instances, random_scene

C = 3
RANGES = ((0.0, 12.0), (12.0, 24.0), (24.0, math.inf))
SAMPLING = {"strides": STRIDES, "center_sampling_radius": 1.5}
NO_BOXES = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


def compare(boxes, classes, *, locations=None, size_ranges=RANGES, **options):
    """Labels of the library, after they were found equal to the oracle's."""
    locations = grid_locations() if locations is None else locations
    boxes, classes = torch.as_tensor(boxes), torch.as_tensor(classes)
    expected = oracle.assign_fcos(
        locations, boxes, classes, num_classes=C, size_ranges=size_ranges, **options
    )
    assigner = FCOSAssigner(num_classes=C, size_ranges=size_ranges, **options)
    actual = assigner(locations, instances(boxes, classes))
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


@pytest.mark.parametrize(
    "options",
    [{}, {"shrink": 0.5}, SAMPLING, SAMPLING | {"center_sampling_radius": 0.75}],
    ids=["plain", "shrunk", "sampled", "sampled narrowly"],
)
def test_random_scenes_are_labelled_as_the_loops_label_them(options):
    levels_seen, classes_seen = set(), set()
    for seed in range(6):
        labels = compare(*random_scene(seed, count=8), **options).labels
        for i, level in enumerate(labels.split([64, 16, 4])):
            levels_seen |= {i} if (level < C).any() else set()
        classes_seen |= set(labels.tolist())
    assert levels_seen == {0, 1, 2} and classes_seen == {0, 1, 2, C}


def test_a_hundred_boxes_are_labelled_as_the_loops_label_them():
    for options in ({}, SAMPLING):
        compare(*random_scene(7, count=100), **options)


def test_maps_that_are_wider_than_high_keep_rows_before_columns():
    boxes = torch.tensor([[32.0, 0.0, 48.0, 16.0], [0.0, 0.0, 20.0, 15.0]])
    labels = compare(boxes, [0, 2], locations=grid_locations(16, 56)).labels
    assert {0, 2} <= set(labels.tolist())


# --- which level ---


def test_the_upper_end_of_a_range_belongs_to_it_and_the_lower_does_not():
    # The location (8, 8) has the distances 8, 8, 8 and r to this box.
    def levels_of(r):
        locations = [torch.tensor([[8.0, 8.0]])] * 3
        labels = compare([[0.0, 0.0, 8.0 + r, 16.0]], [1], locations=locations).labels
        return (labels == 1).tolist()

    assert levels_of(12.0) == [True, False, False]
    assert levels_of(12.25) == [False, True, False]
    assert levels_of(24.0) == [False, True, False]
    assert levels_of(24.25) == [False, False, True]
    assert levels_of(1e6) == [False, False, True]


def test_a_location_outside_every_range_is_background():
    assert label_at(8, 8, [[0.0, 0.0, 16.0, 16.0]], [0], size_ranges=((0.0, 4.0),)) == C
    assert label_at(8, 8, [[0.0, 0.0, 16.0, 16.0]], [0], size_ranges=((8.0, 16.0),)) == C
    assert label_at(8, 8, [[0.0, 0.0, 16.0, 16.0]], [0], size_ranges=((7.0, 8.0),)) == 0


# --- inside ---


@pytest.mark.parametrize(
    "box",
    [[8.0, 0, 24, 16], [0.0, 8, 16, 24], [-8.0, 0, 8, 16], [0.0, -8, 16, 8]],
    ids=["left", "top", "right", "bottom"],
)
def test_a_location_on_a_side_is_not_inside(box):
    assert label_at(8, 8, [box], [1]) == C
    grown = [box[0] - 0.25, box[1] - 0.25, box[2] + 0.25, box[3] + 0.25]
    assert label_at(8, 8, [grown], [1]) == 1


def test_a_location_on_the_border_of_the_shrunk_box_is_not_inside():
    # Half of the box reaches from 8 to 24.
    box = [0.0, 0.0, 32.0, 32.0]
    assert label_at(8, 16, [box], [1], shrink=0.5) == C
    assert label_at(8.25, 16, [box], [1], shrink=0.5) == 1


def test_center_sampling_keeps_what_is_near_the_centre():
    box = [0.0, 0.0, 64.0, 64.0]
    options = {"strides": (8,), "center_sampling_radius": 1.5}
    for x, label in ((20, C), (20.25, 1), (32, 1), (43.75, 1), (44, C)):
        assert label_at(x, 32, [box], [1], **options) == label
        assert label_at(32, x, [box], [1], **options) == label


def test_center_sampling_does_not_reach_beyond_the_box():
    thin = [0.0, 14.0, 64.0, 18.0]
    options = {"strides": (8,), "center_sampling_radius": 1.5}
    assert label_at(32, 16, [thin], [1], **options) == 1
    assert label_at(32, 18, [thin], [1], **options) == C
    assert label_at(32, 20, [thin], [1], **options) == C


def test_the_sampling_square_grows_with_the_stride():
    locations = [torch.tensor([[16.0, 32.0]])] * 2
    options = {"size_ranges": ((0.0, 1e4),) * 2, "strides": (8, 16)}
    box = [[0.0, 0.0, 64.0, 64.0]]
    labels = compare(box, [1], locations=locations, center_sampling_radius=1.5, **options).labels
    assert labels.tolist() == [C, 1]


def test_boxes_beyond_the_border_of_the_image_are_labelled():
    inside = compare([[-20.0, -30.0, 20.0, 25.0]], [2]).labels
    assert (inside == 2).any()
    assert (compare([[70.0, 70.0, 90.0, 90.0]], [2]).labels == C).all()


# --- which box ---


def test_the_smallest_box_wins_and_then_the_first():
    large, small, same = [0.0, 0, 32, 32], [4.0, 4, 28, 28], [4.0, 6, 28, 30]
    assert label_at(16, 16, [large, small], [0, 1]) == 1
    assert label_at(16, 16, [small, large], [1, 0]) == 1
    assert label_at(16, 16, [large, small, same], [0, 1, 2]) == 1
    assert label_at(16, 16, [large, same, small], [0, 2, 1]) == 2


def test_the_smallest_box_counts_only_where_the_level_is_its_own():
    large, small = [0.0, 0, 60, 60], [20.0, 20, 40, 40]
    result = compare([large, small], [0, 1])
    fine, middle, coarse = result.labels.split([64, 16, 4])
    assert set(fine.tolist()) == {1, C}
    assert 0 in coarse.tolist() and 1 not in coarse.tolist()


def test_no_boxes_make_everything_background():
    for options in ({}, SAMPLING):
        result = compare(*NO_BOXES, **options)
        assert (result.labels == C).all() and (result.gt_index == -1).all()
        assert not result.score.any()


FLAT = {
    "no width": [20.0, 20, 20, 40],
    "no height": [20.0, 20, 40, 20],
    "a point": [20.0, 20, 20, 20],
    "inverted": [40.0, 40, 4, 4],
}


@pytest.mark.parametrize("flat", FLAT.values(), ids=FLAT.keys())
@pytest.mark.parametrize("options", [{}, SAMPLING], ids=["plain", "sampled"])
def test_a_box_without_area_is_never_matched(flat, options):
    assert (compare([flat], [0], **options).labels == C).all()
    # Indices stay those of the list that came in.
    result = compare([flat, [16.0, 16, 40, 40]], [0, 1], **options)
    assert set(result.gt_index.tolist()) == {-1, 1}


# --- the contract of an assigner ---


def test_the_same_input_gives_the_same_labels_and_is_left_as_it_was():
    locations, (boxes, classes) = grid_locations(), random_scene(3)
    copies, truth = [points.clone() for points in locations], instances(boxes, classes)
    assigner = FCOSAssigner(num_classes=C, size_ranges=RANGES, **SAMPLING)
    first, second = assigner(locations, truth), assigner(locations, truth)
    for name in ("labels", "gt_index", "score"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert all(torch.equal(a, b) for a, b in zip(locations, copies, strict=True))
    assert torch.equal(truth.gt_boxes.tensor, boxes)


def test_the_order_of_the_boxes_does_not_change_the_labels():
    boxes, classes = random_scene(11, count=8)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    first, second = compare(boxes, classes), compare(boxes[order], classes[order])
    assert torch.equal(first.labels, second.labels)
    matched = second.gt_index >= 0
    assert matched.any()
    assert torch.equal(order[second.gt_index[matched]], first.gt_index[matched])


def test_labels_are_integers_scores_are_floats_and_nothing_has_a_gradient():
    locations = [points.requires_grad_() for points in grid_locations()]
    result = FCOSAssigner(num_classes=C, size_ranges=RANGES)(locations, instances(*random_scene(1)))
    assert result.labels.dtype == result.gt_index.dtype == torch.int64
    assert result.score.dtype == torch.float32 and not result.score.requires_grad
    assert result.labels.shape == result.gt_index.shape == result.score.shape == (84,)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_labels_on_a_gpu_are_those_of_the_cpu_and_stay_on_the_gpu():
    boxes, classes = random_scene(2)
    assigner = FCOSAssigner(num_classes=C, size_ranges=RANGES, **SAMPLING)
    expected = assigner(grid_locations(), instances(boxes, classes))
    on_gpu = [points.cuda() for points in grid_locations()]
    result = assigner(on_gpu, instances(boxes, classes).to("cuda"))
    assert result.labels.is_cuda and result.gt_index.is_cuda and result.score.is_cuda
    assert torch.equal(result.labels.cpu(), expected.labels)


# --- distances and centerness ---


def test_distances_and_centerness_are_those_of_the_loops():
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(200, 2, generator=generator) * 64
    corner = torch.rand(200, 2, generator=generator) * 40
    boxes = torch.cat([corner, corner + 40 * torch.rand(200, 2, generator=generator)], dim=1)
    expected = [
        oracle.distances(p, b) for p, b in zip(points.tolist(), boxes.tolist(), strict=True)
    ]
    ltrb = ltrb_distances(points, boxes)
    torch.testing.assert_close(ltrb, torch.tensor(expected))
    values = centerness(ltrb)
    torch.testing.assert_close(values, torch.tensor([oracle.centerness(d) for d in expected]))
    assert (values > 0.5).any() and (values == 0).any()


def test_known_distances_have_known_centerness():
    known = {
        (5.0, 5.0, 5.0, 5.0): 1.0,
        (2.0, 5.0, 8.0, 5.0): 0.5,
        (1.0, 1.0, 4.0, 4.0): 0.25,
        (4.0, 1.0, 1.0, 9.0): 1 / 6,
        (0.0, 5.0, 5.0, 5.0): 0.0,
        (-1.0, 5.0, 5.0, 5.0): 0.0,
        (-1.0, -1.0, 5.0, 5.0): 0.0,
        (-5.0, -5.0, -5.0, -5.0): 0.0,
        (0.0, 0.0, 0.0, 0.0): 0.0,
    }
    torch.testing.assert_close(
        centerness(torch.tensor(list(known))), torch.tensor(list(known.values()))
    )


def test_centerness_keeps_leading_dimensions_and_the_type():
    ltrb = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert centerness(ltrb).shape == (2, 3, 5) and centerness(ltrb).dtype == torch.float64
    assert centerness(torch.zeros(0, 4)).shape == (0,)
    assert ltrb_distances(torch.zeros(0, 2), torch.zeros(0, 4)).shape == (0, 4)
