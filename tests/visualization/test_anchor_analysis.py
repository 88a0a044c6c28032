"""Statistics of anchors and locations by loops, fitted anchor tables, and their command."""

import math
import re
import runpy
import sys

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T

from anchorkit.anchor_analysis import (
    analyze,
    anchor_table,
    build_detector,
    fit_boxes,
    training_samples,
)
from anchorkit.anchor_fit import GridAnchorTable, SSDAnchorTable, best_overlaps, fit_anchors
from anchorkit.assigners.matching import match_anchors
from anchorkit.config import load_config
from anchorkit.data import load_dataset, register_datasets
from anchorkit.data.mapper import BoxMapper
from anchorkit.modeling.anchor_generator import grid_anchors
from anchorkit.visualization.level_labels import feature_maps
from tests.reference.boxes import iou
from tests.test_train_net import REPO

TOOL = REPO / "tools" / "analyze_anchors.py"
SSD = REPO / "configs" / "quick" / "ssd_digit_scenes.yaml"


@pytest.fixture(autouse=True)
def _forget_data_sets():
    before = set(DatasetCatalog.keys())
    yield
    for name in set(DatasetCatalog.keys()) - before:
        for catalog in (DatasetCatalog, MetadataCatalog):
            catalog.pop(name, None)


def as_ssd(scenes_config, tmp_path):
    """The scenes with SSD's body and anchors in place of the small FPN's."""
    source = load_config(str(scenes_config)).DATASETS
    path = tmp_path / "ssd.yaml"
    path.write_text(
        f"_BASE_: '{SSD}'\nMODEL: {{NUM_CLASSES: 3}}\n"
        f"DATASETS: {{COCO_FORMAT: {source.COCO_FORMAT}, TRAIN: {list(source.TRAIN)}, "
        f"TEST: {list(source.TEST)}}}\n"
    )
    return path


def load(path, *options):
    cfg = load_config(str(path), [*options, "MODEL.DEVICE", "cpu"])
    register_datasets(cfg)
    return cfg, build_detector(cfg)


def random_boxes(number, width, height, seed=0):
    generator = torch.Generator().manual_seed(seed)
    limits = torch.tensor([width, height])
    size = 6 + torch.rand(number, 2, generator=generator) * 50
    corner = torch.rand(number, 2, generator=generator) * (limits - size)
    return torch.cat([corner, corner + size], dim=1)


@pytest.mark.parametrize(("architecture", "options"), [
    ("BaselineRetinaNet", ()),
    ("SemiAnchoredRetinaNet", ("MODEL.ANCHOR_GENERATOR.OFFSET", "0.0")),
    ("SSD", ()),
])  # fmt: skip
def test_the_table_makes_the_detectors_anchors_and_knows_the_best_of_each_box(
    architecture, options, scenes_config, tmp_path
):
    path = scenes_config
    if architecture == "SSD":
        path = as_ssd(scenes_config, tmp_path)
    cfg, model = load(path, "MODEL.META_ARCHITECTURE", architecture, *options)
    table = anchor_table(cfg, model)
    height, width = (160, 160) if architecture == "SSD" else (128, 192)
    anchors = grid_anchors(
        model.anchor_generator, feature_maps(model, torch.zeros(3, height, width))
    )
    for level, shapes in zip(anchors, table.shapes(), strict=True):
        torch.testing.assert_close(level[0, 0, :, 2:] - level[0, 0, :, :2], shapes)
    boxes = random_boxes(50, width, height)
    sizes = torch.tensor([[width, height]] * 50)
    found = best_overlaps(table, boxes, sizes)
    torch.testing.assert_close(found, match_anchors(anchors, boxes).best_iou, rtol=0, atol=1e-4)


def test_statistics_are_those_of_a_loop_over_all_anchors(scenes_config):
    cfg, model = load(scenes_config, "INPUT.MIN_SIZE_TRAIN", "(96,)")
    samples, number = training_samples(cfg, 0, seed=0)
    assert number == len(samples) == 4
    statistics, coverage = analyze(cfg, model, samples)
    resize = BoxMapper([T.ResizeShortestEdge(96)], "BGR")
    best, positives = [], 0
    for image in load_dataset(cfg.DATASETS.TRAIN[0])[0]:
        sample = resize(image)
        assert sample["image"].shape == (3, 96, 96)
        anchors = grid_anchors(model.anchor_generator, feature_maps(model, sample["image"]))
        flat = torch.cat([level.flatten(0, 2) for level in anchors]).tolist()
        for box in sample["instances"].gt_boxes.tensor.tolist():
            best.append(max(iou(box, anchor) for anchor in flat))
        gt_index = model.assigner(anchors, sample["instances"]).locations.gt_index
        positives += int((gt_index >= 0).sum())
    assert coverage.mean_iou == pytest.approx(sum(best) / len(best), abs=1e-5)
    assert coverage.share_uncovered == sum(value <= 0.5 for value in best) / len(best)
    assert sum(level.positive for level in statistics.levels.values()) == positives
    # Sides of 15 to 32 pixels in the file are small boxes, whatever they are after the resize.
    assert re.search(r"small +4 ", coverage.tables())
    assert re.search(r"class +number", coverage.class_table())


def test_images_are_drawn_by_the_seed(scenes_config):
    cfg, _ = load(scenes_config)
    drawn = [
        [one["image_id"] for one in training_samples(cfg, 2, seed)[0]] for seed in (0, 0, 1, 2, 3)
    ]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 2
    assert any(other != drawn[0] for other in drawn[2:])


TABLES = {
    "RetinaNet's": lambda: GridAnchorTable(
        [[16.0, 20.0], [32.0, 40.0], [64.0, 80.0]], [[0.5, 1.0, 2.0]], [8, 16, 32]
    ),
    "one row of sizes": lambda: GridAnchorTable([[16.0, 64.0]], [[1.0]], [16]),
    "SSD's": lambda: SSDAnchorTable([14.0, 44.0, 92.0], [[2.0], [2.0, 3.0]], [8, 32], 160.0),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_fit_raises_the_overlap_keeps_the_counts_and_is_repeatable(name):
    # Wide boxes of one shape and two sizes.
    boxes = random_boxes(200, 160, 160)
    boxes[:, 2] = boxes[:, 0] + torch.where(torch.arange(200) % 2 == 0, 60.0, 30.0)
    boxes[:, 3] = boxes[:, 1] + (boxes[:, 2] - boxes[:, 0]) / 3
    sizes = torch.tensor([[160, 160]] * 200)
    tables = [TABLES[name]() for _ in range(3)]
    for table in tables[1:]:
        fit_anchors(table, boxes, sizes)
    given, fitted, again = tables
    before, after = (best_overlaps(table, boxes, sizes).mean().item() for table in (given, fitted))
    assert after > before + 0.05
    assert [len(row) for row in fitted.sizes()] == [len(row) for row in given.sizes()]
    assert [len(row) for row in fitted.ratios()] == [len(row) for row in given.ratios()]
    assert fitted.keys() == again.keys()
    rows = fitted.sizes()
    flat = rows[0] if name == "SSD's" else [size for row in rows for size in sorted(row)]
    assert flat == sorted(flat), "the sizes of levels do not cross"


def test_a_table_that_cannot_be_better_stays():
    table = GridAnchorTable([[32.0]], [[1.0]], [8])
    centers = torch.tensor([[28.0, 36.0], [60.0, 60.0]])
    boxes = torch.cat([centers - 16, centers + 16], dim=1)
    fit_anchors(table, boxes, torch.tensor([[96, 96]] * 2))
    assert table.keys()["ANCHOR_GENERATOR"] == {"SIZES": [[32.0]], "ASPECT_RATIOS": [[1.0]]}


def test_ratios_of_a_ssd_are_written_above_1():
    table = SSDAnchorTable([10.0, 20.0], [[2.0, 0.25]], [8])
    assert table.keys()["SSD"]["ASPECT_RATIOS"] == [[2.0, 4.0]]
    assert table.largest == math.inf


@pytest.fixture
def command(monkeypatch, capsys):
    """Function that runs the command in this process; returns status, output and errors."""

    def run(config, *arguments):
        words = ["analyze_anchors.py", "--config-file", str(config), *arguments]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(TOOL), run_name="__main__")
        output = capsys.readouterr()
        return end.value.code, output.out, output.err

    return run


@pytest.mark.parametrize("architecture", ["SemiAnchoredRetinaNet", "SSD"])
def test_the_command_writes_a_config_that_the_training_takes(
    architecture, command, scenes_config, tmp_path
):
    config = as_ssd(scenes_config, tmp_path) if architecture == "SSD" else scenes_config
    path = tmp_path / "fitted" / "anchors.yaml"
    status, said, _ = command(config, "--fit", "--output", str(path), "--num-images", "3")
    assert status == 0 and said.startswith("3 of 4 images of scenes_")
    assert f"tools/train_net.py --config-file {path}" in said
    given = load_config(str(config))
    cfg, model = load(path)
    assert cfg.MODEL.META_ARCHITECTURE == architecture and cfg.DATASETS == given.DATASETS
    samples, _ = training_samples(cfg, 3, seed=0)
    _, coverage = analyze(cfg, model, samples)
    shown = re.search(r"mean best IoU ([\d.]+) -> ([\d.]+);", said)
    assert float(shown[1]) <= float(shown[2]) == pytest.approx(coverage.mean_iou, abs=1e-3)
    boxes, sizes = fit_boxes(samples, seed=0)
    expected = best_overlaps(anchor_table(cfg, model), boxes, sizes).mean().item()
    assert coverage.mean_iou == pytest.approx(expected, abs=1e-4)


def test_a_detector_without_anchors_shows_its_ranges(command, scenes_config):
    options = ("MODEL.META_ARCHITECTURE", "FCOS")
    status, said, _ = command(scenes_config, "--fit", "--opts", *options)
    assert status == 0 and "FCOS has no anchors to fit" in said
    assert "64 – 128" in said and "best IoU" not in said


@pytest.mark.parametrize(("arguments", "message"), [
    ("--num-images -1", "--num-images -1"),
    ("--output anchors.json", "anchors.json: the name of a config ends in .yaml"),
    ("--opts MODEL.META_ARCHITECTURE GeneralizedRCNN", "META_ARCHITECTURE is 'GeneralizedRCNN'"),
    ("--opts DATASETS.TRAIN ()", "DATASETS.TRAIN is empty"),
    ("--opts DATASETS.TRAIN ('scene',)", "no data set 'scene'"),
    ("--opts MODEL.NUM_CLASSES 5", "has 3 classes"),
    ("--opts MODEL.ANCHOR_GENERATOR.NAME Rotated", "NAME is 'Rotated'"),
])  # fmt: skip
def test_a_mistake_is_one_line_and_exit_status_2(arguments, message, command, scenes_config):
    status, _, errors = command(scenes_config, *arguments.split())
    lines = [line for line in errors.strip().splitlines() if "error:" in line]
    assert status == 2 and len(lines) == 1 and "Traceback" not in errors
    assert message in lines[0]
