"""The semi-anchored RetinaNet: losses and detections against the oracles, and the contracts."""

import math

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from anchorkit.config import load_config
from tests import contracts
from tests.reference import semi_anchored_detector as oracle
from tests.reference.scenes import ONE_SHAPE, SIX_SHAPES, instances, pyramid, random_scene

C, K = 3, 6
KEYS = "MODEL.SEMI_ANCHORED."


def small_model(norm="BN", width=64, **options):
    """ResNet-18-FPN with 64 channels and six anchors a location; ``options`` of the method."""
    overrides = [
        *("MODEL.META_ARCHITECTURE", "SemiAnchoredRetinaNet"),
        *("MODEL.BACKBONE.NAME", "build_resnet_fpn_p6p7_backbone"),
        *("MODEL.BACKBONE.FREEZE_AT", 0),
        *("MODEL.RESNETS.DEPTH", 18),
        *("MODEL.RESNETS.STEM_OUT_CHANNELS", width),
        *("MODEL.RESNETS.RES2_OUT_CHANNELS", width),
        *("MODEL.RESNETS.NORM", norm),
        *("MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"]),
        *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"]),
        *("MODEL.FPN.OUT_CHANNELS", 64),
        *("MODEL.ANCHOR_GENERATOR.SIZES", [[s, s * 1.5] for s in (16.0, 32.0, 64.0, 128.0, 256.0)]),
        *("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[0.5, 1.0, 2.0]]),
        *("MODEL.ANCHOR_GENERATOR.OFFSET", 0.5),
        *("MODEL.NUM_CLASSES", C),
        *("MODEL.PIXEL_STD", [57.375, 57.12, 58.395]),
        *("MODEL.DEVICE", "cpu"),
        *(f"{KEYS}NUM_CONVS", 1),
    ]
    for name, value in options.items():
        overrides += [KEYS + name, value]
    torch.manual_seed(0)
    return build_model(load_config("", overrides))


@pytest.fixture(scope="module")
def model():
    """A model with the default options; tests that change it build their own."""
    return small_model()


def random_predictions(levels, num_images=2, seed=0, num_logits=C):
    """Raw outputs for levels of anchors; each is a leaf that takes gradients."""
    generator = torch.Generator().manual_seed(seed)

    def leaves(channels, scale, shift=0.0):
        maps = []
        for level in levels:
            height, width, num_anchors, _ = level.shape
            shape = (num_images, channels(num_anchors), height, width)
            noise = torch.randn(shape, generator=generator) * scale + shift
            maps.append(noise.requires_grad_())
        return maps

    return (
        leaves(lambda k: num_logits, 2.0, -1.0),
        leaves(lambda k: 4 * k, 1.0),
        leaves(lambda k: k, 2.0),
    )


def as_predictions(model, predictions):
    """The head's own type around maps made here."""
    from anchorkit.modeling.heads import SemiAnchoredPredictions

    return SemiAnchoredPredictions(*predictions)


def losses_of(model, levels, predictions, targets):
    with EventStorage():
        return model.losses(
            levels, as_predictions(model, predictions), [instances(*target) for target in targets]
        )


def compare_losses(model, levels, targets, seed=0, **options):
    predictions = random_predictions(levels, len(targets), seed, model.num_location_logits)
    actual = losses_of(model, levels, predictions, targets)
    expected, counts = oracle.reference_losses(
        levels, predictions, targets, num_classes=C, **options
    )
    assert set(actual) == set(expected) == {"loss_location", "loss_box", "loss_anchor"}
    for name, value in expected.items():
        assert actual[name].item() == pytest.approx(value, rel=2e-4, abs=1e-6), name
    return counts


TARGETS = [random_scene(0), random_scene(1)]
EMPTY = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))

# --- losses ---


def test_the_losses_are_those_of_the_loops(model):
    for seed in range(3):
        targets = [random_scene(seed), random_scene(seed + 10, count=3)]
        counts = compare_losses(model, pyramid(), targets, seed)
        assert min(counts.values()) >= 10


@pytest.mark.parametrize(
    ("options", "reference_options"),
    [
        ({"REGRESSED_ANCHORS": "all"}, {"regressed": "all"}),
        ({"REGRESSED_ANCHORS": "best"}, {"regressed": "best"}),
        ({"REGRESSION_TARGET": "location"}, {"regression_target": "location"}),
        (
            {"REGRESSED_ANCHORS": "all", "REGRESSION_TARGET": "location"},
            {"regressed": "all", "regression_target": "location"},
        ),
        ({"REFINED_MATCH": "location"}, {"refined_match": "location"}),
        ({"REFINED_IOU_THRESHOLD": 0.7}, {"refined_iou_threshold": 0.7}),
        (
            {"REFINED_IOU_THRESHOLD": 0.8, "FORCE_BEST_REFINED": True},
            {"refined_iou_threshold": 0.8, "force_best": True},
        ),
        ({"LOCATION_LOSS": "softmax"}, {"location_loss": "softmax"}),
        (
            {"LOCATION_LOSS": "softmax", "LOCATION_NEGATIVE_RATIO": 0.5},
            {"location_loss": "softmax", "negative_ratio": 0.5},
        ),
        # With ignored locations, so many that they would be among the chosen ones, and few.
        *(
            (
                {
                    "LOCATION_LOSS": "softmax",
                    "IOU_THRESHOLDS": [0.1, 0.5],
                    "LOCATION_NEGATIVE_RATIO": ratio,
                },
                {"location_loss": "softmax", "thresholds": (0.1, 0.5), "negative_ratio": ratio},
            )
            for ratio in (99.0, 1.0)
        ),
        ({"BOX_LOSS": "smooth_l1"}, {"box_loss_kind": "smooth_l1"}),
        ({"BOX_LOSS": "iou_linear"}, {"box_loss_kind": "iou_linear"}),
        (
            {"BOX_LOSS": "giou", "BOX_LOSS_WEIGHT": 3.0},
            {"box_loss_kind": "giou", "box_loss_weight": 3.0},
        ),
        (
            {"BBOX_REG_WEIGHTS": [1.0, 1.0, 1.0, 1.0]},
            {"box_weights": (1.0, 1.0, 1.0, 1.0)},
        ),
        ({"ANCHOR_LOSS": "focal"}, {"anchor_loss": "focal"}),
        ({"ANCHOR_LOSS": "quality_focal"}, {"anchor_loss": "quality_focal"}),
        ({"SIGMA": 0.3, "ANCHOR_LOSS_WEIGHT": 0.5}, {"sigma": 0.3, "anchor_loss_weight": 0.5}),
        (
            {"LOCATION_FOCAL_ALPHA": 0.4, "LOCATION_FOCAL_BETA": 2.0},
            {"location_alpha_beta": (0.4, 2.0)},
        ),
        (
            {"ANCHOR_FOCAL_ALPHA": 0.4, "ANCHOR_FOCAL_BETA": 1.0},
            {"anchor_alpha_beta": (0.4, 1.0)},
        ),
        ({"GAMMA": 0.2}, {"gamma": 0.2}),
        ({"IOU_THRESHOLDS": [0.3, 0.5]}, {"thresholds": (0.3, 0.5)}),
        (
            {"IOU_THRESHOLDS": [0.3, 0.5], "IGNORE_LOCATIONS": False},
            {"thresholds": (0.3, 0.5), "ignore_locations": False},
        ),
        ({"LOW_QUALITY_MATCHES": False}, {"low_quality": False}),
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()) if value else None,
)
def test_every_option_gives_the_losses_of_the_loops(options, reference_options):
    compare_losses(small_model(**options), pyramid(), TARGETS, **reference_options)


def test_levels_may_have_different_numbers_of_anchors(model):
    levels = pyramid(shapes=[SIX_SHAPES[:2], SIX_SHAPES, ONE_SHAPE])
    counts = compare_losses(model, levels, TARGETS)
    assert min(counts.values()) > 5


def test_one_anchor_a_location_is_its_own_best_and_has_soft_target_one():
    one_anchor = small_model()
    levels = pyramid(shapes=ONE_SHAPE)
    compare_losses(one_anchor, levels, TARGETS)
    # With a soft target of one, eq. 3 is the focal loss.
    compare_losses(one_anchor, levels, TARGETS, anchor_loss="focal")


def test_empty_and_odd_images_have_the_losses_of_the_loops(model):
    compare_losses(model, pyramid(), [EMPTY, EMPTY])
    compare_losses(model, pyramid(), [EMPTY, TARGETS[0]])
    odd_boxes = torch.tensor(
        [[-100.0, -100, 200, 200], [30, 30, 31, 31], [20, 20, 20, 40], [500, 500, 540, 540]]
    )
    compare_losses(model, pyramid(), [(odd_boxes, torch.tensor([0, 1, 2, 1]))])
    far_away = torch.tensor([[500.0, 500, 540, 540]])
    counts = compare_losses(model, pyramid(), [(far_away, torch.tensor([1]))])
    assert set(counts.values()) == {0}


def test_the_size_of_a_batch_does_not_change_the_losses(model):
    predictions = random_predictions(pyramid(), 1)
    once = losses_of(model, pyramid(), predictions, TARGETS[:1])
    doubled = tuple([torch.cat([level, level]) for level in maps] for maps in predictions)
    twice = losses_of(model, pyramid(), doubled, TARGETS[:1] * 2)
    for name in once:
        torch.testing.assert_close(once[name], twice[name])


def gradient_sums(predictions):
    return [
        sum(0.0 if level.grad is None else level.grad.abs().sum().item() for level in maps)
        for maps in predictions
    ]


@pytest.mark.parametrize(
    ("loss", "reaches"), [("loss_location", 0), ("loss_box", 1), ("loss_anchor", 2)]
)
def test_each_loss_trains_its_own_outputs_alone(model, loss, reaches):
    predictions = random_predictions(pyramid())
    losses_of(model, pyramid(), predictions, TARGETS)[loss].backward()
    sums = gradient_sums(predictions)
    assert sums[reaches] > 0
    assert [total for i, total in enumerate(sums) if i != reaches] == [0, 0]


def test_box_gradients_reach_only_the_regressed_anchors(model):
    levels = pyramid()
    predictions = random_predictions(levels, 1)
    losses_of(model, levels, predictions, TARGETS[:1])["loss_box"].backward()
    boxes, classes = TARGETS[0]
    labels = oracle.assign(levels, boxes, classes, num_classes=C)
    learns = oracle.regressed_boxes(labels, levels, boxes)
    has_gradient = [
        bool(level.grad[0].reshape(-1, 4, *level.shape[-2:])[k, :, y, x].any())
        for level, anchors in zip(predictions[1], levels, strict=True)
        for y in range(anchors.shape[0])
        for x in range(anchors.shape[1])
        for k in range(K)
    ]
    # A refined box that misses its box altogether would have none; these all overlap.
    assert has_gradient == [gt >= 0 for gt in learns]


@pytest.mark.parametrize("where", range(3), ids=["locations", "boxes", "anchors"])
def test_nan_predictions_do_not_crash_labelling(model, where):
    predictions = random_predictions(pyramid())
    with torch.no_grad():
        for level in predictions[where]:
            level.fill_(math.nan)
    losses = losses_of(model, pyramid(), predictions, TARGETS)
    assert torch.isnan(sum(losses.values()))  # to be seen, not to be hidden
    assert len(detections_of(model, pyramid(), predictions, [(64, 64)] * 2)) == 2


def test_huge_predictions_have_finite_losses_and_gradients(model):
    for scale in (-1e4, 1e4):
        predictions = random_predictions(pyramid())
        with torch.no_grad():
            for maps in predictions:
                for level in maps:
                    level.mul_(scale)
        losses = losses_of(model, pyramid(), predictions, TARGETS)
        sum(losses.values()).backward()
        assert all(torch.isfinite(loss) for loss in losses.values())
        assert all(torch.isfinite(level.grad).all() for maps in predictions for level in maps)


def test_half_precision_predictions_have_losses_in_single_precision(model):
    predictions = random_predictions(pyramid())
    rounded = tuple([level.detach().bfloat16() for level in maps] for maps in predictions)
    actual = losses_of(model, pyramid(), rounded, TARGETS)
    single = tuple([level.float() for level in maps] for maps in rounded)
    expected = losses_of(model, pyramid(), single, TARGETS)
    for name, loss in actual.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[name], rtol=1e-4, atol=1e-5)


# --- inference ---


def detections_of(model, levels, predictions, image_sizes):
    return model.inference(levels, as_predictions(model, predictions), image_sizes)


def compare_detections(model, levels, image_sizes=((64, 64), (50, 61)), seed=0, **options):
    predictions = random_predictions(levels, len(image_sizes), seed, model.num_location_logits)
    actual = detections_of(model, levels, predictions, image_sizes)
    expected = oracle.reference_inference(levels, predictions, image_sizes, **options)
    for found, wanted, size in zip(actual, expected, image_sizes, strict=True):
        assert found.image_size == size
        assert len(found) == len(wanted) > 0
        assert found.pred_classes.tolist() == [c for _, c, _ in wanted]
        scores, boxes = [s for s, _, _ in wanted], [b for _, _, b in wanted]
        torch.testing.assert_close(found.scores, torch.tensor(scores), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(
            found.pred_boxes.tensor, torch.tensor(boxes), rtol=1e-4, atol=1e-3
        )
    return expected


def test_detections_are_those_of_the_loops(model):
    for seed in range(3):
        compare_detections(model, pyramid(), seed=seed)


@pytest.mark.parametrize(
    ("options", "reference_options"),
    [
        ({"ANCHOR_TOPK": 2}, {"topk": 2}),
        ({"ANCHOR_TOPK": 5}, {"topk": 5}),
        ({"ANCHOR_TOPK": 50}, {"topk": 50}),
        *(
            (
                {"ANCHOR_SELECTION": "positive", "ANCHOR_THRESH_TEST": t},
                {"selection": "positive", "anchor_threshold": t},
            )
            for t in (0.1, 0.2, 0.5)
        ),
        ({"THRESHOLD_ON": "product"}, {"threshold_on": "product"}),
        (
            {"THRESHOLD_ON": "product", "SCORE_THRESH_TEST": 0.6},
            {"threshold_on": "product", "score_threshold": 0.6},
        ),
        ({"SCORE_THRESH_TEST": 0.5}, {"score_threshold": 0.5}),
        ({"SCORE_THRESH_TEST": 0.0}, {"score_threshold": 0.0}),
        ({"TOPK_CANDIDATES_TEST": 7}, {"candidates_per_level": 7}),
        ({"NMS_THRESH_TEST": 0.2}, {"nms_threshold": 0.2}),
        ({"LOCATION_LOSS": "softmax"}, {"location_loss": "softmax"}),
        ({"BBOX_REG_WEIGHTS": [2.0, 2.0, 1.0, 1.0]}, {"box_weights": (2.0, 2.0, 1.0, 1.0)}),
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()) if value else None,
)
def test_every_option_gives_the_detections_of_the_loops(options, reference_options):
    compare_detections(small_model(**options), pyramid(), **reference_options)


def test_levels_with_different_numbers_of_anchors_are_detected_on(model):
    compare_detections(model, pyramid(shapes=[SIX_SHAPES[:2], SIX_SHAPES, ONE_SHAPE]))


def test_no_more_detections_than_allowed_are_given(model):
    predictions = random_predictions(pyramid())
    for found in detections_of(model, pyramid(), predictions, [(64, 64)] * 2):
        assert 0 < len(found) <= 100
    few = small_model()
    few.max_detections = 3
    compare_detections(few, pyramid(), max_detections=3)


def test_scores_below_the_threshold_give_no_detections(model):
    predictions = random_predictions(pyramid())
    with torch.no_grad():
        for level in predictions[0]:
            level.fill_(-10.0)
    for found in detections_of(model, pyramid(), predictions, [(64, 64)] * 2):
        assert len(found) == 0 and found.pred_boxes.tensor.shape == (0, 4)


def test_a_random_anchor_is_scored_by_its_location_and_is_repeatable():
    model = small_model(ANCHOR_SELECTION="random", NMS_THRESH_TEST=1.0)
    predictions = random_predictions(pyramid(), 1)
    (first,), (second,) = (
        detections_of(model, pyramid(), predictions, [(64, 64)]) for _ in range(2)
    )
    assert torch.equal(first.pred_boxes.tensor, second.pred_boxes.tensor)
    locations = torch.cat([level.flatten() for level in predictions[0]]).sigmoid()
    torch.testing.assert_close(first.scores, locations.sort(descending=True).values[:100])


# --- the whole detector ---


@pytest.mark.parametrize("contract", contracts.CONTRACTS, ids=lambda check: check.__name__[6:])
def test_the_detector_keeps_the_contract(contract):
    # So low a threshold lets an untrained detector find something.
    contract(small_model(SCORE_THRESH_TEST=0.001, ANCHOR_THRESH_TEST=0.001), num_classes=C)


@pytest.mark.parametrize("labeling", ["fcos", "fcos_shrink"])
def test_locations_labelled_by_position_can_be_learnt(labeling):
    model = small_model(LABELING=labeling)
    losses = contracts.check_gradients(model, [contracts.make_input(num_classes=C)])
    assert losses["loss_box"] > 0
    contracts.check_empty_images(model, num_classes=C)


def test_images_of_different_sizes_are_learnt_from_together(model):
    inputs = [
        contracts.make_input(num_classes=C, size=size, seed=seed)
        for seed, size in enumerate([(64, 64), (33, 90)])
    ]
    contracts.check_gradients(model, inputs)


def test_one_image_is_learnt_by_heart():
    torch.manual_seed(0)
    model = small_model(norm="GN", width=32, ANCHOR_PRIOR_PROB=0.1)
    boxes, classes = [[6.0, 8, 30, 40], [34.0, 30, 62, 58], [38.0, 4, 58, 20]], [0, 1, 2]
    inputs = [contracts.make_input(boxes, classes, num_classes=C)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(50):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 10, (50 - step) / 25)
        optimizer.zero_grad()
        sum(contracts.training_losses(model, inputs).values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    found = contracts.detect(model, inputs)[0]["instances"]
    assert average_precision(found, boxes, classes) > 0.9


def average_precision(found, boxes, classes):
    """COCO's AP of one image."""
    import contextlib
    import io

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def entry(i, box, c, **more):
        x1, y1, x2, y2 = box
        size = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
        return {"id": i + 1, "image_id": 1, "category_id": c, "iscrowd": 0} | size | more

    truth = [entry(i, box, c) for i, (box, c) in enumerate(zip(boxes, classes, strict=True))]
    detections = [
        entry(i, box, c, score=score)
        for i, (box, c, score) in enumerate(
            zip(
                found.pred_boxes.tensor.tolist(),
                found.pred_classes.tolist(),
                found.scores.tolist(),
                strict=True,
            )
        )
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": 1}],
            "categories": [{"id": c} for c in range(C)],
            "annotations": truth,
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]
