"""The score-quality report against loops, by hand, and through the command."""

import json
import logging
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.layers import batched_nms
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import nn

import anchorkit  # noqa: F401  (registers models)
from anchorkit.config import load_config
from anchorkit.evaluation import ScoreQuality
from anchorkit.evaluation.score_quality import (
    MIN_IOU,
    _spearman,
    label_steps,
    suppression_of,
    survivor_table,
    unsuppressed,
)
from tests.reference import score_quality as oracle

ROOT = Path(__file__).resolve().parents[2]
QUICK = ROOT / "configs" / "quick"


def detections(boxes, scores, classes):
    instances = Instances((200, 200))
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.tensor(scores, dtype=torch.float32)
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return instances


def random_scene(seed, count=60):
    """Boxes jittered around a few ground-truth boxes, of two classes."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(5, 2, generator=generator) * 100
    gt_boxes = torch.cat([corner, corner + 20 + 60 * torch.rand(5, 2, generator=generator)], 1)
    gt_classes = torch.arange(5) % 2
    owner = torch.randint(5, (count,), generator=generator)
    boxes = gt_boxes[owner] + 8 * torch.randn(count, 4, generator=generator)
    classes = torch.randint(2, (count,), generator=generator)
    scores = torch.rand(count, generator=generator)
    return boxes, scores, classes, gt_boxes, gt_classes


@pytest.mark.parametrize("threshold", [0.4, 0.6])
@pytest.mark.parametrize("seed", range(6))
def test_survivors_and_what_they_suppressed_are_those_of_greedy_loops(seed, threshold):
    boxes, scores, classes, gt_boxes, gt_classes = random_scene(seed)
    everything = detections(boxes.tolist(), scores.tolist(), classes.tolist())
    survivors = everything[batched_nms(boxes, scores, classes, threshold)]
    actual = survivor_table(survivors, everything, gt_boxes, gt_classes, threshold)
    expected = oracle.survivor_rows(
        boxes.tolist(), scores.tolist(), classes.tolist(), gt_boxes.tolist(), gt_classes.tolist(),
        threshold, MIN_IOU,
    )  # fmt: skip
    assert len(expected) > 5 and any(row[2] > 0.01 for row in expected)
    assert actual.tolist() == [pytest.approx(row, abs=1e-5) for row in expected]


def test_a_better_box_of_another_class_is_not_in_the_cluster():
    gt_boxes, gt_classes = torch.tensor([[0.0, 0, 100, 100]]), torch.tensor([0])
    everything = detections(
        [[0, 0, 100, 80], [0, 0, 100, 100], [0, 0, 100, 90]], [0.9, 0.8, 0.7], [0, 1, 0]
    )
    rows = survivor_table(everything[[0, 1]], everything, gt_boxes, gt_classes, 0.5)
    assert rows.tolist() == [pytest.approx([0.9, 0.8, 0.1])]
    alone = survivor_table(everything[[0, 1]], None, gt_boxes, gt_classes, 0.5)
    assert alone.tolist() == [pytest.approx([0.9, 0.8, 0.0])]


def test_images_without_boxes_or_detections_give_no_rows():
    some = detections([[0, 0, 10, 10]], [0.9], [0])
    no_boxes = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    one_box = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([0])
    assert survivor_table(some, some, *no_boxes, 0.5).shape == (0, 3)
    assert survivor_table(some[:0], some[:0], *one_box, 0.5).shape == (0, 3)


@pytest.mark.parametrize("seed", range(4))
def test_the_rank_correlation_is_that_of_the_loops_with_ties(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 12, 40) / 12, rng.integers(0, 12, 40) / 12
    assert _spearman(first, second) == pytest.approx(oracle.spearman(list(first), list(second)))


def test_a_perfect_order_is_1_a_reversed_one_minus_1_and_no_order_not_a_number(recwarn):
    values = np.array([0.1, 0.4, 0.5, 0.9])
    assert _spearman(values, values**2) == pytest.approx(1)
    assert _spearman(values, -values) == pytest.approx(-1)
    for first, second in ((values, np.ones(4)), (values[:1], values[:1]), (values[:0],) * 2):
        assert math.isnan(_spearman(first, second))
    assert not recwarn.list


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(5, 7), (1, 6), (6, 1), (1, 1)])
def test_steps_of_labels_are_those_of_the_loops(seed, shape):
    generator = torch.Generator().manual_seed(seed)
    gt_index = torch.randint(-1, 2, shape, generator=generator)
    labels = torch.rand(shape, generator=generator) * (gt_index >= 0)
    expected = oracle.label_steps(gt_index.tolist(), labels.tolist())
    assert sorted(label_steps(gt_index, labels).tolist()) == pytest.approx(sorted(expected))


def test_hard_labels_of_one_object_step_at_its_border_only():
    gt_index = torch.full((4, 4), -1)
    gt_index[1:3, 1:3] = 0
    steps = label_steps(gt_index, (gt_index >= 0).float())
    assert steps.sum() == 8 and len(steps) == 8 + 4


@pytest.mark.parametrize(
    "name", ["retinanet", "semi_anchored_retinanet", "dsla_fcos", "foveabox"]
)  # fmt: skip
def test_suppression_can_be_switched_off_and_comes_back(name):
    keys = ["RETINANET", "SEMI_ANCHORED", "FCOS", "FOVEABOX"]
    low = [text for key in keys for text in (f"MODEL.{key}.SCORE_THRESH_TEST", "0.001")]
    torch.manual_seed(0)
    model = build_model(load_config(str(QUICK / f"{name}_digit_scenes.yaml"), low)).eval()
    image = {"image": torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)}
    names = suppression_of(model)
    before = [getattr(model, n) for n in names]
    with torch.no_grad(), unsuppressed(model, names):
        (everything,) = model([image])
    assert [getattr(model, n) for n in names] == before
    with torch.no_grad():
        (survivors,) = model([image])
    assert len(everything["instances"]) > len(survivors["instances"]) > 0
    with pytest.raises(RuntimeError), unsuppressed(model, names):
        raise RuntimeError
    assert [getattr(model, n) for n in names] == before


class FixedDetector(nn.Module):
    """Returns the same detections for every image, and has no suppression."""

    def __init__(self, instances):
        super().__init__()
        self.instances = instances

    def forward(self, inputs):
        return [{"instances": self.instances} for _ in inputs]


@pytest.fixture
def two_images():
    image = {"file_name": "none.png", "height": 200, "width": 200}
    box = {"bbox": [0, 0, 100, 100], "bbox_mode": 0, "category_id": 0}
    crowd = {**box, "bbox": [100, 100, 200, 200], "iscrowd": 1}
    DatasetCatalog.register("two_images", lambda: [
        {**image, "image_id": 1, "annotations": [dict(box), dict(crowd)]},
        {**image, "image_id": 2, "annotations": []},
    ])  # fmt: skip
    yield "two_images"
    DatasetCatalog.remove("two_images")
    MetadataCatalog.pop("two_images", None)


def test_a_detector_without_suppression_is_named_and_its_order_reported(
    two_images, tmp_path, caplog
):
    found = detections(
        [[0, 0, 100, 90], [0, 0, 100, 60], [100, 100, 200, 200]], [0.9, 0.5, 0.8], [0, 0, 0]
    )
    model = FixedDetector(found)
    with caplog.at_level(logging.INFO):
        evaluator = ScoreQuality(two_images, model, str(tmp_path))
        inputs = [
            {"image_id": i, "height": 200, "width": 200, "image": torch.zeros(3, 200, 200)}
            for i in (1, 2)
        ]
        evaluator.process(inputs, model(inputs))
        figures = evaluator.evaluate()["score_quality"]
    # The detection on the crowd box and those of the empty image are left out.
    assert figures == {"rank_correlation": pytest.approx(100), "rank_correlation_50": (
        pytest.approx(100))}  # fmt: skip
    assert "FixedDetector has no suppression" in caplog.text
    assert {path.name for path in tmp_path.iterdir()} == {"score_quality.png", "score_quality.pdf"}


def test_nothing_to_report_is_not_a_number(two_images, tmp_path):
    evaluator = ScoreQuality(two_images, FixedDetector(detections([], [], [])), str(tmp_path))
    figures = evaluator.evaluate()["score_quality"]
    assert set(figures) >= {"rank_correlation"}
    assert all(math.isnan(value) for value in figures.values())


def test_the_command_reports_it_in_the_table_and_draws_the_plot(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    prepare = [sys.executable, str(ROOT / "datasets" / "prepare_digit_scenes.py")]
    subprocess.run(
        [*prepare, "--root", str(tmp_path), "--num-train", "2", "--num-val", "3"], check=True
    )
    config, weights = QUICK / "dsla_fcos_digit_scenes.yaml", tmp_path / "weights.pth"
    torch.manual_seed(0)
    torch.save({"model": build_model(load_config(str(config))).state_dict()}, weights)
    result = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "train_net.py"), "--eval-only",
         "--config-file", str(config), "OUTPUT_DIR", str(tmp_path / "out"),
         "MODEL.WEIGHTS", str(weights), "TEST.SCORE_QUALITY", "True", "TEST.NUM_PICTURES", "0",
         "MODEL.FCOS.SCORE_THRESH_TEST", "0.001"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    tasks = json.loads((tmp_path / "out" / "results.json").read_text())["digit_scenes_val"]
    assert set(tasks["score_quality"]) == {
        "rank_correlation", "rank_correlation_50", "wrong_survivors", "iou_lost", "label_step"
    }  # fmt: skip
    assert 0 < tasks["score_quality"]["label_step"] < 100
    assert "| score_quality |" in (tmp_path / "out" / "results.md").read_text()
    assert list(tmp_path.glob("out/inference/digit_scenes_val/score_quality.p*"))
