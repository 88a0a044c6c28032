"""Labels of anchors and locations against the loops of tests/reference/semi_anchored.py."""

import pytest
import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, pairwise_iou

from anchorkit.assigners import FCOSAssigner, SemiAnchoredAssigner, level_size_ranges, matching
from tests.reference import semi_anchored as oracle
from tests.reference.scenes import (
    ONE_SHAPE,
    SIX_SHAPES,
    grid_anchors,
    instances,
    pyramid,
    random_scene,
)

C = 3
NO_BOXES = torch.zeros(0, 4)


def assigner(**options):
    return SemiAnchoredAssigner(num_classes=C, **options)


def fcos_labeler(range_ends, shrink):
    size_ranges = level_size_ranges(range_ends)
    return FCOSAssigner(num_classes=C, size_ranges=size_ranges, shrink=shrink)


def check_against_oracle(assignment, expected):
    """Every field of an assignment equals the oracle's."""
    anchors, locations = assignment.anchors, assignment.locations
    assert anchors.labels.tolist() == expected.anchor_labels
    assert anchors.gt_index.tolist() == expected.anchor_gt
    assert locations.labels.tolist() == expected.location_labels
    assert locations.gt_index.tolist() == expected.location_gt
    assert anchors.score.tolist() == [float(0 <= c < C) for c in expected.anchor_labels]
    assert locations.score.tolist() == [float(0 <= c < C) for c in expected.location_labels]


def compare(levels, boxes, classes, *, iou_thresholds=(0.5, 0.5), low_quality=True, **options):
    expected = oracle.assign(
        levels,
        boxes,
        classes,
        num_classes=C,
        thresholds=iou_thresholds,
        low_quality=low_quality,
        **options,
    )
    actual = assigner(iou_thresholds=iou_thresholds, low_quality_matches=low_quality, **options)(
        levels, instances(boxes, classes)
    )
    check_against_oracle(actual, expected)
    return actual


def one_location(counts, num_anchors):
    """A location where ``counts[c]`` anchors equal the box of class c and the rest lie far off."""
    shapes = []
    boxes = [[100.0 * c, 0.0, 100.0 * c + 8, 8.0] for c in range(len(counts))]
    for c, n in enumerate(counts):
        shapes += [boxes[c]] * n
    shapes += [[0.0, 500.0, 4.0, 504.0]] * (num_anchors - len(shapes))
    return [torch.tensor(shapes).reshape(1, 1, num_anchors, 4)], torch.tensor(boxes)


def location_label(counts, num_anchors, gamma):
    levels, boxes = one_location(counts, num_anchors)
    result = assigner(gamma=gamma, low_quality_matches=False)(
        levels, instances(boxes, range(len(counts)))
    )
    return result.locations.labels.item()


# --- random scenes ---


@pytest.mark.parametrize("gamma", [0.0, 1 / 26, 0.1, 0.2, 0.3])
@pytest.mark.parametrize("iou_thresholds", [(0.5, 0.5), (0.4, 0.5), (0.3, 0.6)])
@pytest.mark.parametrize("low_quality", [True, False])
def test_random_scenes_are_labelled_as_the_loops_label_them(gamma, iou_thresholds, low_quality):
    seen = set()
    for seed in range(4):
        boxes, classes = random_scene(seed)
        result = compare(
            pyramid(),
            boxes,
            classes,
            gamma=gamma,
            iou_thresholds=iou_thresholds,
            low_quality=low_quality,
        )
        seen |= set(result.locations.labels.tolist())
    assert len(seen & set(range(C))) >= 2, "the scenes must have positives of several classes"


@pytest.mark.parametrize("ignore_locations", [True, False])
def test_a_location_with_only_ignored_anchors_is_ignored_or_background(ignore_locations):
    boxes, classes = random_scene(5)
    band = {"iou_thresholds": (0.3, 0.5), "ignore_locations": ignore_locations}
    labels = compare(pyramid(), boxes, classes, **band).locations.labels
    assert (labels == -1).any().item() == ignore_locations


def test_levels_may_have_different_numbers_of_anchors():
    levels = pyramid(shapes=[SIX_SHAPES[:2], SIX_SHAPES, ONE_SHAPE])
    for seed in range(4):
        result = compare(levels, *random_scene(seed))
        compare(levels, *random_scene(seed), gamma=0.3)
    assert len(result.anchors.labels) == 64 * 2 + 16 * 6 + 4 * 1
    assert len(result.locations.labels) == 64 + 16 + 4


def test_one_anchor_a_location_makes_locations_and_anchors_the_same():
    levels = pyramid(shapes=ONE_SHAPE)
    for seed in range(4):
        result = compare(levels, *random_scene(seed))
        assert torch.equal(result.anchors.labels, result.locations.labels)
        assert torch.equal(result.anchors.gt_index, result.locations.gt_index)


def test_a_hundred_boxes_are_labelled_as_the_loops_label_them():
    compare(pyramid(), *random_scene(7, count=100), iou_thresholds=(0.4, 0.5))


def test_maps_that_are_wider_than_high_keep_rows_before_columns():
    levels = [grid_anchors(2, 7, 8, SIX_SHAPES), grid_anchors(1, 4, 16, SIX_SHAPES)]
    boxes = torch.tensor([[30.0, 0.0, 50.0, 16.0], [0.0, 0.0, 20.0, 15.0]])
    result = compare(levels, boxes, torch.tensor([0, 2]))
    assert {0, 2} <= set(result.locations.labels.tolist())


def test_anchors_of_detectron2_are_labelled_as_the_loops_label_them():
    from detectron2.modeling.anchor_generator import DefaultAnchorGenerator

    generator = DefaultAnchorGenerator(
        sizes=[[16.0, 20.0], [32.0, 40.0]],
        aspect_ratios=[[0.5, 1.0, 2.0]],
        strides=[8, 16],
        offset=0.5,
    )
    maps = [torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 4, 4)]
    levels = [
        anchors.tensor.reshape(size, size, 6, 4)
        for anchors, size in zip(generator(maps), (8, 4), strict=True)
    ]
    for seed in range(4):
        # Without the best match of each box: many anchors inside one box tie but for rounding.
        result = compare(levels, *random_scene(seed), low_quality=False)
    assert (result.locations.labels < C).any()


# --- eq. 1 and eq. 4 ---


@pytest.mark.parametrize(
    ("gamma", "minimum"),
    [
        (1 / 26, {9: 1, 12: 1, 20: 1, 25: 1}),
        (0.05, {9: 1, 12: 1, 20: 2, 25: 2}),
        (0.1, {9: 1, 12: 2, 20: 3, 25: 3}),
        (0.2, {9: 2, 12: 3, 20: 5, 25: 6}),
    ],
)
def test_gamma_sets_how_many_positive_anchors_a_location_needs(gamma, minimum):
    for num_anchors, needed in minimum.items():
        for n in range(1, num_anchors + 1):
            label = location_label([n], num_anchors, gamma)
            assert label == (0 if n >= needed else C), (gamma, num_anchors, n)


def test_an_exact_tie_with_the_background_is_background():
    # 0.8 * 5 = 0.2 * 20 is the tie of Table 4's last row.
    assert location_label([5], 25, 0.2) == C
    # These ties are not ties in binary floating point: 0.7 * 3 and 0.3 * 7, 0.9 * 3 and 0.1 * 27.
    assert location_label([3], 10, 0.3) == C
    assert location_label([3], 30, 0.1) == C


def test_every_gamma_in_hundredths_agrees_with_exact_fractions():
    for gamma in (g / 100 for g in range(1, 100, 3)):
        for num_anchors in (9, 20, 25):
            for n in (1, 2, 3, 5, 6, 9, num_anchors):
                if n > num_anchors:
                    continue
                labels = [0] * n + [C] * (num_anchors - n)
                expected = oracle.label_location(
                    labels, [1.0] * num_anchors, num_classes=C, gamma=gamma
                )
                assert location_label([min(n, num_anchors)], num_anchors, gamma) == expected


def test_gamma_below_one_over_k_is_the_same_as_no_gamma():
    # Proposition 1.
    several_classes = 0
    for seed in range(6):
        boxes, classes = random_scene(seed, count=12)
        plain = compare(pyramid(), boxes, classes)
        with_gamma = compare(pyramid(), boxes, classes, gamma=1 / (len(SIX_SHAPES) + 1))
        assert torch.equal(plain.locations.labels, with_gamma.locations.labels)
        assert torch.equal(plain.locations.gt_index, with_gamma.locations.gt_index)
        for labels in plain.anchors.labels.reshape(-1, len(SIX_SHAPES)).tolist():
            several_classes += len(set(labels) - {C}) > 1
    assert several_classes > 0, "some location must have anchors of several classes"


def test_the_class_with_most_anchors_wins():
    assert location_label([2, 3], 9, 0.0) == 1
    assert location_label([3, 2], 9, 0.0) == 0
    assert location_label([2, 2, 3], 9, 0.0) == 2


def test_the_background_is_weighed_against_the_winning_class_alone():
    # 0.7 * 3 against 0.3 * 7: two classes of three anchors do not add up.
    assert location_label([2, 2], 10, 0.4) == C
    assert location_label([4, 1], 10, 0.4) == 0


def test_a_tie_of_classes_goes_to_the_class_of_the_best_anchor():
    anchors = torch.tensor([[0.0, 0, 8, 8], [100, 0, 108, 8], [0, 500, 4, 504]])[None, None]
    exact, rough = [100.0, 0, 108, 8], [0.0, 0, 8, 6]
    result = compare([anchors], torch.tensor([rough, exact]), torch.tensor([0, 2]))
    assert result.locations.labels.tolist() == [2]
    assert result.locations.gt_index.tolist() == [1]
    # The same IoU twice: the lowest class, in whatever order the boxes come.
    twice = torch.tensor([[0.0, 0, 8, 8], exact])
    result = compare([anchors], twice, torch.tensor([2, 1]))
    assert result.locations.labels.tolist() == [1]
    assert result.locations.gt_index.tolist() == [1]


def test_a_location_belongs_to_the_box_of_its_best_anchor_of_its_class():
    anchors = torch.tensor([[0.0, 0, 8, 8], [0, 0, 8, 8], [50, 0, 58, 8], [100, 0, 108, 8]])
    boxes = torch.tensor([[0.0, 0, 8, 6], [50, 0, 58, 7], [100, 0, 108, 8]])
    # Three anchors of class 1, one of class 0; the latter has the highest IoU of all.
    result = compare([anchors[None, None]], boxes, torch.tensor([1, 1, 0]))
    assert result.locations.labels.tolist() == [1]
    assert result.locations.gt_index.tolist() == [1]


def test_ignored_anchors_count_neither_for_a_class_nor_for_the_background():
    # One positive, one ignored (IoU 0.45) and two background anchors under gamma = 0.3.
    anchors = torch.tensor([[0.0, 0, 20, 20], [0, 0, 20, 9], [200, 0, 208, 8], [200, 0, 208, 8]])
    options = {"iou_thresholds": (0.4, 0.5), "low_quality": False, "gamma": 0.3}
    boxes, classes = torch.tensor([[0.0, 0, 20, 20]]), torch.tensor([1])
    result = compare([anchors[None, None]], boxes, classes, **options)
    assert result.anchors.labels.tolist() == [1, -1, C, C]
    assert result.locations.labels.tolist() == [1]  # 0.7 * 1 > 0.3 * 2, but not > 0.3 * 3


# --- matching ---


def test_thresholds_include_the_foreground_and_exclude_the_background():
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4], [0, 0, 10, 3]])
    boxes, classes = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([2])
    band = {"iou_thresholds": (0.4, 0.5), "low_quality": False}
    result = compare([anchors[None, None]], boxes, classes, **band)
    assert result.anchors.labels.tolist() == [2, 2, -1, C]
    assert result.anchors.gt_index.tolist() == [0, 0, -1, -1]


def test_equal_boxes_match_the_first_of_them():
    boxes = torch.tensor([[16.0, 16, 40, 40], [16, 16, 40, 40]])
    result = compare(pyramid(), boxes, torch.tensor([2, 0]))
    assert set(result.anchors.gt_index.tolist()) == {-1, 0}
    assert set(result.locations.labels.tolist()) == {2, C}


def test_a_box_that_fits_no_anchor_well_gets_its_best_one():
    boxes, classes = torch.tensor([[28.0, 28, 44.25, 44.25]]), torch.tensor([1])
    levels = pyramid(shapes=[ONE_SHAPE] * 3)
    result = compare(levels, boxes, classes)
    assert (result.anchors.labels == 1).sum() == 1
    assert (result.locations.labels == 1).sum() == 1
    assert (compare(levels, boxes, classes, low_quality=False).anchors.labels == C).all()


def test_all_of_equally_good_anchors_are_low_quality_matches():
    anchors = grid_anchors(1, 4, 8, ((1.0, 1.0),))
    boxes = torch.tensor([[0.0, 0, 24, 2]])  # covers three anchors alike, and touches the fourth
    result = compare([anchors], boxes, torch.tensor([0]))
    assert result.anchors.labels.tolist() == [0, 0, 0, C]


def test_anchors_that_only_rounding_sets_apart_tie():
    anchors = grid_anchors(4, 136, 8, ((40.3175 / 8, 40.3175 / 8),))
    boxes = torch.tensor([[126.0, 12, 130, 16]])  # inside all anchors of 4 rows and 4 columns
    assert (compare([anchors], boxes, torch.tensor([0])).anchors.labels == 0).sum() == 16


def test_low_quality_matches_are_detectron2s(monkeypatch):
    monkeypatch.setattr(matching, "_BLOCK_ENTRIES", 64)
    matcher = Matcher([0.5], [0, 1], allow_low_quality_matches=True)
    levels = pyramid(shapes=[ONE_SHAPE] * 3)
    anchors = torch.cat([level.reshape(-1, 4) for level in levels])
    ties = 0
    for sizes in ((3, 4, 20), (12, 5, 6), (7, 12, 40), (20, 3, 40)):
        corners = zip(sizes, ((1.0, 2), (18, 9), (22, 22)), strict=True)
        boxes = torch.tensor([[x, y, x + size, y + size] for size, (x, y) in corners])
        matches = pairwise_iou(Boxes(boxes), Boxes(anchors))
        _, labels = matcher(matches)
        result = compare(levels, boxes, torch.tensor([0, 1, 2]))
        assert (result.anchors.labels < C).tolist() == labels.bool().tolist()
        ties += int(((matches == matches.amax(1, keepdim=True)).sum(1) > 1).sum())
    assert ties > 5


def test_a_low_quality_match_keeps_the_box_that_the_anchor_overlaps_most():
    anchors = torch.tensor([[0.0, 0, 10, 10]])[None, None]
    boxes = torch.tensor([[0.0, 0, 10, 2], [0, 0, 10, 4]])
    result = compare([anchors], boxes, torch.tensor([0, 1]))
    assert result.anchors.labels.tolist() == [1]
    assert result.anchors.gt_index.tolist() == [1]


def test_a_low_quality_match_lifts_an_anchor_out_of_the_ignore_band():
    anchors = torch.tensor([[0.0, 0, 20, 9], [0, 0, 20, 8.5]])[None, None]
    boxes = torch.tensor([[0.0, 0, 20, 20]])
    result = compare([anchors], boxes, torch.tensor([1]), iou_thresholds=(0.4, 0.5))
    assert result.anchors.labels.tolist() == [1, -1]
    assert result.locations.labels.tolist() == [1]


def test_a_box_that_overlaps_no_anchor_makes_nothing_positive():
    boxes = torch.tensor([[500.0, 500, 540, 540]])
    for low_quality in (True, False):
        result = compare(pyramid(), boxes, torch.tensor([1]), low_quality=low_quality)
        assert (result.anchors.labels == C).all()
        assert (result.locations.labels == C).all()
    # Beside a box that does match, it changes nothing.
    near = torch.tensor([[16.0, 16, 40, 40]])
    alone = compare(pyramid(), near, torch.tensor([0]))
    both = compare(pyramid(), torch.cat([near, boxes]), torch.tensor([0, 1]))
    assert torch.equal(alone.anchors.labels, both.anchors.labels)


def test_no_boxes_make_everything_background():
    result = compare(pyramid(), NO_BOXES, torch.zeros(0, dtype=torch.int64))
    assert (result.anchors.labels == C).all() and (result.anchors.gt_index == -1).all()
    assert (result.locations.labels == C).all() and (result.locations.gt_index == -1).all()
    assert not result.locations.score.any()


@pytest.mark.parametrize(
    "flat",
    [[20.0, 20, 20, 40], [20.0, 20, 40, 20], [24.0, 24, 24, 24], [40.0, 20, 20, 40]],
    ids=["no width", "no height", "a point", "inverted"],
)
def test_a_box_without_area_is_never_matched(flat):
    good = [16.0, 16, 40, 40]
    assert (compare(pyramid(), torch.tensor([flat]), torch.tensor([0])).anchors.labels == C).all()
    # Indices stay those of the list that came in.
    result = compare(pyramid(), torch.tensor([flat, good]), torch.tensor([0, 1]))
    assert set(result.anchors.gt_index.tolist()) == {-1, 1}
    assert set(result.anchors.labels.tolist()) == {1, C}


def test_a_box_larger_than_the_image_and_a_box_of_one_pixel_are_labelled():
    for box in ([-20.0, -30, 90, 100], [33.0, 33, 34, 34]):
        result = compare(pyramid(), torch.tensor([box]), torch.tensor([1]))
        assert (result.anchors.labels == 1).any()
    # The best anchor of the small one overlaps the large one more, and keeps to it.
    boxes = torch.tensor([[-20.0, -30, 90, 100], [33.0, 33, 34, 34]])
    assert 1 not in compare(pyramid(), boxes, torch.tensor([0, 1])).anchors.labels


# --- which anchors are regressed ---


@pytest.mark.parametrize("regressed", ["positive", "all", "best"])
@pytest.mark.parametrize("target", ["anchor", "location"])
@pytest.mark.parametrize("by", ["vote", "fcos", "fcos_shrink"])
def test_the_anchors_to_regress_and_their_boxes_are_those_of_the_loops(regressed, target, by):
    ranges, shrink = (12.0, 24.0), 0.5 if by == "fcos_shrink" else 1.0
    labeler = None if by == "vote" else fcos_labeler(ranges, shrink)
    assign = assigner(
        regressed_anchors=regressed, regression_target=target, location_labeler=labeler
    )
    for seed in range(5):
        boxes, classes = random_scene(seed, count=8)
        if by == "vote":
            expected = oracle.assign(pyramid(), boxes, classes, num_classes=C)
        else:
            expected = oracle.assign_by_position(
                pyramid(), boxes, classes, num_classes=C, ranges=ranges, shrink=shrink
            )
        actual = assign(pyramid(), instances(boxes, classes))
        check_against_oracle(actual, expected)
        learns = oracle.regressed_boxes(
            expected, pyramid(), boxes, regressed=regressed, regression_target=target
        )
        assert actual.box_gt_index.tolist() == learns
        assert max(learns) >= 0


def test_every_anchor_knows_its_location():
    levels = pyramid(shapes=[SIX_SHAPES[:2], SIX_SHAPES, ONE_SHAPE])
    expected = [i for i in range(64) for _ in range(2)]
    expected += [64 + i for i in range(16) for _ in range(6)] + [80, 81, 82, 83]
    assert assigner()(levels, instances(NO_BOXES, [])).anchor_location.tolist() == expected


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shrink", [1.0, 0.5])
def test_locations_by_position_are_those_of_the_loops(seed, shrink):
    boxes, classes = random_scene(seed, count=8)
    ranges = (12.0, 24.0)
    expected = oracle.assign_by_position(
        pyramid(), boxes, classes, num_classes=C, ranges=ranges, shrink=shrink
    )
    centers = [(level[:, :, 0, :2] + level[:, :, 0, 2:]).reshape(-1, 2) / 2 for level in pyramid()]
    labeler = fcos_labeler(ranges, shrink)
    actual = labeler(centers, instances(boxes, classes))
    assert actual.labels.tolist() == expected.location_labels
    assert actual.gt_index.tolist() == expected.location_gt
    assert len(set(expected.location_labels)) > 1


# --- the contract of an assigner ---


def test_the_same_input_gives_the_same_labels_and_is_left_as_it_was():
    levels, (boxes, classes) = pyramid(), random_scene(3)
    copies, truth = [level.clone() for level in levels], instances(boxes, classes)
    first, second = assigner()(levels, truth), assigner()(levels, truth)
    for name in ("labels", "gt_index", "score"):
        assert torch.equal(getattr(first.anchors, name), getattr(second.anchors, name))
        assert torch.equal(getattr(first.locations, name), getattr(second.locations, name))
    assert all(torch.equal(a, b) for a, b in zip(levels, copies, strict=True))
    assert torch.equal(truth.gt_boxes.tensor, boxes)


def test_the_order_of_the_boxes_does_not_change_the_labels():
    boxes, classes = random_scene(11, count=8)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    first = compare(pyramid(), boxes, classes)
    second = compare(pyramid(), boxes[order], classes[order])
    assert torch.equal(first.anchors.labels, second.anchors.labels)
    matched = second.anchors.gt_index >= 0
    assert torch.equal(order[second.anchors.gt_index[matched]], first.anchors.gt_index[matched])


def test_labels_are_integers_scores_are_floats_and_nothing_has_a_gradient():
    levels = [level.requires_grad_() for level in pyramid()]
    result = assigner()(levels, instances(*random_scene(1)))
    for part in (result.anchors, result.locations):
        assert part.labels.dtype == part.gt_index.dtype == torch.int64
        assert part.score.dtype == torch.float32
        assert not part.score.requires_grad
        assert part.labels.shape == part.gt_index.shape == part.score.shape
        assert {t.device for t in (part.labels, part.gt_index, part.score)} == {levels[0].device}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_labels_on_a_gpu_are_those_of_the_cpu_and_stay_on_the_gpu():
    boxes, classes = random_scene(2)
    expected = assigner()(pyramid(), instances(boxes, classes))
    result = assigner()([a.cuda() for a in pyramid()], instances(boxes, classes).to("cuda"))
    assert result.locations.labels.is_cuda and result.anchors.score.is_cuda
    assert torch.equal(result.anchors.labels.cpu(), expected.anchors.labels)
    assert torch.equal(result.locations.labels.cpu(), expected.locations.labels)
