"""SSD: anchors, body, losses and detections against loops, and the contracts."""

from pathlib import Path

import pytest
import torch
from detectron2.layers import batched_nms
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from anchorkit.config import load_config
from anchorkit.errors import UserError
from anchorkit.modeling.anchor_generator import SSDAnchorGenerator, grid_anchors
from anchorkit.modeling.backbone import SSDVGG
from anchorkit.modeling.heads import SSDPredictions
from anchorkit.modeling.postprocess import class_candidates
from tests import contracts
from tests.reference import boxes as box_oracle
from tests.reference import ssd as oracle
from tests.reference.scenes import instances, random_scene

C = 3
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# Four maps of 8, 4, 2 and 1 pixels at a 64-pixel input.
DIVISOR = 16
EXTRAS = [[256, 512, 3, 2, 1], [256, 512, 3, 2, 1]]
SIZES = [8, 16, 28, 44, 60]
RATIOS = [[2.0], [2.0, 3.0], [2.0, 3.0], [2.0]]
STRIDES = [8, 16, 32, 64]
ANCHORS = {"sizes": SIZES, "aspect_ratios": RATIOS, "strides": STRIDES}


def small_model(architecture="SSD", **options):
    """A narrow SSD at 64 pixels; ``options`` are keys with "__" for the dots."""
    overrides = {
        "MODEL.META_ARCHITECTURE": architecture,
        "MODEL.BACKBONE.NAME": "build_ssd_vgg_backbone",
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.ANCHOR_GENERATOR.NAME": "SSDAnchorGenerator",
        "MODEL.SSD.WIDTH_DIVISOR": DIVISOR,
        "MODEL.SSD.EXTRA_LAYERS": EXTRAS,
        "MODEL.SSD.SIZES": SIZES,
        "MODEL.SSD.ASPECT_RATIOS": RATIOS,
        "MODEL.SSD.STRIDES": STRIDES,
        "MODEL.SEMI_ANCHORED.NUM_CONVS": 0,
        "MODEL.SEMI_ANCHORED.SCORE_THRESH_TEST": 0.001,
        "MODEL.NUM_CLASSES": C,
        "MODEL.PIXEL_STD": [57.375, 57.12, 58.395],
        "MODEL.DEVICE": "cpu",
        "INPUT.FIXED_SIZE": 64,
    }
    overrides |= {name.replace("__", "."): value for name, value in options.items()}
    torch.manual_seed(0)
    pairs = [part for pair in overrides.items() for part in pair]
    return build_model(load_config("", pairs))


@pytest.fixture(scope="module")
def model():
    """A model with the default options; tests that change it build their own."""
    return small_model()


@pytest.mark.parametrize("contract", contracts.CONTRACTS, ids=lambda check: check.__name__[6:])
def test_the_detector_keeps_the_contract(contract):
    contract(small_model(), num_classes=C)


@pytest.mark.parametrize("contract", contracts.CONTRACTS, ids=lambda check: check.__name__[6:])
def test_the_detector_with_batch_normalisation_keeps_the_contract(contract):
    # Without the last map: batch normalisation cannot train on one image's only location.
    model = small_model(
        MODEL__SSD__NORM="BN", MODEL__SSD__EXTRA_LAYERS=EXTRAS[:1], MODEL__SSD__SIZES=SIZES[:4],
        MODEL__SSD__ASPECT_RATIOS=RATIOS[:3], MODEL__SSD__STRIDES=STRIDES[:3],
    )  # fmt: skip
    contract(model, num_classes=C)


@pytest.mark.parametrize("contract", contracts.CONTRACTS, ids=lambda check: check.__name__[6:])
def test_the_semi_anchored_detector_keeps_the_contract(contract):
    contract(small_model("SemiAnchoredSSD"), num_classes=C)


# --- anchors ---


def test_anchors_are_those_of_the_paper_around_the_middle_of_their_cell():
    generator = SSDAnchorGenerator(**ANCHORS)
    features = [torch.zeros(1, 1, 5, 8), torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 2, 2),
                torch.zeros(1, 1, 1, 1)]  # fmt: skip
    levels = grid_anchors(generator, features)
    for index, (level, stride, ratios) in enumerate(zip(levels, STRIDES, RATIOS, strict=True)):
        sizes = oracle.anchor_sizes(SIZES[index], SIZES[index + 1], ratios)
        assert level.shape[2] == len(sizes)
        for y in range(level.shape[0]):
            for x in range(level.shape[1]):
                for k, (width, height) in enumerate(sizes):
                    center = ((x + 0.5) * stride, (y + 0.5) * stride)
                    expected = [center[0] - width / 2, center[1] - height / 2,
                                center[0] + width / 2, center[1] + height / 2]  # fmt: skip
                    assert level[y, x, k].tolist() == pytest.approx(expected, abs=1e-4)
    assert generator.num_cell_anchors == [4, 6, 6, 4] and not generator.state_dict()


def test_no_clipped_anchor_is_larger_than_the_input():
    clipped = SSDAnchorGenerator(**ANCHORS, largest=40.0)
    plain = SSDAnchorGenerator(**ANCHORS)
    assert clipped.cells3.abs().max() == 20.0 and plain.cells3.abs().max() > 20.0
    assert torch.equal(clipped.cells0, plain.cells0)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("STRIDES", STRIDES[:3], "STRIDES has 3 entries, but the body has 4 feature maps"),
        ("SIZES", SIZES[:4], "they have 4, 4 and 4"),
        ("ASPECT_RATIOS", RATIOS[:2], "they have 5, 2 and 4"),
        ("CONVS_PER_STAGE", [1, 1, 1], "CONVS_PER_STAGE has 3 entries; VGG has five"),
    ],
)
def test_a_config_that_cannot_be_built_is_told_why(option, value, message):
    with pytest.raises(UserError, match=message):
        small_model(**{f"MODEL__SSD__{option}": value})


def test_clipped_anchors_need_an_image_size():
    with pytest.raises(UserError, match="set INPUT.FIXED_SIZE, or MODEL.SSD.CLIP_ANCHORS False"):
        small_model(INPUT__FIXED_SIZE=0)
    small_model(INPUT__FIXED_SIZE=0, MODEL__SSD__CLIP_ANCHORS=False)


def test_an_image_too_small_for_the_last_map_is_told():
    body = vgg([*EXTRAS, [256, 512, 3, 1, 0]])
    message = "an image of 64 x 60 pixels leaves conv10_2 a map of 1 x 1"
    with pytest.raises(ValueError, match=message):
        body(torch.zeros(1, 3, 64, 60))


# --- body ---


def vgg(extra_layers=EXTRAS, **options):
    return SSDVGG(extra_layers=extra_layers, width_divisor=DIVISOR, **options)


def test_the_maps_have_the_sizes_of_the_paper():
    for size, cfg, expected in (
        (300, load_config(str(CONFIGS / "Base-SSD300.yaml")), [38, 19, 10, 5, 3, 1]),
        (512, load_config(str(CONFIGS / "Base-SSD512.yaml")), [64, 32, 16, 8, 4, 2, 1]),
    ):
        body = vgg(cfg.MODEL.SSD.EXTRA_LAYERS)
        with torch.no_grad():
            maps = body(torch.zeros(1, 3, size, size))
        assert [m.shape[-1] for m in maps.values()] == expected
        assert [m.shape[-2] for m in maps.values()] == expected
        shapes = body.output_shape()
        assert list(maps) == list(shapes)
        assert [m.shape[1] for m in maps.values()] == [s.channels for s in shapes.values()]
        assert list(maps)[:3] == ["conv4_3", "conv7", "conv8_2"]


def test_conv4_3_is_normalised_to_a_learned_length():
    body = vgg()
    image = torch.randn(1, 3, 64, 64)
    feature = body(image)["conv4_3"]
    lengths = feature.norm(dim=1)
    assert torch.allclose(lengths[lengths > 1e-6], torch.tensor(20.0), rtol=1e-4)
    assert (lengths > 1e-6).any()
    body.l2_norm.scale.data.fill_(3.0)
    torch.testing.assert_close(body(image)["conv4_3"], feature * 3 / 20)


@pytest.mark.parametrize("norm", ["", "BN"])
def test_frozen_stages_have_no_trained_parameters(norm):
    body = vgg(freeze_at=2, norm=norm)
    trained = {name for name, p in body.named_parameters() if p.requires_grad}
    assert not any(name.startswith(("stages.0", "stages.1")) for name in trained)
    assert any(name.startswith("stages.2") for name in trained)
    assert {"l2_norm.scale", "conv6.weight", "extras.0.conv8_1.weight"} <= trained


# --- losses ---


def grids():
    generator = SSDAnchorGenerator(**ANCHORS)
    return grid_anchors(generator, [torch.zeros(1, 1, size, size) for size in (8, 4, 2, 1)])


def random_predictions(levels, num_images=2, seed=0):
    """Raw outputs; each map is a leaf that takes gradients."""
    generator = torch.Generator().manual_seed(seed)

    def leaves(size):
        return [
            torch.randn(
                num_images, level.shape[2] * size, *level.shape[:2], generator=generator
            ).requires_grad_()
            for level in levels
        ]

    return SSDPredictions(leaves(C + 1), leaves(4))


def rows_of(maps, size):
    """For each image rows of ``size`` numbers, anchor by anchor as the grids have them."""
    images = []
    for n in range(len(maps[0])):
        rows = []
        for level in maps:
            for y in range(level.shape[2]):
                for x in range(level.shape[3]):
                    outputs = level[n, :, y, x].tolist()
                    rows += [outputs[i : i + size] for i in range(0, len(outputs), size)]
        images.append(rows)
    return images


def losses_of(model, predictions, targets):
    with EventStorage():
        return model.losses(grids(), predictions, [instances(*target) for target in targets])


EMPTY = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


@pytest.mark.parametrize(
    ("options", "reference_options"),
    [
        ({}, {}),
        ({"MODEL__SSD__NEGATIVE_RATIO": 1.0}, {"ratio": 1.0}),
        ({"MODEL__SSD__IOU_THRESHOLD": 0.3}, {"threshold": 0.3}),
        ({"MODEL__SSD__SMOOTH_L1_BETA": 0.1}, {"beta": 0.1}),
        ({"MODEL__SSD__BBOX_REG_WEIGHTS": [1.0] * 4}, {"weights": (1.0,) * 4}),
    ],
    ids=str,
)
@pytest.mark.parametrize("is_half_empty", [False, True])
def test_the_losses_are_those_of_the_loops(options, reference_options, is_half_empty):
    model = small_model(**options)
    levels = grids()
    targets = [random_scene(0), EMPTY if is_half_empty else random_scene(1, count=3)]
    predictions = random_predictions(levels)
    actual = losses_of(model, predictions, targets)
    anchors = torch.cat([level.flatten(0, 2) for level in levels]).tolist()
    class_loss, box_loss, count = oracle.losses(
        anchors,
        rows_of(predictions.class_logits, C + 1),
        rows_of(predictions.box_deltas, 4),
        [(boxes.tolist(), classes.tolist()) for boxes, classes in targets],
        num_classes=C,
        **reference_options,
    )
    assert count >= 3
    assert actual["loss_class"].item() == pytest.approx(class_loss, rel=2e-4)
    assert actual["loss_box"].item() == pytest.approx(box_loss, rel=2e-4)


def test_a_batch_without_positives_has_losses_of_zero_and_gradients(model):
    predictions = random_predictions(grids())
    losses = losses_of(model, predictions, [EMPTY, EMPTY])
    assert [loss.item() for loss in losses.values()] == [0.0, 0.0]
    sum(losses.values()).backward()
    for leaf in (*predictions.class_logits, *predictions.box_deltas):
        assert leaf.grad is not None and not leaf.grad.any()


def test_only_positive_anchors_learn_boxes(model):
    predictions = random_predictions(grids())
    targets = [random_scene(2), EMPTY]
    losses_of(model, predictions, targets)["loss_box"].backward()
    labels = model.assigner(grids(), instances(*targets[0])).labels
    learnt = torch.cat(
        [g.grad[0].view(-1, 4, *g.shape[2:]).permute(2, 3, 0, 1).reshape(-1, 4)
         for g in predictions.box_deltas]
    ).any(dim=1)  # fmt: skip
    assert torch.equal(learnt, labels < C)
    assert not any(leaf.grad[1].any() for leaf in predictions.box_deltas)


def test_the_box_loss_has_its_weight(model):
    weighted = small_model(MODEL__SSD__BOX_LOSS_WEIGHT=2.0)
    predictions, targets = random_predictions(grids()), [random_scene(0), EMPTY]
    first, second = (losses_of(m, predictions, targets) for m in (model, weighted))
    assert second["loss_box"].item() == pytest.approx(2 * first["loss_box"].item())
    assert second["loss_class"].item() == first["loss_class"].item()


# --- detections ---


@pytest.mark.parametrize("topk", [2, 5, 400])
def test_candidates_are_the_best_of_each_class(topk):
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(30, C, generator=generator) * torch.tensor([1.0, 0.4, 0.2])
    found, classes, anchors = class_candidates(scores, score_threshold=0.3, topk=topk)
    expected = []
    for label in range(C):
        ranked = sorted(range(30), key=lambda r: -scores[r, label].item())
        expected += [(label, r) for r in ranked[:topk] if scores[r, label] > 0.3]
    assert list(zip(classes.tolist(), anchors.tolist(), strict=True)) == expected
    assert torch.equal(found, scores[anchors, classes])
    assert 2 not in classes.tolist() and len(expected) >= 4


def test_detections_are_the_softmax_scores_and_decoded_boxes_of_the_loops():
    model = small_model(
        MODEL__SSD__SCORE_THRESH_TEST=0.05, MODEL__SSD__TOPK_CANDIDATES_TEST=20,
        TEST__DETECTIONS_PER_IMAGE=15,
    )  # fmt: skip
    levels = grids()
    predictions = random_predictions(levels, seed=3)
    results = model.inference(levels, predictions, [(64, 64), (60, 50)])
    anchors = torch.cat([level.flatten(0, 2) for level in levels]).tolist()
    logits, deltas = rows_of(predictions.class_logits, C + 1), rows_of(predictions.box_deltas, 4)
    for n, (height, width) in enumerate([(64, 64), (60, 50)]):
        candidates = []
        for label in range(C):
            of_class = []
            for r, row in enumerate(logits[n]):
                score = torch.tensor(row, dtype=torch.float64).softmax(0)[label].item()
                if score > 0.05:
                    x1, y1, x2, y2 = box_oracle.decode(anchors[r], deltas[n][r])
                    box = [min(max(x1, 0), width), min(max(y1, 0), height),
                           min(max(x2, 0), width), min(max(y2, 0), height)]  # fmt: skip
                    of_class.append((score, label, box))
            candidates += sorted(of_class, key=lambda c: -c[0])[:20]
        scores = torch.tensor([c[0] for c in candidates])
        classes = torch.tensor([c[1] for c in candidates])
        boxes = torch.tensor([c[2] for c in candidates])
        keep = batched_nms(boxes, scores, classes, 0.45)[:15]
        torch.testing.assert_close(results[n].scores, scores[keep], rtol=1e-4, atol=1e-5)
        assert torch.equal(results[n].pred_classes, classes[keep])
        torch.testing.assert_close(results[n].pred_boxes.tensor, boxes[keep], rtol=1e-4, atol=1e-3)
        assert len(results[n]) == 15
