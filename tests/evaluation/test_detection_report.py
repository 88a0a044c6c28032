"""Curves, confusion, thresholds and worst images of a detector, and the evaluator that draws."""

import csv
import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from PIL import Image

from anchorkit.evaluation import BoxEvaluator
from anchorkit.evaluation.coco import category_names, evaluate_boxes
from anchorkit.evaluation.detection_report import TABLE_HEADER, detection_report, write_report
from anchorkit.visualization.detections import GroundTruth, match_detections
from tests.reference.coco_sets import CATEGORIES, NAMES, coco_content, coco_set, random_set, result

A, B, C, FAR = (0, 0, 20, 20), (30, 0, 50, 20), (60, 0, 80, 20), (60, 60, 90, 90)
FILES = {"classes.csv", "precision_recall.png", "confusion.png"}


def report_of(objects, results, num_images=2, **more):
    truth = coco_set(objects, num_images)
    return detection_report(evaluate_boxes(truth, results), category_names(truth), **more)


def row_of(report, name):
    figures = {row[0]: dict(zip(TABLE_HEADER, row, strict=True)) for row in report.figures()}
    return figures[name]


def test_confusion_tells_found_confused_missed_and_false():
    objects = [(0, 0, A), (0, 1, B), (0, 2, C), (1, 2, A, True)]
    results = [
        result(0, 0, A, 0.9), result(0, 0, B, 0.8), result(0, 1, FAR, 0.7), result(0, 2, C, 0.2),
        result(1, 2, A, 0.9), result(1, 2, (2, 2, 10, 10), 0.8),
    ]  # fmt: skip
    report = report_of(objects, results, threshold=0.5)
    assert report.confusion.tolist() == [
        [1, 0, 0, 0],
        [1, 0, 0, 0],
        [0, 0, 0, 1],
        [0, 1, 0, 0],
    ]
    cat = row_of(report, "cat")
    assert (cat["objects"], cat["precision"], cat["recall"]) == (1, 50.0, 100.0)
    assert row_of(report, "dog")["recall"] == row_of(report, "dog")["precision"] == 0.0
    every = row_of(report, "all")
    assert [every["recall"], every["precision"]] == pytest.approx([100 / 3, 100 / 3])
    worst, other = report.images
    assert (worst.image_id, worst.num_false, worst.num_missed, worst.num_errors) == (0, 2, 2, 4)
    assert (other.image_id, other.num_objects, other.num_errors) == (1, 0, 0)


def test_an_object_of_its_own_class_is_preferred_to_a_closer_one():
    near = (1, 0, 21, 20)
    report = report_of([(0, 0, A), (0, 1, near)], [result(0, 1, A, 0.9), result(0, 0, near, 0.8)])
    assert np.diag(report.confusion).sum() == 2 == report.confusion.sum()


@pytest.mark.parametrize("seed", range(4))
def test_figures_agree_with_coco_and_with_counting(seed):
    objects, results = random_set(seed)
    truth = coco_set(objects, 12)
    coco_eval = evaluate_boxes(truth, results)
    report = detection_report(coco_eval, NAMES)
    coco_eval.summarize()
    every = row_of(report, "all")
    assert [every[k] for k in ("AP", "AP50", "AP75")] == pytest.approx(100 * coco_eval.stats[:3])

    counts = np.zeros((4, 3), dtype=int)  # objects, detections, correct ones of each class, errors
    errors = {}
    for image in range(12):
        entries = [entry for entry in truth.dataset["annotations"] if entry["image_id"] == image]
        place = CATEGORIES.index
        gt = GroundTruth(
            np.array([e["bbox"] for e in entries]).reshape(-1, 4) @ _TO_XYXY,
            np.array([place(e["category_id"]) for e in entries], dtype=int),
            np.array([e["iscrowd"] for e in entries], dtype=bool),
        )
        mine = [r for r in results if r["image_id"] == image]
        mine = [r for r in mine if r["score"] >= report.thresholds[place(r["category_id"])]]
        mine.sort(key=lambda r: -r["score"])
        classes = np.array([place(r["category_id"]) for r in mine], dtype=int)
        boxes = np.array([r["bbox"] for r in mine]).reshape(-1, 4) @ _TO_XYXY
        correct, found, counted = match_detections(boxes, classes, gt)
        for row, chosen in enumerate((
            gt.classes[~gt.is_crowd], classes[counted], classes[counted & correct]
        )):  # fmt: skip
            counts[row] += np.bincount(chosen, minlength=3)
        errors[image] = (~correct).sum() + (~gt.is_crowd & ~found).sum()
    assert report.confusion[:3].sum(axis=1).tolist() == counts[0].tolist()
    assert report.confusion[:, :3].sum(axis=0).tolist() == counts[1].tolist()
    assert report.confusion.diagonal()[:3].tolist() == counts[2].tolist()
    assert {image.image_id: image.num_errors for image in report.images} == errors
    ranked = [image.num_errors for image in report.images]
    assert ranked == sorted(ranked, reverse=True)


_TO_XYXY = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=float)


@pytest.mark.parametrize("seed", range(3))
def test_no_other_threshold_has_a_higher_f1(seed):
    objects, results = random_set(seed)
    best = report_of(objects, results, 12)
    for threshold in np.arange(1, 10) / 10:
        other = report_of(objects, results, 12, threshold=threshold)
        for name in NAMES:
            assert row_of(other, name)["F1"] <= row_of(best, name)["F1"] + 1e-9


def test_classes_without_objects_or_detections_have_no_figures(tmp_path):
    report = report_of([(0, 0, A)], [result(0, 0, A, 0.9), result(0, 2, B, 0.9)])
    dog, bird = row_of(report, "dog"), row_of(report, "bird")
    assert np.isnan([dog["AP"], dog["recall"], dog["precision"]]).all()
    assert bird["precision"] == 0.0 and np.isnan(bird["recall"])
    assert row_of(report, "all")["AP"] == pytest.approx(100.0)
    assert set(write_report(report, str(tmp_path / "new"), "$mine_")) == {
        "precision_recall", "confusion"}  # fmt: skip
    with open(tmp_path / "new" / "classes.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == [*NAMES, "all"] and rows[1]["AP"] == "—"


def test_classes_with_one_name_are_told_apart():
    report = detection_report(evaluate_boxes(coco_set([(0, 0, A)]), [result(0, 0, A, 0.9)]),
                              ["dog", "dog", "bird"])  # fmt: skip
    assert report.class_names == ["dog (0)", "dog (1)", "bird"]


# --- the evaluator ---


@pytest.fixture
def registered(tmp_path):
    """Name of a set of two images on disk, whose annotations lack area and iscrowd."""
    content = coco_content([(0, 0, A), (1, 1, B)])
    for annotation in content["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    (tmp_path / "set.json").write_text(json.dumps(content))
    name = f"report_{tmp_path.name}"
    register_coco_instances(name, {}, str(tmp_path / "set.json"), str(tmp_path))
    DatasetCatalog.get(name)
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def evaluate(evaluator, boxes):
    evaluator.reset()
    for image, box in enumerate(boxes):
        found = Instances((100, 100), pred_boxes=Boxes(torch.tensor([box], dtype=torch.float32)))
        found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([image])
        evaluator.process([{"image_id": image}], [{"instances": found}])
    return evaluator.evaluate()


def test_the_evaluator_has_detectron2s_figures_and_draws_them(registered, tmp_path):
    with EventStorage(17) as storage:
        results = evaluate(BoxEvaluator(registered, str(tmp_path / "out"), draws=True), [A, FAR])
        shown = {name: (pixels, step) for name, pixels, step in storage._vis_data}
    plain = COCOEvaluator(registered, tasks=("bbox",), use_fast_impl=False)
    for annotation in plain._coco_api.dataset["annotations"]:
        annotation.update(area=400, iscrowd=0)
    np.testing.assert_equal(results, evaluate(plain, [A, FAR]))
    assert {path.name for path in (tmp_path / "out").iterdir()} > FILES
    assert set(shown) == {f"{registered}/precision_recall", f"{registered}/confusion"}
    for name, (pixels, step) in shown.items():
        with Image.open(tmp_path / "out" / f"{name.partition('/')[2]}.png") as picture:
            assert step == 17 and pixels.shape == (3, picture.height, picture.width)
            assert np.array_equal(pixels.transpose(1, 2, 0), np.asarray(picture))


def test_without_drawing_and_without_detections_there_are_no_pictures(registered, tmp_path):
    evaluate(BoxEvaluator(registered, str(tmp_path / "out")), [A, B])
    empty = BoxEvaluator(registered, str(tmp_path / "out"), draws=True)
    empty.reset()
    nothing = Instances((100, 100), pred_boxes=Boxes(torch.zeros(0, 4)), scores=torch.zeros(0))
    nothing.pred_classes = torch.zeros(0, dtype=torch.int64)
    empty.process([{"image_id": 0}], [{"instances": nothing}])
    assert np.isnan(empty.evaluate()["bbox"]["AP"])
    assert not FILES & {path.name for path in (tmp_path / "out").iterdir()}
