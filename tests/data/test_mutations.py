"""Damaged annotation and image files: used with their faults counted, or refused in one line."""

import collections
import json
import math
import traceback

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances

from anchorkit.data import (
    build_test_loader,
    build_train_loader,
    check_classes,
    check_datasets,
    check_files,
    load_dataset,
    load_image_set,
    register_datasets,
)
from anchorkit.data.image_files import read_image
from anchorkit.errors import UserError
from anchorkit.evaluation import build_evaluator
from tests.data.mutations import BAD_IMAGES, GOOD_IMAGES, mutated_image, mutated_json


def use(cfg):
    """What a run does with the data set of a config; returns the faults that it counted.

    Raises:
        UserError: the run would stop.
        AssertionError: something that is not in the file, or not all of it, would be learnt.
    """
    (name,) = cfg.DATASETS.TRAIN
    register_datasets(cfg)
    check_files(cfg)
    check_classes(cfg)
    checked = check_datasets(cfg)
    checked.image_check.join()
    (summary,) = checked.summaries
    faults = [*summary.faults, *checked.image_check.faults]
    with open(cfg.DATASETS.COCO_FORMAT[0][1], encoding="utf-8-sig") as file:
        content = json.load(file)
    counted = summary.num_boxes + summary.num_crowds + len(summary.faults)
    assert counted == len(content["annotations"]) and summary.num_images == len(content["images"])
    assert all(fault.reason for fault in faults)
    batches = iter(build_train_loader(cfg))
    for sample in (*next(batches), *next(batches)):
        check_sample(sample, num_classes=len(content["categories"]))
    precision = evaluate_given_boxes(cfg, name)
    if not checked.image_check.faults:  # boxes of an image that cannot be read are not found
        assert precision == pytest.approx(100) or (math.isnan(precision) and not summary.num_boxes)
    return faults


def check_sample(sample, num_classes):
    height, width = sample["image"].shape[1:]
    boxes, classes = sample["instances"].gt_boxes.tensor, sample["instances"].gt_classes
    assert sample["image"].dtype == torch.uint8 and min(height, width) > 0
    assert len(boxes) == len(classes) and boxes.isfinite().all()
    assert (boxes >= 0).all() and (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert ((classes >= 0) & (classes < num_classes)).all()


def evaluate_given_boxes(cfg, name):
    """AP of a detector that finds every box that was read, in every image that can be read."""
    evaluator = build_evaluator(cfg, name, f"{cfg.OUTPUT_DIR}/{name}")
    evaluator.reset()
    read = {record["image_id"] for batch in build_test_loader(cfg, name) for record in batch}
    for record in load_dataset(name)[0]:
        entries = record["annotations"] if record["image_id"] in read else []
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (one["bbox"] for one in entries)]
        instances = Instances((record["height"], record["width"]))
        instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
        instances.scores = torch.ones(len(boxes))
        instances.pred_classes = torch.tensor([one["category_id"] for one in entries]).long()
        evaluator.process([record], [{"instances": instances}])
    return evaluator.evaluate()["bbox"]["AP"]


def luminance(pixels):
    return pixels.astype(float) @ [0.114, 0.587, 0.299]


def run_all(seeds, make_cfg, use_set=use):
    """Use each damaged set; returns counts of outcomes, and what went wrong."""
    outcomes, failures = collections.Counter(), []
    for seed in seeds:
        cfg, told = make_cfg(seed)
        try:
            outcomes["with faults" if use_set(cfg) else "without"] += 1
        except UserError as error:
            outcomes["stopped"] += 1
            if "\n" in str(error):
                failures.append(f"{seed}: {told}: several lines: {error}")
        except Exception:
            failures.append(f"{seed}: {told}: {traceback.format_exc()}")
        for catalog in (DatasetCatalog, MetadataCatalog):
            for name in (cfg.DATASETS.TRAIN[0], f"{cfg.DATASETS.TRAIN[0]}_multi_label"):
                catalog.pop(name, None)
    assert not failures, "\n".join(failures)
    return outcomes


@pytest.fixture
def damaged_json(make_set, tmp_path):
    """Function of a seed: a config with a damaged annotation file, and what was done to it."""
    made = make_set(4, register=False)
    content = {"info": {}, "licenses": [], **made.content}

    def make_cfg(seed):
        told, data = mutated_json(content, seed)
        name = f"{made.name}_{seed}"
        path = tmp_path / f"{name}.json"
        path.write_bytes(data)
        cfg = made.cfg.clone()
        cfg.DATASETS.COCO_FORMAT = [[name, str(path), str(made.folder)]]
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
        return cfg, told

    return make_cfg


def test_350_damaged_annotation_files_are_used_with_their_faults_or_refused(damaged_json):
    outcomes = run_all(range(350), damaged_json)
    assert outcomes.total() == 350
    assert min(outcomes["stopped"], outcomes["with faults"]) > 100 and outcomes["without"] < 100


def test_the_same_holds_for_the_labels_of_a_classifier(damaged_json, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))  # of the decoded images

    def use_labels(cfg):
        (name,) = cfg.DATASETS.TRAIN
        register_datasets(cfg)
        labels = load_image_set(f"{name}_multi_label", size=8).labels
        assert ((labels == 0) | (labels == 1)).all()

    outcomes = run_all(range(1000, 1060), damaged_json, use_labels)
    assert outcomes.total() == 60 and outcomes["stopped"] > 15 and outcomes["without"] > 15


def test_150_damaged_images_are_read_or_counted_and_named(make_set):
    kinds = {}
    original = read_image(str(make_set(1).folder / "0.png"), "BGR")

    def make_cfg(seed):
        made = make_set(3, register=False)
        kinds[made.name] = mutated_image(made.folder / "0.png", seed)
        return made.cfg, kinds[made.name]

    def use_images(cfg):
        kind, faults = kinds[cfg.DATASETS.TRAIN[0]], use(cfg)
        assert {fault.image_id for fault in faults} <= {5}
        assert faults or kind not in BAD_IMAGES
        assert not faults or kind not in GOOD_IMAGES
        if kind in GOOD_IMAGES:
            read = read_image(f"{cfg.DATASETS.COCO_FORMAT[0][2]}/0.png", "BGR")
            assert np.abs(luminance(read) - luminance(original)).mean() < 30, kind
        return faults

    outcomes = run_all(range(150), make_cfg, use_images)
    assert outcomes.total() == 150 and outcomes["stopped"] == 0
    assert set(kinds.values()) >= GOOD_IMAGES | BAD_IMAGES
