"""Test-time augmentation against loops, for every dense detector."""

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import nn

from anchorkit.config import load_config
from anchorkit.data.views import ViewMapper, build_view_mapper
from anchorkit.errors import UserError
from anchorkit.evaluation import DetectorWithTTA, check_test_augmentation
from anchorkit.evaluation.score_quality import suppression_of, unsuppressed
from tests.reference.boxes import nms
from tests.test_train_net import REPO

QUICK = REPO / "configs" / "quick"
DETECTORS = (
    "retinanet", "semi_anchored_retinanet", "fcos", "dsla_foveabox", "ssd", "semi_anchored_ssd",
)  # fmt: skip
# Scores of untrained detectors are alike: a low threshold lets something pass.
LOW = [f"MODEL.{name}.SCORE_THRESH_TEST" for name in
       ("RETINANET", "SEMI_ANCHORED", "FCOS", "FOVEABOX", "SSD")]  # fmt: skip
FEW = [f"MODEL.{name}.TOPK_CANDIDATES_TEST" for name in
       ("RETINANET", "SEMI_ANCHORED", "FCOS", "FOVEABOX", "SSD")]  # fmt: skip


@pytest.fixture
def record(tmp_path):
    """An image of noise, 90 x 70, as a data set names it."""
    pixels = np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    return {"file_name": str(tmp_path / "noise.png"), "width": 90, "height": 70, "image_id": 1}


def load(name, *options):
    sizes = "(160,)" if "ssd" in name else "(64, 97)"
    low = [item for key in LOW for item in (key, "0.0001")]
    few = [item for key in FEW for item in (key, "6")]
    return load_config(
        str(QUICK / f"{name}_digit_scenes.yaml"),
        ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", sizes, "TEST.AUG.FLIP", "True",
         *low, *few, *options],
    )  # fmt: skip


def loop(model, cfg, record):
    """Boxes, scores and classes: view by view, then greedy suppression of one box after another."""
    assert cfg.INPUT.FORMAT == "BGR"
    pixels = np.asarray(Image.open(record["file_name"]))[:, :, ::-1]
    names = suppression_of(model)
    threshold, limit = (getattr(model, name) for name in names)
    found = []
    for size in cfg.TEST.AUG.MIN_SIZES:
        square = cfg.INPUT.FIXED_SIZE > 0
        resize = T.Resize((size, size)) if square else T.ResizeShortestEdge(size, 4000)
        for flip in (False, True):
            image = resize.get_transform(pixels).apply_image(np.ascontiguousarray(pixels))
            image = image[:, ::-1] if flip else image
            view = {"image": torch.tensor(image.transpose(2, 0, 1).copy()), "height": 70,
                    "width": 90}  # fmt: skip
            with torch.no_grad(), unsuppressed(model, names):
                output = model([view])[0]["instances"]
            for box, score, label in zip(output.pred_boxes.tensor.tolist(), output.scores.tolist(),
                                         output.pred_classes.tolist(), strict=True):  # fmt: skip
                if flip:
                    box = [90 - box[2], box[1], 90 - box[0], box[3]]
                found.append((score, label, box))
    return nms(found, threshold)[:limit]


@pytest.mark.parametrize("name", DETECTORS)
def test_views_are_merged_as_by_a_loop_over_them(name, record):
    cfg = load(name, "TEST.DETECTIONS_PER_IMAGE", "30")
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    images = [build_view_mapper(cfg)(record)]
    found = DetectorWithTTA(model)(images)[0]["instances"]
    expected = loop(model, cfg, record)
    assert len(found) == len(expected) > 5
    torch.testing.assert_close(found.scores, torch.tensor([one[0] for one in expected]))
    assert found.pred_classes.tolist() == [one[1] for one in expected]
    torch.testing.assert_close(
        found.pred_boxes.tensor, torch.tensor([one[2] for one in expected]), atol=1e-3, rtol=0
    )
    assert found.image_size == (70, 90) and not model.training
    twice = DetectorWithTTA(model)(images * 2)
    assert [len(one["instances"]) for one in twice] == [len(found)] * 2


class Spotlight(nn.Module):
    """Finds the one bright rectangle of an image; sees a mirrored image no differently."""

    nms_threshold, max_detections = 0.5, 10

    def forward(self, images):
        return [{"instances": self.find(one)} for one in images]

    def find(self, one):
        rows, columns = (one["image"][0] > 128).nonzero().unbind(1)
        box = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
        box *= one["width"] / one["image"].shape[2]
        return Instances(
            (one["height"], one["width"]), pred_boxes=Boxes(box[None]),
            scores=torch.tensor([0.9]), pred_classes=torch.tensor([2]),
        )  # fmt: skip


def test_boxes_of_mirrored_and_resized_views_are_mapped_back_exactly(record):
    pixels = np.zeros((70, 90, 3), dtype=np.uint8)
    pixels[20:40, 10:50] = 255
    Image.fromarray(pixels).save(record["file_name"])
    resizes = [T.Resize((70, 90)), T.Resize((140, 180), interp=Image.NEAREST)]
    sample = ViewMapper(resizes, True, "RGB")({**record, "annotations": [1]})
    assert [view["is_flipped"] for view in sample["views"]] == [False, True] * 2
    assert torch.equal(sample["views"][1]["image"], sample["views"][0]["image"].flip(2))
    assert "annotations" not in sample
    model = Spotlight()
    for view in sample["views"]:
        alone = DetectorWithTTA(model)([{**sample, "views": [view]}])[0]["instances"]
        assert alone.pred_boxes.tensor.tolist() == [[10, 20, 50, 40]]
    (merged,) = DetectorWithTTA(model)([sample])
    assert merged["instances"].pred_boxes.tensor.tolist() == [[10, 20, 50, 40]]
    assert (model.nms_threshold, model.max_detections) == (0.5, 10)


@pytest.mark.parametrize(("name", "options", "message"), [
    ("ssd", ("TEST.AUG.MIN_SIZES", "(160, 200)"), r"set TEST.AUG.MIN_SIZES \(160,\)"),
    ("fcos", ("TEST.AUG.MIN_SIZES", "()"), r"MIN_SIZES is \(\); give the sides"),
    ("fcos", ("TEST.AUG.MIN_SIZES", "(0,)"), r"MIN_SIZES is \(0,\); give the sides"),
    ("fcos", ("MODEL.META_ARCHITECTURE", "ImageClassifier"), "not for ImageClassifier"),
    ("fcos", ("MODEL.META_ARCHITECTURE", "GeneralizedRCNN"), "not for GeneralizedRCNN"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_before_anything_is_built(name, options, message):
    with pytest.raises(UserError, match=message):
        check_test_augmentation(load(name, *options))


def test_a_detector_without_a_known_suppression_is_refused():
    with pytest.raises(UserError, match="Linear has no suppression"):
        DetectorWithTTA(nn.Linear(1, 1))
