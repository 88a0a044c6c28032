"""The mapper of boxes against detectron2's, which treats them one by one."""

import copy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.structures import BoxMode

from anchorkit.config import load_config
from anchorkit.data.mapper import BoxMapper, build_mapper

ROOT = Path(__file__).parents[2]
CROP = ["INPUT.CROP.ENABLED", "True", "INPUT.CROP.SIZE", "[0.5, 0.6]"]


@pytest.fixture
def record(tmp_path):
    """An image of 90 x 120 pixels with boxes inside, across and beyond its borders, and a crowd."""
    rng = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / "image.png"), rng.integers(0, 256, (90, 120, 3), dtype=np.uint8))
    corners = rng.uniform([-20, -20], [120, 90], (30, 2))
    boxes = np.concatenate([corners, rng.uniform(1, 60, (30, 2))], axis=1)
    annotations = [
        {"bbox": box.tolist(), "bbox_mode": BoxMode.XYWH_ABS, "category_id": i % 7,
         "iscrowd": int(i == 4)}
        for i, box in enumerate(boxes)
    ]  # fmt: skip
    annotations[3] |= {"bbox": [5.0, 6.0, 30.0, 40.0], "bbox_mode": BoxMode.XYXY_ABS}
    return {
        "file_name": str(tmp_path / "image.png"), "image_id": 3, "height": 90, "width": 120,
        "annotations": annotations,
    }  # fmt: skip


def config(*overrides: str) -> CfgNode:
    path = ROOT / "configs/COCO-Detection/retinanet_R_50_FPN_1x.yaml"
    return load_config(str(path), ["INPUT.MIN_SIZE_TRAIN", "(64, 80)", *overrides])


@pytest.mark.parametrize("overrides", [[], CROP, ["INPUT.RANDOM_FLIP", "none"]])
def test_samples_are_those_of_detectron2(record, overrides):
    cfg = config(*overrides)
    ours, theirs = build_mapper(cfg, is_train=True), DatasetMapper(cfg, is_train=True)
    assert isinstance(ours, BoxMapper)
    before = copy.deepcopy(record)
    numbers = set()
    for seed in range(20):
        samples = []
        for mapper in (ours, theirs):
            np.random.seed(seed)
            samples.append(mapper(record))
        assert torch.equal(samples[0]["image"], samples[1]["image"])
        mine, other = (sample["instances"] for sample in samples)
        assert mine.image_size == other.image_size
        # detectron2 turns each box into single precision before it is augmented.
        torch.testing.assert_close(mine.gt_boxes.tensor, other.gt_boxes.tensor)
        assert torch.equal(mine.gt_classes, other.gt_classes)
        assert samples[0].keys() == samples[1].keys()
        numbers.add(len(mine))
    assert record == before
    assert max(numbers) < 29, "boxes beyond the image must be dropped"


@pytest.mark.parametrize("overrides", [[], ["INPUT.FORMAT", "RGB", "INPUT.MIN_SIZE_TEST", "50"]])
def test_images_to_evaluate_are_those_of_detectron2(record, overrides):
    cfg = config(*overrides)
    mine, other = build_mapper(cfg, is_train=False)(record), DatasetMapper(cfg, False)(record)
    assert torch.equal(mine.pop("image"), other.pop("image"))
    assert mine == other and "annotations" in record


def test_an_image_without_boxes_has_empty_instances(record):
    sample = build_mapper(config(), is_train=True)(record | {"annotations": []})
    assert sample["instances"].gt_boxes.tensor.shape == (0, 4)
    assert len(sample["instances"].gt_classes) == 0


def test_masks_are_left_to_detectron2():
    assert isinstance(build_mapper(config("MODEL.MASK_ON", "True"), is_train=True), DatasetMapper)
