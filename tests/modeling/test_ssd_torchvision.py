"""The SSD here is torchvision's: with the same weights, the same numbers."""

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import EventStorage
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.detection.image_list import ImageList

from anchorkit.config import load_config
from anchorkit.conversion import convert_ssd300
from anchorkit.layers import flatten_levels
from tests.reference.scenes import instances

# torchvision's default: 90 classes and background.
CLASSES = 90
# Mean of torchvision's SSD in grey levels.
MEAN = [255 * part for part in (0.48235, 0.45882, 0.40784)]


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    model = ssd300_vgg16(weights=None, weights_backbone=None)
    # Outputs of untrained convolutions are huge or alike, and scores tie at 1 or at 1 / 91.
    with torch.no_grad():
        features = model.backbone(50 * torch.randn(1, 3, 300, 300)).values()
        for head in (model.head.classification_head, model.head.regression_head):
            for conv, feature in zip(head.module_list, features, strict=True):
                conv.weight /= conv(feature).std()
                conv.bias.normal_()
    return model.eval()


@pytest.fixture(scope="module")
def ours(theirs):
    model = build(CLASSES)
    model.load_state_dict(convert_ssd300(theirs.state_dict(), range(1, CLASSES + 1)), strict=True)
    return model.eval()


def build(num_classes):
    overrides = [
        *("MODEL.META_ARCHITECTURE", "SSD"),
        *("MODEL.BACKBONE.NAME", "build_ssd_vgg_backbone"),
        *("MODEL.BACKBONE.FREEZE_AT", 0),
        *("MODEL.ANCHOR_GENERATOR.NAME", "SSDAnchorGenerator"),
        *("MODEL.NUM_CLASSES", num_classes),
        *("MODEL.DEVICE", "cpu"),
        *("MODEL.PIXEL_MEAN", MEAN),
        *("INPUT.FIXED_SIZE", 300),
        *("MODEL.SSD.SCORE_THRESH_TEST", 0.01),
        *("TEST.DETECTIONS_PER_IMAGE", 200),
    ]
    cfg = load_config("", overrides)
    return META_ARCH_REGISTRY.get("SSD")(cfg)


@pytest.fixture(scope="module")
def image():
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(2, 3, 10, 10, generator=generator) * 255
    image = torch.nn.functional.interpolate(coarse, (300, 300), mode="bilinear")
    # Without noise, anchors of flat regions have equal scores, whose order is up to the sort.
    noise = 40 * torch.rand(2, 3, 300, 300, generator=generator) - 20
    return (image + noise).clamp(0, 255).round()


@pytest.fixture(scope="module")
def outputs(theirs, ours, image):
    """Feature maps and raw predictions of both for the same normalised images."""
    with torch.no_grad():
        pixels = ours.preprocess_image([{"image": one} for one in image]).tensor
        their_features = list(theirs.backbone(pixels).values())
        features = list(ours.backbone(pixels).values())
        return their_features, theirs.head(their_features), features, ours.head(features)


def test_both_have_the_same_number_of_parameters(theirs, ours):
    def count(model):
        return sum(parameter.numel() for parameter in model.parameters())

    # The figure that torchvision states for its COCO weights.
    assert count(ours) == count(theirs) == 35_641_826


def test_feature_maps_are_equal(outputs):
    their_features, _, features, _ = outputs
    for one, other in zip(features, their_features, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_raw_scores_and_deltas_are_equal(outputs):
    _, their_outputs, _, predictions = outputs
    logits = flatten_levels(predictions.class_logits, CLASSES + 1)
    theirs = their_outputs["cls_logits"]
    assert logits.shape == theirs.shape == (2, 8732, CLASSES + 1)
    # Background stands first there and last here.
    torch.testing.assert_close(logits, theirs.roll(-1, dims=2), rtol=1e-4, atol=1e-4)
    assert logits.std() > 0.5
    deltas = flatten_levels(predictions.box_deltas, 4)
    torch.testing.assert_close(deltas, their_outputs["bbox_regression"], rtol=1e-4, atol=1e-4)


def test_anchors_are_equal(theirs, ours, outputs, image):
    their_features, _, features, _ = outputs
    images = ImageList(image, [(300, 300)] * 2)
    expected = theirs.anchor_generator(images, their_features)[0]
    actual = torch.cat([level.flatten(0, 2) for level in ours.grid_anchors(features)])
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-3)


def test_detections_from_the_same_raw_outputs_are_equal(theirs, ours, outputs):
    _, _, features, predictions = outputs
    anchors = ours.grid_anchors(features)
    raw = {
        "cls_logits": flatten_levels(predictions.class_logits, CLASSES + 1).roll(1, dims=2),
        "bbox_regression": flatten_levels(predictions.box_deltas, 4),
    }
    flat_anchors = torch.cat([level.flatten(0, 2) for level in anchors])
    sizes = [(300, 300)] * 2
    with torch.no_grad():
        expected = theirs.postprocess_detections(raw, [flat_anchors] * 2, sizes)
    actual = ours.inference(anchors, predictions, sizes)
    for found, other in zip(actual, expected, strict=True):
        assert len(found) == len(other["scores"]) == 200
        torch.testing.assert_close(found.scores, other["scores"])
        assert torch.equal(found.pred_classes + 1, other["labels"])
        torch.testing.assert_close(found.pred_boxes.tensor, other["boxes"], rtol=1e-5, atol=1e-3)


def test_whole_images_give_almost_equal_detections(theirs, ours, image):
    with torch.no_grad():
        expected = theirs(list(image / 255))
        actual = ours([{"image": one} for one in image])
    for one, other in zip(actual, expected, strict=True):
        found = one["instances"]
        # Which of two overlapping candidates with almost equal scores is kept is up to rounding.
        torch.testing.assert_close(found.scores, other["scores"], rtol=0, atol=5e-4)
        offset = (found.pred_boxes.tensor[:, None] - other["boxes"]).abs().amax(dim=2)
        is_same = ((found.pred_classes + 1)[:, None] == other["labels"]) & (offset < 0.05)
        assert is_same.any(dim=0).float().mean() > 0.98


def test_losses_are_equal(theirs, ours, image):
    generator = torch.Generator().manual_seed(2)
    corner = torch.rand(2, 6, 2, generator=generator) * 200
    size = 20 + torch.rand(2, 6, 2, generator=generator) * 80
    boxes = torch.cat([corner, corner + size], dim=2)
    classes = torch.randint(CLASSES, (2, 6), generator=generator)
    with torch.no_grad():
        theirs.train()
        targets = [{"boxes": b, "labels": c + 1} for b, c in zip(boxes, classes, strict=True)]
        expected = theirs(list(image / 255), targets)
        theirs.eval()
        ours.train()
        samples = [
            {"image": one, "instances": instances(b, c, (300, 300))}
            for one, b, c in zip(image, boxes, classes, strict=True)
        ]
        with EventStorage():
            actual = ours(samples)
        ours.eval()
    torch.testing.assert_close(actual["loss_class"], expected["classification"], rtol=1e-3, atol=0)
    torch.testing.assert_close(
        actual["loss_box"], expected["bbox_regression"], rtol=1e-3, atol=0
    )


def test_the_80_classes_of_coco_keep_their_scores(theirs, outputs):
    converted = convert_ssd300(theirs.state_dict())
    model = build(80)
    model.load_state_dict(converted, strict=True)
    _, their_outputs, features, _ = outputs
    with torch.no_grad():
        logits = flatten_levels(model.head(features).class_logits, 81)
    # person is 1, bicycle 2 ... stop sign 13 (12 is not used), toothbrush 90.
    for ours, label in ((0, 1), (10, 11), (11, 13), (79, 90), (80, 0)):
        torch.testing.assert_close(
            logits[..., ours], their_outputs["cls_logits"][..., label], rtol=1e-4, atol=1e-4
        )
