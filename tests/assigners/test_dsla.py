"""Labels of DSLA against the loops of tests/reference/dsla.py, and the properties of its labels."""

import math

import pytest
import torch

from anchorkit.assigners import DSLAAssigner, FCOSAssigner
from tests.assigners.test_fcos import FLAT, NO_BOXES
from tests.reference import dsla as oracle
from tests.reference.boxes import area
from tests.reference.scenes import STRIDES, grid_locations, instances, random_boxes, random_scene

C = 3
RANGES = ((0.0, 12.0), (12.0, 24.0), (24.0, math.inf))
AREA_RANGES = ((1.0, 16.0), (8.0, 32.0), (16.0, 512.0))
# The library computes in single precision. Labels closer than this count as equal there.
TOLERANCE = 1e-5


def assigner(**options):
    options = {"strides": STRIDES, "size_ranges": RANGES} | options
    return DSLAAssigner(num_classes=C, **options)


def compare(boxes, classes, *, locations=None, **options):
    """Labels of the library, after they were found equal to the oracle's.

    Where two boxes have labels that differ by rounding alone, either may own the location.
    """
    locations = grid_locations() if locations is None else locations
    boxes, classes = torch.as_tensor(boxes), torch.as_tensor(classes)
    options = {"strides": STRIDES, "size_ranges": RANGES} | options
    expected = oracle.assign(locations, boxes, classes, num_classes=C, **options)
    values = oracle.all_smooth_labels(locations, boxes, **options)
    actual = DSLAAssigner(num_classes=C, **options)(locations, instances(boxes, classes))
    assert actual.score.tolist() == pytest.approx(expected.score, abs=TOLERANCE)
    assert (actual.score > 0).tolist() == [score > 0 for score in expected.score]
    labels, gt_index = actual.labels.tolist(), actual.gt_index.tolist()
    for i, row in enumerate(values):
        best = max(row, default=0.0)
        if any(0 < best - value < TOLERANCE for value in row):
            assert best - row[gt_index[i]] < TOLERANCE
            assert labels[i] == classes[gt_index[i]]
        else:
            assert (labels[i], gt_index[i]) == (expected.labels[i], expected.gt_index[i]), i
    return actual


def score_at(x, y, box, **options):
    """Label of one location for one box; one level whose range holds everything."""
    options = {"size_ranges": ((0.0, math.inf),), "strides": (8,)} | options
    return owner_at(x, y, [box], **options)[0]


def owner_at(x, y, boxes, **options):
    """Label and index of the box of one location of one level whose range holds everything."""
    options = {"size_ranges": ((0.0, math.inf),), "strides": (8,)} | options
    location = [torch.tensor([[float(x), float(y)]])]
    result = compare(boxes, [i % C for i in range(len(boxes))], locations=location, **options)
    return result.score.item(), result.gt_index.item()


# --- random scenes ---

SWITCHES = [
    {"kappa": kappa, "core_zone": core_zone} for kappa in (0.0, 0.2, 0.4) for core_zone in (0, 1)
]


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize(
    "host",
    [{}, {"center_sampling_radius": 1.5}, {"size": "sqrt_area", "size_ranges": AREA_RANGES}],
    ids=["fcos", "fcosv2", "foveabox"],
)
def test_random_scenes_are_labelled_as_the_loops_label_them(switches, host):
    switches = switches | {"core_zone": bool(switches["core_zone"])}
    levels_seen, classes_seen = set(), set()
    for seed in range(4):
        labels = compare(*random_scene(seed, count=8), **switches, **host).labels
        for i, level in enumerate(labels.split([64, 16, 4])):
            levels_seen |= {i} if (level < C).any() else set()
        classes_seen |= set(labels.tolist())
    assert levels_seen == {0, 1, 2} and classes_seen == {0, 1, 2, C}


def test_the_switches_of_the_paper_are_the_defaults():
    boxes, classes = random_scene(1, count=8)
    result = assigner()(grid_locations(), instances(boxes, classes))
    explicit = {"kappa": 0.2, "core_zone": True, "size": "max_distance"}
    assert torch.equal(
        result.score, compare(boxes, classes, center_sampling_radius=0.0, **explicit).score
    )


def test_a_hundred_boxes_are_labelled_as_the_loops_label_them():
    for options in ({}, {"center_sampling_radius": 1.5}):
        compare(*random_scene(7, count=100), **options)


def test_maps_that_are_wider_than_high_keep_rows_before_columns():
    boxes = torch.tensor([[30.0, 0.0, 50.0, 16.0], [0.0, 0.0, 20.0, 15.0]])
    labels = compare(boxes, [0, 2], locations=grid_locations(16, 56)).labels
    assert {0, 2} <= set(labels.tolist())


# --- interval relaxation, eqs 3 and 4 ---


def test_labels_across_a_bound_have_the_values_of_the_ramps():
    # One location, at the middle of the left side's half: its centerness is sqrt(8 / r).
    def head(r, bounds, kappa):
        score = score_at(
            8, 8, [0.0, 0, 8 + r, 16], size_ranges=(bounds,), kappa=kappa, core_zone=False
        )
        return score / math.sqrt(8 / r)

    # kappa 1/4: the bounds 16 and 32 become 12 and 40.
    expected = {11: 0, 12: 0, 13: 0.25, 14: 0.5, 16: 1, 17: 1, 32: 1, 34: 0.75, 39: 0.125, 40: 0}
    for r, value in expected.items():
        assert head(r, (16.0, 32.0), 0.25) == pytest.approx(value, abs=1e-5), r
    hard = {15: 0, 16: 0, 16.25: 1, 32: 1, 32.25: 0}
    for r, value in hard.items():
        assert head(r, (16.0, 32.0), 0.0) == pytest.approx(value, abs=1e-5), r


def test_zero_and_infinity_are_not_relaxed():
    for kappa in (0.0, 0.2, 0.9):
        options = {"size_ranges": ((0.0, math.inf),), "kappa": kappa, "core_zone": False}
        assert score_at(0.25, 0.25, [0.0, 0, 0.5, 0.5], **options) == 1
        assert score_at(1e5, 1e5, [0.0, 0, 2e5, 2e5], **options) == 1


def test_ramps_follow_the_root_of_the_area_for_foveabox():
    def head(width, height, kappa):
        box = [32 - width / 2, 32 - height / 2, 32 + width / 2, 32 + height / 2]
        options = {"size_ranges": ((16.0, 32.0),), "kappa": kappa, "size": "sqrt_area"}
        return score_at(32, 32, box, **options)

    expected = {12: 0, 13: 0.25, 14: 0.5, 16: 1, 32: 1, 34: 0.75, 40: 0}
    for side, value in expected.items():
        assert head(side, side, 0.25) == pytest.approx(value, abs=1e-5), side
        assert head(2 * side, side / 2, 0.25) == pytest.approx(value, abs=1e-5), side
    hard = {15.75: 0, 16: 1, 32: 1, 32.25: 0}
    for side, value in hard.items():
        assert head(side, side, 0.0) == value, side


def largest_step(sizes, **options):
    """Largest change of any label between neighbouring sizes of a square box."""
    scores = []
    for size in sizes:
        box = [32 - size / 2, 30 - size / 2, 32 + size / 2, 30 + size / 2]
        scores.append(assigner(**options)(grid_locations(), instances([box], [0])).score)
    return torch.stack(scores).diff(dim=0).abs().max().item()


@pytest.mark.parametrize(
    "host",
    [{"size_ranges": RANGES}, {"size_ranges": AREA_RANGES, "size": "sqrt_area"}],
    ids=["fcos", "foveabox"],
)
def test_labels_are_continuous_in_the_size_of_a_box(host):
    # A step of 0.1 moves a side by 0.05 pixels. Where a location comes into the box its label
    # grows fastest, like the root of the distance: sqrt(0.05 / 8) for the smallest box.
    sizes = [8 + 0.1 * i for i in range(520)]
    assert largest_step(sizes, kappa=0.2, core_zone=False, **host) < 0.08
    assert largest_step(sizes, kappa=0.0, core_zone=False, **host) > 0.3


# --- the core zone, eqs 5 and 6 ---


def test_the_border_of_the_core_zone_belongs_to_it():
    box = [0.0, 0.0, 64.0, 64.0]  # stride 8: 28 to 36
    for value, inside in ((27.75, 0), (28, 1), (32, 1), (36, 1), (36.25, 0)):
        assert (score_at(value, 33, box) == 1) == bool(inside)
        assert (score_at(33, value, box) == 1) == bool(inside)
        assert score_at(value, 33, box, core_zone=False) < 1


def test_outside_the_core_zone_the_label_is_the_centerness():
    box = [0.0, 0.0, 64.0, 64.0]
    assert score_at(16, 16, box) == pytest.approx(1 / 3)
    assert score_at(32, 16, box) == pytest.approx(math.sqrt(1 / 3))
    assert score_at(16, 16, box, core_zone=False) == pytest.approx(1 / 3)


def test_the_core_zone_ends_with_the_box():
    thin = [0.0, 30.0, 64.0, 33.0]  # the zone: 28 to 36 by 30 to 33
    assert score_at(32, 32, thin) == 1
    assert score_at(28, 30.25, thin) == 1
    # On a side and beyond it a location is not inside the box.
    assert score_at(32, 30, thin) == 0
    assert score_at(32, 33, thin) == 0
    assert score_at(32, 34, thin) == 0


def test_the_core_zone_has_the_stride_of_its_level():
    locations = [torch.tensor([[26.0, 32.0]])] * 3
    ranges = ((0.0, 1e4),) * 3
    box = [[0.0, 0.0, 64.0, 64.0]]
    scores = compare(box, [0], locations=locations, size_ranges=ranges).score.tolist()
    assert scores[0] == pytest.approx(math.sqrt(26 / 38))
    assert scores[1:] == [1, 1]


@pytest.mark.parametrize("stride", STRIDES)
def test_a_box_at_least_a_stride_wide_and_high_keeps_a_label_of_one(stride):
    """The paper's claim below eq. 6, at each level on which the range admits its centre."""
    generator = torch.Generator().manual_seed(stride)
    level, size = STRIDES.index(stride), 192
    locations = grid_locations(size, size)
    assign = assigner(kappa=0.0)
    lower, upper = RANGES[level]
    tried = 0
    for box in random_boxes(generator, 300, size, smallest=stride).tolist():
        centre = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        half = max(box[2] - box[0], box[3] - box[1]) / 2
        # The largest distance of any point of the zone, which the range must hold.
        if not (0 <= min(centre) and max(centre) <= size):
            continue
        if not (lower < half and half + stride / 2 <= upper):
            continue
        if min(box[2] - box[0], box[3] - box[1]) < stride:
            continue
        tried += 1
        scores = assign(locations, instances([box], [0], (size, size))).score
        of_level = scores.split([len(points) for points in locations])[level]
        num_ones = (of_level == 1).sum().item()
        assert 1 <= num_ones <= 4, box
    assert tried >= 5


def test_boxes_smaller_than_a_stride_may_have_no_positive_location_and_are_counted():
    generator = torch.Generator().manual_seed(0)
    boxes = random_boxes(generator, 60, 64, smallest=1.5)
    missed = {"library": 0, "loops": 0}
    positives = {"large": 0, "small": 0}
    for box in boxes:
        is_small = min(box[2] - box[0], box[3] - box[1]) < STRIDES[0]
        actual = assigner()(grid_locations(), instances(box, [0]))
        expected = oracle.assign(
            grid_locations(), box[None], [0], num_classes=C, strides=STRIDES, size_ranges=RANGES
        )
        missed["library"] += not (actual.score > 0).any()
        missed["loops"] += max(expected.score) == 0
        positives["small" if is_small else "large"] += bool((actual.score > 0).any())
    assert missed["library"] == missed["loops"]
    assert 10 <= missed["library"] <= 50 and positives["small"] > 0


# --- which box, below eq. 7 ---


def test_the_highest_label_wins_over_the_smallest_box():
    # At (16, 16) the large box has label 1 in its core zone; the small one is far from its centre.
    large, small = [0.0, 0, 32, 32], [14.0, 14, 30, 30]
    assert owner_at(16, 16, [large, small]) == (1, 0)
    assert owner_at(16, 16, [small, large]) == (1, 1)
    by_area = FCOSAssigner(num_classes=C, size_ranges=((0.0, math.inf),))
    location = [torch.tensor([[16.0, 16.0]])]
    assert by_area(location, instances([large, small], [0, 1])).gt_index.tolist() == [1]
    # Near the centre of the small one it is the other way round.
    score, index = owner_at(25, 25, [large, small])
    assert index == 1 and score == 1


def test_equal_labels_go_to_the_smaller_box_and_then_to_the_first():
    large, small, same = [0.0, 0, 32, 32], [4.0, 4, 28, 28], [4.0, 4, 28, 28]
    for core_zone in (True, False):
        options = {"core_zone": core_zone}
        assert owner_at(16, 16, [large, small], **options) == (1, 1)
        assert owner_at(16, 16, [small, large], **options) == (1, 0)
        assert owner_at(16, 16, [large, small, same], **options) == (1, 1)
    # Equal below 1, by symmetry.
    left, right = [0.0, 0, 48, 32], [16.0, 0, 64, 32]
    score, index = owner_at(32, 8, [left, right], core_zone=False)
    assert 0 < score < 1 and index == 0
    assert owner_at(32, 8, [right, left], core_zone=False) == (score, 0)


def test_the_label_at_a_location_is_that_of_its_own_box():
    large, small = [0.0, 0, 32, 32], [14.0, 14, 30, 30]
    result = compare([large, small], [0, 2], core_zone=False)
    assert {0, 2} <= set(result.labels.tolist())


# --- relations to FCOS ---


def test_without_core_zone_and_relaxation_labels_are_those_of_impr_0():
    """FCOS's hard range times centerness; FCOS's own labels where boxes do not overlap."""
    for seed in range(6):
        boxes, classes = random_scene(seed, count=8)
        for box, c in zip(boxes, classes, strict=True):
            truth = instances(box, [c])
            hard = FCOSAssigner(num_classes=C, size_ranges=RANGES)(grid_locations(), truth)
            soft = assigner(kappa=0.0, core_zone=False)(grid_locations(), truth)
            assert torch.equal(hard.labels, soft.labels)
            assert torch.equal(hard.gt_index, soft.gt_index)
            centerness = [
                oracle.centerness(oracle.distances(point, box.tolist())) * is_hard
                for (_, point), is_hard in zip(
                    oracle.flat_locations(grid_locations()), hard.score.tolist(), strict=True
                )
            ]
            assert soft.score.tolist() == pytest.approx(centerness, abs=TOLERANCE)


@pytest.mark.parametrize("radius", [0.0, 1.5])
def test_as_kappa_goes_to_zero_labels_become_those_without_relaxation(radius):
    # No distance of these scenes is a bound itself, where the lower ramp is 1 for any kappa.
    ranges = ((0.0, 12.1), (12.1, 24.1), (24.1, math.inf))
    options = {"core_zone": False, "center_sampling_radius": radius, "size_ranges": ranges}
    num_positives, differ = 0, 0
    for seed in range(6):
        truth = instances(*random_scene(seed, count=8))
        none, little, much = (
            assigner(kappa=kappa, **options)(grid_locations(), truth) for kappa in (0.0, 1e-6, 0.1)
        )
        for name in ("labels", "gt_index", "score"):
            assert torch.equal(getattr(none, name), getattr(little, name))
        num_positives += (none.score > 0).sum().item()
        differ += (none.score != much.score).sum().item()
    assert num_positives > 30 and differ > 0


def test_relaxation_and_core_zone_never_lower_a_label():
    options = [{"kappa": k, "core_zone": z} for k in (0.0, 0.1, 0.4) for z in (False, True)]
    raised = 0
    for seed in range(6):
        truth = instances(*random_scene(seed, count=8))
        scores = [assigner(**o)(grid_locations(), truth).score for o in options]
        for low, high in ((0, 1), (2, 3), (4, 5), (0, 2), (2, 4), (1, 3), (3, 5)):
            assert (scores[low] <= scores[high] + TOLERANCE).all()
            raised += (scores[low] + 0.01 < scores[high]).sum().item()
    assert raised > 100


def test_labels_lie_between_zero_and_one_and_background_has_zero():
    for seed in range(4):
        for options in ({}, {"size": "sqrt_area", "size_ranges": AREA_RANGES}, {"kappa": 0.9}):
            boxes, classes = random_scene(seed, count=30)
            result = assigner(**options)(grid_locations(), instances(boxes, classes))
            assert ((result.score >= 0) & (result.score <= 1)).all()
            is_positive = result.score > 0
            assert torch.equal(is_positive, result.gt_index >= 0)
            assert torch.equal(is_positive, result.labels < C)
            owned = result.gt_index[is_positive]
            assert torch.equal(result.labels[is_positive], classes[owned])


# --- centre sampling ---


def test_center_sampling_leaves_only_what_is_near_the_centre():
    box = [0.0, 0.0, 64.0, 64.0]
    for value, inside in ((20, 0), (20.25, 1), (43.75, 1), (44, 0)):
        score = score_at(value, 30, box, center_sampling_radius=1.5)
        assert (score > 0) == bool(inside)
        if inside:  # labels inside are what they were
            assert score == score_at(value, 30, box)
    # A square smaller than the core zone cuts it, its border included.
    assert score_at(36, 32, box, center_sampling_radius=0.5) == 0
    assert score_at(35, 32, box, center_sampling_radius=0.5) == 1


# --- odd boxes ---


def test_no_boxes_make_everything_background():
    for options in ({}, {"size": "sqrt_area", "size_ranges": AREA_RANGES}):
        result = compare(*NO_BOXES, **options)
        assert (result.labels == C).all() and (result.gt_index == -1).all()
        assert not result.score.any()


@pytest.mark.parametrize("flat", FLAT.values(), ids=FLAT.keys())
@pytest.mark.parametrize("core_zone", [True, False])
@pytest.mark.parametrize("size", ["max_distance", "sqrt_area"])
def test_a_box_without_area_is_never_matched(flat, core_zone, size):
    options = {"core_zone": core_zone, "size": size}
    options["size_ranges"] = ((0.0, 16.0), (8.0, 32.0), (16.0, 512.0))
    assert (compare([flat], [0], **options).labels == C).all()
    # Indices stay those of the list that came in, and the other box has the labels it has alone.
    both = compare([flat, [16.0, 16, 40, 40]], [0, 1], **options)
    alone = compare([[16.0, 16, 40, 40]], [1], **options)
    assert set(both.gt_index.tolist()) == {-1, 1}
    assert torch.equal(both.score, alone.score)


def test_a_flat_box_through_a_location_is_never_matched():
    for flat in ([20.0, 4, 20, 36], [4.0, 20, 36, 20], [20.0, 20, 20, 20]):
        assert score_at(20, 20, flat) == 0


def test_boxes_on_and_beyond_the_border_of_the_image_are_labelled():
    on_border = compare([[0.0, 0.0, 20.0, 20.0], [44.0, 40.0, 64.0, 64.0]], [0, 2])
    assert {0, 2} <= set(on_border.labels.tolist())
    assert (compare([[-20.0, -30.0, 20.0, 25.0]], [2]).labels == 2).any()
    # The centre of this one, and with it the core zone, is beyond the border.
    outside = compare([[50.0, 50.0, 80.0, 80.0]], [1]).score
    assert 0 < outside.max() < 1
    assert not compare([[70.0, 70.0, 90.0, 90.0]], [2]).score.any()


def test_a_box_larger_than_the_image_is_labelled():
    result = compare([[-500.0, -500.0, 600.0, 600.0]], [2])
    assert result.labels.tolist() == [C] * 80 + [2] * 4


# --- the contract of an assigner ---


def test_the_same_input_gives_the_same_labels_and_is_left_as_it_was():
    locations, (boxes, classes) = grid_locations(), random_scene(3)
    copies, truth = [points.clone() for points in locations], instances(boxes, classes)
    first, second = assigner()(locations, truth), assigner()(locations, truth)
    for name in ("labels", "gt_index", "score"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert all(torch.equal(a, b) for a, b in zip(locations, copies, strict=True))
    assert torch.equal(truth.gt_boxes.tensor, boxes)


def test_the_order_of_the_boxes_does_not_change_the_labels():
    boxes, classes = random_scene(11, count=8)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    first, second = compare(boxes, classes), compare(boxes[order], classes[order])
    assert torch.equal(first.score, second.score)
    assert torch.equal(first.labels, second.labels)
    matched = second.gt_index >= 0
    assert matched.any()
    areas = torch.tensor([area(box) for box in boxes.tolist()])
    # Two boxes with the same label and the same area keep their order, which was changed.
    assert areas.unique().numel() == len(areas)
    assert torch.equal(order[second.gt_index[matched]], first.gt_index[matched])


def test_labels_are_integers_scores_are_floats_and_nothing_has_a_gradient():
    locations = [points.requires_grad_() for points in grid_locations()]
    result = assigner()(locations, instances(*random_scene(1)))
    assert result.labels.dtype == result.gt_index.dtype == torch.int64
    assert result.score.dtype == torch.float32 and not result.score.requires_grad
    assert result.labels.shape == result.gt_index.shape == result.score.shape == (84,)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_labels_on_a_gpu_are_those_of_the_cpu_and_stay_on_the_gpu():
    truth = instances(*random_scene(2))
    expected = assigner()(grid_locations(), truth)
    result = assigner()([points.cuda() for points in grid_locations()], truth.to("cuda"))
    assert result.labels.is_cuda and result.gt_index.is_cuda and result.score.is_cuda
    assert torch.equal(result.labels.cpu(), expected.labels)
    torch.testing.assert_close(result.score.cpu(), expected.score)
