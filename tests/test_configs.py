"""Every config loads, is named by the rules, builds, takes a training step and detects."""

import math
import re
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

import anchorkit  # noqa: F401  (registers models and data)
from anchorkit.config import load_config

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted([*ROOT.glob("configs/**/*.yaml"), *ROOT.glob("projects/*/configs/*.yaml")])
LEAVES = [path for path in FILES if not path.name.startswith("Base-")]
TABLES = sorted(ROOT.glob("projects/*/tables/*.yaml"))
NAME = re.compile(
    r"(semi_anchored_)?retinanet_(digit_scenes|R_(50|101)_FPN_(1x|2x|voc2007)(_[a-z0-9_]+)?)"
)
# What may differ between a method's config and its baseline's.
METHOD_KEYS = ("META_ARCHITECTURE", "ANCHOR_GENERATOR", "RETINANET", "SEMI_ANCHORED")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def small_model(path: Path, *overrides: str):
    """The config's model with a ResNet-18 body (full bodies are built once, below)."""
    cfg = load_config(str(path), ["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", *overrides])
    if cfg.MODEL.RESNETS.DEPTH > 18:
        cfg.MODEL.RESNETS.DEPTH = 18
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
        cfg.MODEL.FPN.OUT_CHANNELS = 64
    torch.manual_seed(0)
    return build_model(cfg)


def batch() -> list[dict]:
    instances = Instances((128, 128))
    instances.gt_boxes = Boxes(torch.tensor([[8.0, 8.0, 60.0, 72.0], [50.0, 40.0, 120.0, 120.0]]))
    instances.gt_classes = torch.tensor([1, 0])
    image = torch.randint(0, 256, (3, 128, 128), dtype=torch.uint8)
    return [{"image": image, "instances": instances, "height": 128, "width": 128}]


@pytest.mark.parametrize("path", LEAVES, ids=name_of)
def test_a_leaf_is_short_flat_and_named_by_the_rules(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# "), "the first line says what the config is"
    assert len([line for line in lines if line and not line.startswith("#")]) <= 12
    assert NAME.fullmatch(path.stem), f"{path.stem} does not follow {NAME.pattern}"
    depth, parent = 0, path
    while "_BASE_" in (content := yaml.safe_load(parent.read_text())):
        parent = parent.parent / content["_BASE_"]
        depth += 1
    assert depth <= 3


@pytest.mark.parametrize("path", LEAVES, ids=name_of)
def test_every_config_builds_takes_a_step_and_detects(path):
    model = small_model(path)
    with EventStorage():
        losses = model(batch())
    total = sum(losses.values())
    assert total.isfinite()
    total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if
               parameter.requires_grad)  # fmt: skip
    model.eval()
    with torch.no_grad():
        (output,) = model(batch())
    assert output["instances"].has("pred_boxes")


@pytest.mark.parametrize("path", LEAVES, ids=name_of)
def test_anchor_sizes_are_octaves_of_the_stride(path):
    sizes = load_config(str(path)).MODEL.ANCHOR_GENERATOR.SIZES
    smallest = sizes[0][0]
    assert smallest in (16.0, 32.0)
    for level, row in enumerate(sizes):
        expected = [smallest * 2 ** (level + i / len(row)) for i in range(len(row))]
        assert all(math.isclose(a, b, abs_tol=1e-4) for a, b in zip(row, expected, strict=True))


@pytest.mark.parametrize(
    "path", [p for p in LEAVES if p.stem.startswith("retinanet") and "projects" not in p.parts],
    ids=name_of,
)  # fmt: skip
def test_method_and_baseline_differ_in_the_method_only(path):
    twin = path.with_name(f"semi_anchored_{path.name}")
    baseline, method = load_config(str(path)), load_config(str(twin))
    for cfg in (baseline, method):
        for key in METHOD_KEYS:
            del cfg.MODEL[key]
    assert baseline == method


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("projects/semi_anchored/configs/semi_anchored_retinanet_R_50_FPN_1x_1x1.yaml", 32.30),
        ("projects/semi_anchored/configs/semi_anchored_retinanet_R_50_FPN_1x_3x3.yaml", 32.39),
        ("configs/COCO-Detection/semi_anchored_retinanet_R_50_FPN_1x.yaml", 32.57),
        ("configs/COCO-Detection/semi_anchored_retinanet_R_101_FPN_2x.yaml", 51.57),
        ("configs/COCO-Detection/retinanet_R_50_FPN_1x.yaml", 33.84),
    ],
)
def test_full_bodies_have_the_known_number_of_parameters(name, millions):
    cfg = load_config(str(ROOT / name), ["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu"])
    model = build_model(cfg)
    # Frozen batch normalisation keeps its scale and shift (and its statistics) as buffers.
    buffers = sum(
        buffer.numel()
        for key, buffer in model.named_buffers()
        if ".norm." in key and key.endswith((".weight", ".bias"))
    )
    count = sum(parameter.numel() for parameter in model.parameters()) + buffers
    assert round(count / 1e6, 2) == pytest.approx(millions, abs=0.011)


@pytest.mark.parametrize("path", TABLES, ids=name_of)
def test_every_row_of_a_table_names_configs_that_load(path):
    table = yaml.safe_load(path.read_text())
    assert table["title"] and table["dataset"]
    for row in table["rows"]:
        for key in ("config", "weights_from"):
            if key in row:
                load_config(str(ROOT / row[key]), row.get("overrides", []))
        assert 0 < row["paper"]["AP"] < 100
