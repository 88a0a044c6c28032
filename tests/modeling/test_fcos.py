"""FCOS, FCOSv2 and FoveaBox, alone and with DSLA: losses and detections against the loops."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from anchorkit.config import load_config
from tests import contracts
from tests.reference import dsla as dsla_oracle
from tests.reference import fcos as oracle
from tests.reference.boxes import iou
from tests.reference.scenes import grid_locations, instances, random_scene

C = 3
CONFIGS = Path(__file__).parents[2] / "configs" / "quick"
LEVELS = ["p3", "p4", "p5", "p6", "p7"]
STRIDES = (8, 16, 32, 64, 128)
EDGES = (4.0, 8.0, 16.0, 32.0, 64.0)
RANGES = ((0.0, 12.0), (12.0, 24.0), (24.0, 48.0), (48.0, 96.0), (96.0, math.inf))
AREA_RANGES = ((1.0, 16.0), (8.0, 32.0), (16.0, 64.0), (32.0, 128.0), (64.0, 512.0))
BASELINES = ("fcos", "fcosv2", "foveabox")
WITH_DSLA = ("dsla_fcos", "dsla_fcosv2", "dsla_foveabox")
ALL = BASELINES + WITH_DSLA


def small_model(name, **options):
    """The quick config with P6 and P7, and ranges for images of 64 pixels.

    Args:
        options: keys below MODEL, "__" for a dot.
    """
    overrides = {
        "MODEL.NUM_CLASSES": C,
        "MODEL.CHANNELS_LAST": False,
        "MODEL.FPN.TOP_BLOCK_IN_FEATURE": "p5",
        "MODEL.FCOS.IN_FEATURES": LEVELS,
        "MODEL.FOVEABOX.IN_FEATURES": LEVELS,
        "MODEL.FCOS.NUM_CONVS": 1,
        "MODEL.FCOS.SIZE_RANGE_ENDS": [upper for _, upper in RANGES[:-1]],
        "MODEL.FOVEABOX.NUM_CONVS": 1,
        "MODEL.FOVEABOX.SIZE_RANGES": [list(ends) for ends in AREA_RANGES],
        "MODEL.FOVEABOX.BASE_EDGES": list(EDGES),
    } | {f"MODEL.{key.replace('__', '.')}": value for key, value in options.items()}
    flat = [part for pair in overrides.items() for part in pair]
    torch.manual_seed(0)
    return build_model(load_config(str(CONFIGS / f"{name}_digit_scenes.yaml"), flat))


@pytest.fixture(scope="module")
def models():
    """Models with the default options; tests that change one build their own."""
    return {name: small_model(name) for name in ALL}


def box_settings(name):
    """How the oracles decode boxes and take their losses."""
    if name.endswith("fcosv2"):
        return {"code": "relu", "scales": STRIDES, "box_loss_kind": "giou"}
    if name.endswith("fcos"):
        return {"code": "exp", "scales": (1.0,) * 5, "box_loss_kind": "iou_log"}
    return {"code": "exp", "scales": EDGES, "box_loss_kind": "smooth_l1"}


def label_rule(name, **changes):
    """The oracle's assigner."""
    is_foveabox = name.endswith("foveabox")
    options = {"num_classes": C, "size_ranges": AREA_RANGES if is_foveabox else RANGES}
    if name.endswith("fcosv2"):
        options |= {"strides": STRIDES, "center_sampling_radius": 1.5}
    if name.startswith("dsla"):
        options |= {"strides": STRIDES, "size": "sqrt_area" if is_foveabox else "max_distance"}
        return partial(dsla_oracle.assign, **options | changes)
    rule = oracle.assign_foveabox if is_foveabox else oracle.assign_fcos
    return partial(rule, **options | changes)


def oracle_losses(name, predictions, targets, labels=None, **changes):
    """Losses of the loops; ``labels`` changes the assigner, ``changes`` the losses."""
    rule, options = label_rule(name, **labels or {}), box_settings(name) | changes
    arguments = (grid_locations(strides=STRIDES), predictions, targets, rule)
    if name.startswith("dsla"):
        return dsla_oracle.reference_losses(*arguments, **options)
    if name == "foveabox":
        del options["code"], options["box_loss_kind"]
        return oracle.foveabox_losses(*arguments, **options)
    return oracle.fcos_losses(*arguments, **options)


def random_predictions(name, num_images=2, seed=0, height=64, width=64):
    """Raw outputs in the order of the head's type; each map is a leaf that takes gradients."""
    generator = torch.Generator().manual_seed(seed)
    # Distances of some 12 pixels, of a stride, and of some 2 base edges.
    shift, scale = {"relu": (1.0, 0.7), "exp": (2.5, 0.5)}[box_settings(name)["code"]]
    if name.endswith("foveabox"):
        shift, scale = 0.5, 0.7

    def leaves(channels, scale, shift):
        shapes = [
            (num_images, channels, -(-height // stride), -(-width // stride)) for stride in STRIDES
        ]
        noise = [torch.randn(shape, generator=generator) for shape in shapes]
        return [(level * scale + shift).requires_grad_() for level in noise]

    has_centerness = name in ("fcos", "fcosv2")
    return (
        leaves(C, 2.0, -1.0),
        leaves(4, scale, shift),
        leaves(1, 2.0, 0.0) if has_centerness else [],
    )


def as_predictions(predictions):
    """The head's own type around maps made here."""
    from anchorkit.modeling.heads import FCOSPredictions

    return FCOSPredictions(*predictions)


def losses_of(model, predictions, targets):
    with EventStorage():
        return model.losses(
            grid_locations(strides=STRIDES),
            as_predictions(predictions),
            [instances(*target) for target in targets],
        )


def compare_losses(model, name, targets, seed=0, labels=None, **changes):
    predictions = random_predictions(name, len(targets), seed)
    actual = losses_of(model, predictions, targets)
    expected, counts = oracle_losses(name, predictions, targets, labels, **changes)
    assert set(actual) == set(expected)
    for key, value in expected.items():
        assert actual[key].item() == pytest.approx(value, rel=2e-4, abs=1e-6), key
    return counts


TARGETS = [random_scene(0, count=8), random_scene(1, count=8)]
EMPTY = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))

# --- losses ---


@pytest.mark.parametrize("name", ALL)
def test_the_losses_are_those_of_the_loops(models, name):
    for seed in range(3):
        targets = [random_scene(seed, count=8), random_scene(seed + 10, count=8)]
        counts = compare_losses(models[name], name, targets, seed)
        assert min([counts] if isinstance(counts, int) else counts.values()) > 1


@pytest.mark.parametrize("name", ALL)
def test_empty_and_odd_images_have_the_losses_of_the_loops(models, name):
    model = models[name]
    odd_boxes = [[-100.0, -100, 200, 200], [30, 30, 31, 31], [20, 20, 20, 40], [500, 500, 540, 540]]
    # So long and so thin that FoveaBox's targets are limited.
    odd_boxes += [[-90.0, 27.25, 70, 28.75], [20, 43.8, 36, 44.2]]
    for targets in (
        [EMPTY, EMPTY],
        [EMPTY, TARGETS[0]],
        [(torch.tensor(odd_boxes), torch.tensor([0, 1, 2, 1, 0, 2]))],
    ):
        compare_losses(model, name, targets)
    far_away = torch.tensor([[500.0, 500, 540, 540]])
    counts = compare_losses(model, name, [(far_away, torch.tensor([1]))])
    assert counts == 0 or set(counts.values()) == {0}


@pytest.mark.parametrize("baseline", ["fcos", "fcosv2"])
@pytest.mark.parametrize(
    ("options", "changes", "labels"),
    [
        ({"FCOS__FOCAL_ALPHA": 0.4, "FCOS__FOCAL_GAMMA": 1.0}, {"focal": (0.4, 1.0)}, {}),
        ({"FCOS__BOX_LOSS": "iou_linear"}, {"box_loss_kind": "iou_linear"}, {}),
        ({"FCOS__BOX_LOSS": "giou"}, {"box_loss_kind": "giou"}, {}),
        ({"FCOS__BOX_ACTIVATION": "exp", "FCOS__BOX_UNIT": "stride"}, "exp strides", {}),
        ({"FCOS__CENTER_SAMPLING_RADIUS": 0.75}, {}, {"center_sampling_radius": 0.75}),
        (
            {"FCOS__SIZE_RANGE_ENDS": [8.0, 16.0, 32.0, 64.0]},
            {},
            {"size_ranges": ((0, 8), (8, 16), (16, 32), (32, 64), (64, math.inf))},
        ),
    ],
    ids=str,
)
def test_every_option_of_fcos_gives_the_losses_of_the_loops(baseline, options, changes, labels):
    if changes == "exp strides":
        changes = {"code": "exp", "scales": STRIDES}
    if labels:
        labels = {"strides": STRIDES} | labels
    compare_losses(small_model(baseline, **options), baseline, TARGETS, labels=labels, **changes)


@pytest.mark.parametrize(
    ("options", "changes", "labels"),
    [
        ({"FOVEABOX__FOCAL_ALPHA": 0.25, "FOVEABOX__FOCAL_GAMMA": 2.0}, {"focal": (0.25, 2.0)}, {}),
        ({"FOVEABOX__SMOOTH_L1_BETA": 0.5}, {"beta": 0.5}, {}),
        ({"FOVEABOX__SIGMA": 0.8}, {}, {"sigma": 0.8}),
    ],
    ids=str,
)
def test_every_option_of_foveabox_gives_the_losses_of_the_loops(options, changes, labels):
    model = small_model("foveabox", **options)
    compare_losses(model, "foveabox", TARGETS, labels=labels, **changes)


# Impr 0 to 6 of Table 1, and the row of the text below it.
ABLATIONS = {
    **{
        f"core {core}, relax {relax}, couple {couple}": (
            {
                "DSLA__CORE_ZONE": core,
                "DSLA__INTERVAL_RELAXATION": relax,
                "DSLA__IOU_COUPLING": couple,
            },
            {"target": "coupled" if couple else "label"},
            {"core_zone": core, "kappa": 0.2 if relax else 0.0},
        )
        for core in (False, True)
        for relax in (False, True)
        for couple in (False, True)
    },
    "iou only": (
        {"DSLA__CORE_ZONE": False, "DSLA__INTERVAL_RELAXATION": False, "DSLA__IOU_ONLY": True},
        {"target": "iou"},
        {"core_zone": False, "kappa": 0.0},
    ),
    "kappa": ({"DSLA__KAPPA": 0.4}, {}, {"kappa": 0.4}),
}


@pytest.mark.parametrize("case", ABLATIONS.values(), ids=ABLATIONS.keys())
@pytest.mark.parametrize("name", WITH_DSLA)
def test_every_row_of_table_1_gives_the_losses_of_the_loops(name, case):
    options, changes, labels = case
    compare_losses(small_model(name, **options), name, TARGETS, labels=labels, **changes)


@pytest.mark.parametrize("name", WITH_DSLA)
@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({"DSLA__CLASS_LOSS_WEIGHT": 2.0}, {"class_loss_weight": 2.0}),
        ({"DSLA__QUALITY_FOCAL_BETA": 1.0}, {"quality_focal_beta": 1.0}),
        ({"DSLA__CLASS_NORMALIZER": "num_positives"}, {"class_normalizer": "num_positives"}),
        ({"DSLA__BOX_WEIGHT": "coupled"}, {"box_weight": "coupled"}),
        ({"DSLA__BOX_WEIGHT": "ones"}, {"box_weight": "ones"}),
        ({"DSLA__BOX_WEIGHT": "class_score"}, {"box_weight": "class_score"}),
        (
            {"FCOS__BOX_LOSS_WEIGHT": 2.0, "FOVEABOX__BOX_LOSS_WEIGHT": 2.0},
            {"box_loss_weight": 2.0},
        ),
    ],
    ids=str,
)
def test_every_weight_and_normalizer_of_dsla_gives_the_losses_of_the_loops(name, options, changes):
    compare_losses(small_model(name, **options), name, TARGETS, **changes)


def test_foveabox_can_take_the_ranges_of_fcos_for_dsla():
    model = small_model("dsla_foveabox", DSLA__FOVEABOX_SIZE="max_distance")
    labels = {"size": "max_distance", "size_ranges": RANGES}
    compare_losses(model, "dsla_foveabox", TARGETS, labels=labels)


@pytest.mark.parametrize("name", ALL)
def test_the_size_of_a_batch_does_not_change_the_losses(models, name):
    predictions = random_predictions(name)
    _, counts = oracle_losses(name, predictions, TARGETS)
    assert min([counts] if isinstance(counts, int) else counts.values()) > 1  # not raised to 1
    once = losses_of(models[name], predictions, TARGETS)
    doubled = tuple([torch.cat([level, level]) for level in maps] for maps in predictions)
    twice = losses_of(models[name], doubled, TARGETS * 2)
    for key in once:
        torch.testing.assert_close(once[key], twice[key])


# --- gradients ---


@pytest.mark.parametrize("name", ALL)
def test_each_loss_trains_its_own_outputs_alone(models, name):
    """In particular, the coupled labels pass no gradient from the class loss to the boxes."""
    check_that_losses_train_their_own_outputs(models[name], name)


@pytest.mark.parametrize("weight", ["coupled", "class_score"])
def test_weights_of_the_box_loss_pass_no_gradient(weight):
    model = small_model("dsla_fcos", DSLA__BOX_WEIGHT=weight)
    check_that_losses_train_their_own_outputs(model, "dsla_fcos")


def check_that_losses_train_their_own_outputs(model, name):
    order = ("loss_class", "loss_box", "loss_centerness")
    for key in losses_of(model, random_predictions(name), TARGETS):
        predictions = random_predictions(name)
        losses_of(model, predictions, TARGETS)[key].backward()
        for outputs, maps in zip(order, predictions, strict=True):
            total = sum(0 if m.grad is None else m.grad.abs().sum().item() for m in maps)
            assert (total > 0) == (outputs == key), (outputs, key)


def test_coupled_weights_are_constants_to_the_boxes_they_weigh():
    gradients = {}
    for weight in ("ones", "coupled"):
        predictions = random_predictions("dsla_fcos", 1)
        model = small_model("dsla_fcos", DSLA__BOX_WEIGHT=weight)
        losses_of(model, predictions, TARGETS[:1])["loss_box"].backward()
        maps = [level.grad for level in predictions[1]]
        gradients[weight] = oracle.flatten_maps(maps, 0)
    boxes, classes = TARGETS[0]
    locations = grid_locations(strides=STRIDES)
    labels = label_rule("dsla_fcos")(locations, boxes, classes)
    outputs = oracle.flatten_maps(random_predictions("dsla_fcos", 1)[1], 0)
    ratios = []
    for i, (_, point) in enumerate(oracle.flat_locations(locations)):
        if any(gradients["ones"][i]):
            pred_box = oracle.decode(point, outputs[i], "exp", 1.0)
            weight = labels.score[i] * iou(pred_box, boxes[labels.gt_index[i]].tolist())
            lengths = [math.hypot(*gradients[key][i]) for key in ("coupled", "ones")]
            ratios.append(lengths[0] / lengths[1] / weight)
    assert len(ratios) > 5
    assert ratios == pytest.approx([ratios[0]] * len(ratios), rel=1e-3)


def test_the_class_loss_depends_on_the_boxes_whose_gradient_it_cuts():
    model = small_model("dsla_fcos")
    predictions = random_predictions("dsla_fcos")
    first = losses_of(model, predictions, TARGETS)["loss_class"].item()
    with torch.no_grad():
        for level in predictions[1]:
            level.add_(0.3)
    assert abs(losses_of(model, predictions, TARGETS)["loss_class"].item() - first) > 1e-3


@pytest.mark.parametrize("name", WITH_DSLA)
def test_box_gradients_reach_only_the_positive_locations(models, name):
    predictions = random_predictions(name, 1)
    losses_of(models[name], predictions, TARGETS[:1])["loss_box"].backward()
    labels = label_rule(name)(grid_locations(strides=STRIDES), *TARGETS[0])
    gradients = oracle.flatten_maps([level.grad for level in predictions[1]], 0)
    reached = [any(values) for values in gradients]
    # Positive locations whose predicted box misses theirs have none in -log IoU.
    assert sum(reached) > 5
    assert not any(r for r, score in zip(reached, labels.score, strict=True) if score == 0)


def test_a_predicted_box_that_misses_makes_its_location_background(models):
    predictions = random_predictions("dsla_fcosv2", 1)
    with torch.no_grad():
        for level in predictions[1]:
            level.fill_(-1.0)  # all distances are 0, and so are all IoUs
    model = models["dsla_fcosv2"]
    losses = losses_of(model, predictions, TARGETS[:1])
    assert losses["loss_box"] > 0
    torch.testing.assert_close(
        losses["loss_class"], losses_of(model, predictions, [EMPTY])["loss_class"]
    )


# --- extreme predictions ---


@pytest.mark.parametrize("name", ALL)
def test_nan_predictions_are_seen_and_do_not_crash(models, name):
    for where in range(len([maps for maps in random_predictions(name) if maps])):
        predictions = random_predictions(name)
        with torch.no_grad():
            for level in predictions[where]:
                level.fill_(math.nan)
        losses = losses_of(models[name], predictions, TARGETS)
        assert torch.isnan(sum(losses.values()))
        assert len(detections_of(models[name], predictions, [(64, 64)] * 2)) == 2


@pytest.mark.parametrize("name", ALL)
def test_huge_predictions_have_finite_losses_and_gradients(models, name):
    for scale in (-1e4, 1e4):
        predictions = random_predictions(name)
        with torch.no_grad():
            for maps in predictions:
                for level in maps:
                    level.mul_(scale)
        losses = losses_of(models[name], predictions, TARGETS)
        sum(losses.values()).backward()
        assert all(torch.isfinite(loss) for loss in losses.values())
        assert all(torch.isfinite(level.grad).all() for maps in predictions for level in maps)


@pytest.mark.parametrize("name", ALL)
def test_half_precision_predictions_have_losses_in_single_precision(models, name):
    predictions = random_predictions(name)
    rounded = tuple([level.detach().bfloat16() for level in maps] for maps in predictions)
    actual = losses_of(models[name], rounded, TARGETS)
    single = tuple([level.float() for level in maps] for maps in rounded)
    expected = losses_of(models[name], single, TARGETS)
    for key, loss in actual.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[key], rtol=1e-4, atol=1e-5)


# --- inference ---


def detections_of(model, predictions, image_sizes):
    return model.inference(
        grid_locations(strides=STRIDES), as_predictions(predictions), image_sizes
    )


def compare_detections(model, name, image_sizes=((64, 64), (50, 61)), seed=0, **changes):
    predictions = random_predictions(name, len(image_sizes), seed)
    actual = detections_of(model, predictions, image_sizes)
    options = box_settings(name) | {"nms_threshold": 0.5 if name.endswith("foveabox") else 0.6}
    options["score_threshold"] = 0.01  # the quick configs'
    del options["box_loss_kind"]
    options["score"] = "product" if predictions[2] else "class"
    expected = oracle.reference_inference(
        grid_locations(strides=STRIDES), predictions, image_sizes, **options | changes
    )
    for found, wanted, size in zip(actual, expected, image_sizes, strict=True):
        assert found.image_size == size
        assert len(found) == len(wanted) > 0
        scores = torch.tensor([score for score, _, _ in wanted])
        torch.testing.assert_close(found.scores, scores, rtol=1e-4, atol=1e-6)
        # Scores that are equal in single precision may stand in another order.
        rows = [(c, *box) for _, c, box in wanted]
        actual_rows = torch.cat([found.pred_classes[:, None], found.pred_boxes.tensor], dim=1)
        for i, row in enumerate(actual_rows):
            tied = [rows[j] for j, s in enumerate(scores) if abs(s - scores[i]) < 1e-6]
            distances = (torch.tensor(tied) - row).abs().amax(dim=1)
            assert distances.min() < 5e-3, (i, row, tied)
    return expected


@pytest.mark.parametrize("name", ALL)
def test_detections_are_those_of_the_loops(models, name):
    for seed in range(2):
        compare_detections(models[name], name, seed=seed)


@pytest.mark.parametrize("name", ["fcos", "dsla_fcosv2", "foveabox"])
@pytest.mark.parametrize(
    ("key", "value", "changes"),
    [
        ("SCORE_THRESH_TEST", 0.5, {"score_threshold": 0.5}),
        ("TOPK_CANDIDATES_TEST", 7, {"candidates_per_level": 7}),
        ("NMS_THRESH_TEST", 0.2, {"nms_threshold": 0.2}),
    ],
    ids=str,
)
def test_every_option_gives_the_detections_of_the_loops(name, key, value, changes):
    node = "FOVEABOX" if name == "foveabox" else "FCOS"
    model = small_model(name, **{f"{node}__{key}": value})
    compare_detections(model, name, **changes)


def test_no_more_detections_than_allowed_are_given(models):
    model = small_model("dsla_fcos")
    model.max_detections = 3
    compare_detections(model, "dsla_fcos", max_detections=3)


@pytest.mark.parametrize("name", ALL)
def test_scores_below_the_threshold_give_no_detections(models, name):
    predictions = random_predictions(name)
    with torch.no_grad():
        for level in predictions[0]:
            level.fill_(-10.0)
    for found in detections_of(models[name], predictions, [(64, 64)] * 2):
        assert len(found) == 0 and found.pred_boxes.tensor.shape == (0, 4)


# --- the whole detector ---


@pytest.mark.parametrize("contract", contracts.CONTRACTS, ids=lambda check: check.__name__[6:])
@pytest.mark.parametrize("name", ALL)
def test_the_detector_keeps_the_contract(name, contract):
    # So low a threshold lets an untrained detector find something.
    low = {"FCOS__SCORE_THRESH_TEST": 0.001, "FOVEABOX__SCORE_THRESH_TEST": 0.001}
    options = {}
    if contract is contracts.check_learns_one_batch:
        # Coupled labels start near 0: DSLA's class loss rises with the IoU before it falls.
        options = {"steps": 20, "learning_rate": 3e-3}
    contract(small_model(name, **low), num_classes=C, **options)


@pytest.mark.parametrize("name", ALL)
def test_images_of_different_sizes_are_learnt_from_together(models, name):
    inputs = [
        contracts.make_input(num_classes=C, size=size, seed=seed)
        for seed, size in enumerate([(64, 64), (33, 90)])
    ]
    losses = contracts.check_gradients(models[name], inputs)
    assert all(loss > 0 for loss in losses.values())


@pytest.mark.parametrize("name", ALL)
def test_locations_stand_in_the_middle_of_their_cells_row_by_row(models, name):
    features = [torch.zeros(1, 1, -(-40 // stride), -(-90 // stride)) for stride in STRIDES]
    actual = models[name].grid_locations(features)
    for level, expected in zip(actual, grid_locations(40, 90, STRIDES), strict=True):
        assert torch.equal(level, expected)
    key = "FOVEABOX__POINT_OFFSET" if name.endswith("foveabox") else "FCOS__POINT_OFFSET"
    at_corners = small_model(name, **{key: 0.0}).grid_locations(features)
    for level, middle, stride in zip(at_corners, actual, STRIDES, strict=True):
        assert torch.equal(level, middle - stride / 2)


@pytest.mark.parametrize("baseline", BASELINES)
def test_dsla_has_the_parameters_of_its_baseline_but_no_centerness_branch(models, baseline):
    plain, smooth = (
        {name: p.shape for name, p in models[key].named_parameters()}
        for key in (baseline, f"dsla_{baseline}")
    )
    assert not any("centerness" in name for name in smooth)
    assert smooth == {name: shape for name, shape in plain.items() if "centerness" not in name}
    removed = 0 if baseline == "foveabox" else 2  # weight and bias
    assert len(plain) - len(smooth) == removed


@pytest.mark.parametrize(
    ("name", "tower", "other"),
    [("fcos", "class_tower", "box_tower"), ("fcosv2", "box_tower", "class_tower")],
)
def test_centerness_stands_on_the_tower_of_its_paper(models, name, tower, other):
    model = models[name]
    model.zero_grad(set_to_none=True)
    inputs = [contracts.make_input(num_classes=C)] * 2
    contracts.training_losses(model, inputs)["loss_centerness"].backward()
    gradients = {key: p.grad for key, p in model.head.named_parameters()}
    assert all(gradients[key].any() for key in gradients if key.startswith(tower))
    assert all(
        gradients[key] is None or not gradients[key].any()
        for key in gradients
        if key.startswith(other)
    )


def test_a_learned_scale_multiplies_the_box_outputs_of_its_level(models):
    head = small_model("fcos").head
    features = [torch.randn(1, 64, 4, 4) for _ in STRIDES]
    before = head(features)
    with torch.no_grad():
        head.scales.copy_(torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0]))
    after = head(features)
    for scale, first, second in zip(
        [1, 2, 0.5, 1, 3], before.box_outputs, after.box_outputs, strict=True
    ):
        torch.testing.assert_close(second, scale * first)
    for first, second in zip(before.class_logits, after.class_logits, strict=True):
        assert torch.equal(first, second)


def test_one_image_is_learnt_by_heart():
    """Boxes, classes and places come out as they went in, through the whole detector."""
    width = {"RESNETS__STEM_OUT_CHANNELS": 32, "RESNETS__RES2_OUT_CHANNELS": 32}
    model = small_model("dsla_fcos", RESNETS__NORM="GN", FCOS__PRIOR_PROB=0.1, **width)
    boxes, classes = [[6.0, 8, 30, 40], [34.0, 30, 62, 58], [38.0, 4, 58, 20]], [0, 1, 2]
    inputs = [contracts.make_input(boxes, classes, num_classes=C)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(60):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 10, (60 - step) / 30)
        optimizer.zero_grad()
        sum(contracts.training_losses(model, inputs).values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    found = contracts.detect(model, inputs)[0]["instances"][:3]
    order = found.pred_classes.argsort()
    assert found.pred_classes[order].tolist() == classes
    torch.testing.assert_close(
        found.pred_boxes.tensor[order], torch.tensor(boxes), rtol=0.0, atol=3.0
    )
