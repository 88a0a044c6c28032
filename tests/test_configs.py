"""Every config loads, is named by the rules, builds, takes a training step and detects."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from anchorkit import analysis, reproduction
from anchorkit.config import load_config
from anchorkit.data import ImageBatch
from anchorkit.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted([*ROOT.glob("configs/**/*.yaml"), *ROOT.glob("projects/*/configs/*.yaml")])
LEAVES = [path for path in FILES if not path.name.startswith("Base-")]
TABLES = sorted(ROOT.glob("projects/*/tables/*.yaml"))
CHOICES = sorted(ROOT.glob("projects/*/choices/*.yaml"))
# method _ body _ neck _ schedule or data [_ what it changes]; or method _ data of the quick configs
NAME = re.compile(
    r"((semi_anchored_)?retinanet|(dsla_)?(fcos|fcosv2|foveabox))_"
    r"(digit_scenes|(R_50|R_101|X_101_(32x8d|64x4d)|Swin_S)(_DCN)?_FPN_(1x|2x|3x|voc2007)"
    r"(_[a-z0-9_]+)?)"
    r"|(semi_anchored_)?ssd(_digit_scenes|(300|512)_VGG_16_(120e|voc2007))"
    r"|(ce|oat)_(digits|(lightweight_cnn|wrn_28_10|resnet18|wrn_50_2|vit_l_16|efficientnet_b1)_"
    r"(cifar10|mnist|ucf101|era|bar)(_strong)?)"
    r"|(bce|indeed)_(ml_digits_5|(simple_cnn_ml_mnist_5|vgg16_bn_ml_cifar10_5|"
    r"tresnet_(m|xl)_voc2007|resnet50_coco2014)(_l2)?)"
)
# What may differ between a method's config and its baseline's.
METHOD_KEYS = ("META_ARCHITECTURE", "RETINANET", "SEMI_ANCHORED")
ANCHOR_KEYS = ("SIZES", "ASPECT_RATIOS")
# What an evaluation of another config's checkpoint may change.
INFERENCE_KEYS = ("ANCHOR_SELECTION", "ANCHOR_TOPK", "ANCHOR_THRESH_TEST")
FIGURES = {
    *("AP", "AP50", "AP75", "APs", "APm", "APl", "ms"),
    *("acc1", "acc1_batch", "acc1_single", "mAP", "mAP_single", "mAP_gain"),
}
# What the rows of the papers' tables are about, in quick rows as in full ones.
ABLATED = {
    "SEMI_ANCHORED": ("LABELING", "GAMMA", "ANCHOR_LOSS", "SIGMA", *INFERENCE_KEYS),
    "DSLA": ("ENABLED", "CORE_ZONE", "INTERVAL_RELAXATION", "IOU_COUPLING", "IOU_ONLY", "KAPPA"),
    "CLASSIFIER": ("METHOD",),
    "INDEED": ("NORM", "IDENTICAL", "DISPARATE"),
}
# Tables whose figures the paper prints as a picture: the text tells some gains.
WITHOUT_FIGURES = ("indeed/table_1", "indeed/table_2")
# What a row's name says, as (pattern of the name, what the config must then hold).
NAMED_SETTINGS = {
    "semi_anchored/table_1": (r"(\d)x(\d)", lambda model: [
        len(model.ANCHOR_GENERATOR.SIZES[0]), len(model.ANCHOR_GENERATOR.ASPECT_RATIOS[0])]),
    "semi_anchored/table_4": (r"(0\.\d+)", lambda model: [model.SEMI_ANCHORED.GAMMA]),
    "semi_anchored/table_5": (r"SFL (0\.\d)", lambda model: [model.SEMI_ANCHORED.SIGMA]),
    "semi_anchored/table_6": (r"Top-(\d)|Pos (0\.\d)", lambda model: [
        model.SEMI_ANCHORED.ANCHOR_TOPK if model.SEMI_ANCHORED.ANCHOR_SELECTION == "top"
        else model.SEMI_ANCHORED.ANCHOR_THRESH_TEST]),
    "dsla/table_1": (r"Impr (\d)", lambda model: [impr_number(model.DSLA)]),
    "dsla/table_2": (r"(0\.\d)", lambda model: [model.DSLA.KAPPA]),
    "oat/table_3": (r"OAT after (\d+) epochs", lambda model: [model.OAT.PRETRAIN_EPOCHS]),
}  # fmt: skip


def impr_number(keys) -> int:
    """The row of DSLA's Table 1 with these improvements: core zone, relaxation, coupling."""
    rows = ["", "core", "relaxation", "coupling", "core relaxation", "core coupling",
            "relaxation coupling"]  # fmt: skip
    on = {"core": keys.CORE_ZONE, "relaxation": keys.INTERVAL_RELAXATION,
          "coupling": keys.IOU_COUPLING}  # fmt: skip
    return rows.index(" ".join(name for name, is_on in on.items() if is_on))


def table_id(path: Path) -> str:
    return f"{path.parts[-3]}/{path.stem}"


# No download, and detections without training: low thresholds, and anchors that Pos 0.5 keeps.
UNTRAINED = [
    *("MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu"),
    *("MODEL.RETINANET.SCORE_THRESH_TEST", "0.001"),
    *("MODEL.SEMI_ANCHORED.SCORE_THRESH_TEST", "0.001"),
    *("MODEL.SEMI_ANCHORED.ANCHOR_PRIOR_PROB", "0.6"),
    *("MODEL.FCOS.SCORE_THRESH_TEST", "0.001"),
    *("MODEL.FOVEABOX.SCORE_THRESH_TEST", "0.001"),
    *("MODEL.SSD.SCORE_THRESH_TEST", "0.001"),
]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def classifies(path: Path) -> bool:
    return path.stem.startswith(("ce_", "oat_", "bce_", "indeed_"))


DETECTORS = [path for path in LEAVES if not classifies(path)]
CLASSIFIERS = [path for path in LEAVES if classifies(path)]


def small_model(path: Path):
    """The config's model with a ResNet-18 body and a 64-channel neck, or a thin VGG, to save time.

    Full bodies are built below, one of each kind, and take a step in a test of their own.
    """
    cfg = load_config(str(path), UNTRAINED)
    cfg.MODEL.SSD.WIDTH_DIVISOR = 8
    # timm, which is not always there, has the same.
    cfg.MODEL.BACKBONE.NAME = cfg.MODEL.BACKBONE.NAME.replace("timm", "torchvision")
    cfg.MODEL.LIBRARY_BODY.NAME = "torchvision/swin_t"
    cfg.MODEL.CLASSIFIER.BODY = "vgg11" if cfg.MODEL.CLASSIFIER.FEATURE == "maps" else "resnet18"
    if classifies(path):
        cfg.INPUT.FIXED_SIZE = min(cfg.INPUT.FIXED_SIZE, 32)
    cfg.MODEL.WIDE_RESNET.DEPTH, cfg.MODEL.WIDE_RESNET.WIDTH = 10, 1
    if classifies(path):
        cfg.MODEL.NUM_CLASSES = 10
    if cfg.MODEL.RESNETS.DEPTH > 18:
        cfg.MODEL.RESNETS.DEPTH = 18
        cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE = [False] * 4
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
        cfg.MODEL.RESNETS.NUM_GROUPS, cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 1, 64
        cfg.MODEL.FPN.OUT_CHANNELS = 64
    torch.manual_seed(0)
    return build_model(cfg)


def batch(size: int) -> list[dict]:
    """Two images, without which batch normalisation cannot train on SSD's last map."""
    instances = Instances((size, size))
    instances.gt_boxes = Boxes(torch.tensor([[8.0, 8.0, 60.0, 72.0], [50.0, 40.0, 120.0, 120.0]]))
    instances.gt_classes = torch.tensor([1, 0])
    return [
        {"image": image, "instances": instances, "height": size, "width": size}
        for image in torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    ]


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


def check_step_and_detections(model, size=128):
    """A step gives every trained parameter a gradient and moves weights; inference detects."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
    with EventStorage():
        loss = sum(model(batch(size)).values())
    assert loss.isfinite()
    loss.backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in trained)
    before = [parameter.detach().clone() for parameter in trained]
    optimizer.step()
    assert any((a != b).any() for a, b in zip(before, trained, strict=True))
    assert all(parameter.isfinite().all() for parameter in trained)
    model.eval()
    with torch.no_grad():
        output, _ = model(batch(size))
    detections = output["instances"]
    assert detections.image_size == (size, size)
    assert len(detections) > 0
    assert len(detections.pred_boxes) == len(detections.scores) == len(detections.pred_classes)
    assert detections.pred_boxes.tensor.isfinite().all()


@pytest.mark.parametrize("path", CLASSIFIERS, ids=name_of)
def test_every_classifier_builds_and_takes_a_step_in_each_phase(path):
    model = small_model(path)
    size = model.image_size or 32
    images = torch.randint(0, 256, (4, len(model.pixel_scale), size, size), dtype=torch.uint8)
    numbers = torch.arange(4)
    labels = torch.eye(4, 10, dtype=torch.int8) if model.method.is_multi_label else numbers
    batch = ImageBatch(images, labels, numbers, ["a", "b", "c", "d"])
    for start in (lambda: None, getattr(model.method, "activate", lambda: None)):
        start()
        loss = sum(model.train()(batch).values())
        model.zero_grad()
        loss.backward()
        assert loss.isfinite()
        assert all(parameter.grad is not None for parameter in model.parameters())
    with torch.no_grad():
        assert model.eval()(batch).shape == (4, 10)


@pytest.mark.parametrize(
    "path", [p for p in CLASSIFIERS if p.stem.startswith(("ce_", "bce_"))], ids=name_of
)  # fmt: skip
def test_a_classifiers_method_and_its_baseline_differ_in_the_method_only(path):
    baseline = load_config(str(path))
    kind, _, rest = path.stem.partition("_")
    name = {"ce": "oat", "bce": "indeed"}[kind]
    method = load_config(str(path.with_name(f"{name}_{rest}.yaml")))
    assert method.MODEL.CLASSIFIER.METHOD == name
    method.MODEL.CLASSIFIER.METHOD = baseline.MODEL.CLASSIFIER.METHOD
    assert baseline == method


def test_rows_of_the_indeed_tables_hold_what_their_names_say():
    for path in ROOT.glob("projects/indeed/tables/*.yaml"):
        for row in read_table(path)["rows"]:
            cfg, name = row_config(row), row["name"]
            indeed = cfg.MODEL.INDEED
            is_baseline = cfg.MODEL.CLASSIFIER.METHOD == "binary_cross_entropy"
            assert is_baseline == ("baseline" in name)
            assert is_baseline or indeed.NORM == ("l2" if "L2" in name else "minmax")
            assert indeed.IDENTICAL == ("disparate" not in name)
            assert indeed.DISPARATE == ("identical" not in name)
            assert (cfg.DATASETS.MULTI_LABEL.MIN_CLASSES_TRAIN == 2) == ("Split" in name)
            if number := re.search(r"N = (\d)", name):
                assert cfg.DATASETS.TRAIN[0].split("_")[2] == number[1], name


@pytest.mark.parametrize(("name", "count"), [
    ("wrn_28_10_cifar10", 36_479_194), ("resnet18_bar", 11_179_590),
    ("wrn_50_2_bar", 66_846_534), ("vit_l_16_bar", 303_307_782), ("efficientnet_b1_bar", 6_520_870),
])  # fmt: skip
def test_the_classifiers_have_the_parameters_of_their_bodies_and_one_layer(name, count):
    path = ROOT / "configs" / "Image-Classification" / f"ce_{name}.yaml"
    assert count_parameters(path, classes=6 if name.endswith("bar") else 10) == count


@pytest.mark.parametrize("path", DETECTORS, ids=name_of)
def test_every_config_builds_takes_a_step_and_detects(path):
    check_step_and_detections(small_model(path), load_config(str(path)).INPUT.FIXED_SIZE or 128)


@pytest.mark.parametrize(
    "name",
    ["semi_anchored_retinanet_R_50_FPN_1x", "semi_anchored_retinanet_R_101_FPN_2x",
     "retinanet_R_50_FPN_1x", "retinanet_R_101_FPN_2x"],
)  # fmt: skip
def test_the_full_bodies_take_a_step_and_detect(name):
    path = ROOT / "configs" / "COCO-Detection" / f"{name}.yaml"
    torch.manual_seed(0)
    check_step_and_detections(build_model(load_config(str(path), UNTRAINED)))


@pytest.mark.parametrize("path", [p for p in DETECTORS if "FPN" in p.stem], ids=name_of)
def test_the_body_and_the_epochs_are_those_of_the_name(path):
    model = (cfg := load_config(str(path))).MODEL
    keys, is_deformed = model.RESNETS, "_DCN_" in path.stem
    assert any(keys.DEFORM_ON_PER_STAGE) == is_deformed
    if "_Swin_S_" in path.stem:
        assert model.BACKBONE.NAME == "build_library_fpn_backbone"
        assert model.LIBRARY_BODY.NAME == "torchvision/swin_s"
        assert cfg.SOLVER.OPTIMIZER == "AdamW" and cfg.INPUT.FORMAT == "RGB"
    else:
        kind, depth, groups, width = re.search(
            r"_([RX])_(\d+)(?:_(\d+)x(\d+)d)?_", path.stem
        ).groups()
        assert (keys.DEPTH, keys.NUM_GROUPS) == (int(depth), int(groups or 1))
        assert keys.WIDTH_PER_GROUP == int(width or 64)
        assert (kind == "X") == ("X-101" in model.WEIGHTS) == (not keys.STRIDE_IN_1X1)
    if "fcos" in path.stem:  # the ends of the towers, too
        assert model.FCOS.DEFORMABLE_TOWER == (is_deformed or "_Swin_S_" in path.stem)
    if schedule := re.search(r"_(\d)x(_|$)", path.stem):
        assert cfg.SOLVER.MAX_ITER == 90_000 * int(schedule[1])
        assert cfg.SOLVER.STEPS[-1] < cfg.SOLVER.MAX_ITER


@pytest.mark.parametrize("path", [p for p in LEAVES if "retinanet" in p.stem], ids=name_of)
def test_anchor_sizes_divide_an_octave_above_a_multiple_of_the_stride(path):
    cfg = load_config(str(path))
    # The digit scenes' objects are small: their anchors start at 2 x stride and end at P5.
    is_quick = path.stem.endswith("digit_scenes")
    multiple, strides = (2, (8, 16, 32)) if is_quick else (4, (8, 16, 32, 64, 128))
    for stride, row in zip(strides, cfg.MODEL.ANCHOR_GENERATOR.SIZES, strict=True):
        expected = [multiple * stride * 2 ** (i / len(row)) for i in range(len(row))]
        assert row == pytest.approx(expected, abs=1e-4)
    (ratios,) = cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS
    assert ratios == pytest.approx({1: [1], 3: [1 / 2, 1, 2], 5: [1 / 3, 1 / 2, 1, 2, 3]}[
        len(ratios)], abs=1e-5)  # fmt: skip
    assert cfg.MODEL.ANCHOR_GENERATOR.OFFSET == 0.5


@pytest.mark.parametrize(
    "path", [p for p in LEAVES if p.stem.startswith("ssd")], ids=name_of,
)  # fmt: skip
def test_ssd_and_its_semi_anchored_twin_differ_in_the_method_only(path):
    method = load_config(str(path.with_name(f"semi_anchored_{path.name}")))
    assert method.MODEL.META_ARCHITECTURE == "SemiAnchoredSSD"
    keys, ssd = method.MODEL.SEMI_ANCHORED, method.MODEL.SSD
    baseline = load_config(str(path))
    method.MODEL.META_ARCHITECTURE = "SSD"
    method.MODEL.SEMI_ANCHORED = baseline.MODEL.SEMI_ANCHORED
    assert method == baseline
    # The method matches anchors and suppresses detections as SSD does, and has no towers.
    assert keys.LOCATION_NEGATIVE_RATIO == ssd.NEGATIVE_RATIO
    assert keys.IOU_THRESHOLDS == [ssd.IOU_THRESHOLD] * 2 and keys.LOW_QUALITY_MATCHES
    assert keys.NMS_THRESH_TEST == ssd.NMS_THRESH_TEST == 0.45
    assert keys.NUM_CONVS == 0 and keys.BBOX_REG_WEIGHTS == ssd.BBOX_REG_WEIGHTS


@pytest.mark.parametrize(
    "path", [p for p in LEAVES if p.stem.startswith("retinanet") and "projects" not in p.parts],
    ids=name_of,
)  # fmt: skip
def test_method_and_baseline_differ_in_the_method_only(path):
    twin = path.with_name(f"semi_anchored_{path.name}")
    baseline, method = load_config(str(path)), load_config(str(twin))
    towers = [
        (keys.NUM_CONVS, keys.NORM, keys.PRIOR_PROB, tuple(keys.IN_FEATURES))
        for keys in (baseline.MODEL.RETINANET, method.MODEL.SEMI_ANCHORED)
    ]
    assert towers[0] == towers[1]
    for cfg in (baseline, method):
        for key in METHOD_KEYS:
            del cfg.MODEL[key]
        for key in ANCHOR_KEYS:
            del cfg.MODEL.ANCHOR_GENERATOR[key]
    assert baseline == method


@pytest.mark.parametrize(
    "path", [p for p in LEAVES if p.stem.startswith("dsla") and "projects" not in p.parts
             and p.with_name(p.name.removeprefix("dsla_")).exists()],
    ids=name_of,
)  # fmt: skip
def test_dsla_and_its_host_differ_in_the_labels_only(path):
    method = load_config(str(path))
    host = load_config(str(path.with_name(path.name.removeprefix("dsla_"))))
    assert method.MODEL.DSLA.ENABLED and not host.MODEL.DSLA.ENABLED
    for cfg in (method, host):
        del cfg.MODEL["DSLA"]
    assert method == host


def count_parameters(path: Path, classes: int = 0) -> int:
    cfg = load_config(str(path), ["MODEL.NUM_CLASSES", str(classes)] if classes else [])
    return analysis.count_parameters(analysis.build_meta_model(cfg))


@pytest.mark.parametrize(("name", "count"), [
    ("projects/semi_anchored/configs/semi_anchored_retinanet_R_50_FPN_1x_1x1.yaml", 32_295_317),
    ("projects/semi_anchored/configs/semi_anchored_retinanet_R_50_FPN_1x_3x3.yaml", 32_387_517),
    ("configs/COCO-Detection/semi_anchored_retinanet_R_50_FPN_1x.yaml", 32_571_917),
    ("configs/COCO-Detection/retinanet_R_50_FPN_1x.yaml", 33_841_972),
    ("configs/COCO-Detection/ssd300_VGG_16_120e.yaml", 34_305_206),
])  # fmt: skip
def test_the_models_have_the_known_number_of_parameters(name, count):
    assert count_parameters(ROOT / name) == count


@pytest.mark.parametrize(("name", "key", "value", "count"), [
    ("fcos", "MODEL.FCOS.SIZE_RANGE_ENDS", "[64.0]", 2),
    ("foveabox", "MODEL.FOVEABOX.SIZE_RANGES", "[[1.0, 64.0]]", 3),
    ("foveabox", "MODEL.FOVEABOX.BASE_EDGES", "[16.0]", 3),
    ("dsla_foveabox", "MODEL.FCOS.SIZE_RANGE_ENDS", "[64.0, 128.0, 256.0]", 2),
    ("semi_anchored_retinanet", "MODEL.SEMI_ANCHORED.FCOS_RANGES", "[64.0]", 2),
    ("semi_anchored_ssd", "MODEL.SEMI_ANCHORED.FCOS_RANGES", "[64.0]", 4),
])  # fmt: skip
def test_a_list_that_does_not_fit_the_levels_is_named(name, key, value, count):
    labels = ["MODEL.SEMI_ANCHORED.LABELING", "fcos", "MODEL.DSLA.FOVEABOX_SIZE", "max_distance"]
    path = ROOT / "configs" / "quick" / f"{name}_digit_scenes.yaml"
    cfg = load_config(str(path), [*labels, key, value])
    with pytest.raises(UserError, match=f"{key} has . entries; .* feature levels need {count}"):
        build_model(cfg)


def test_an_anchor_more_costs_five_outputs_and_no_class_scores():
    folder = ROOT / "projects" / "semi_anchored" / "configs"
    name = "semi_anchored_retinanet_R_50_FPN_1x_{}.yaml"
    one, two = (count_parameters(folder / name.format(anchors)) for anchors in ("1x1", "2x1"))
    assert two - one == 5 * (256 * 3 * 3 + 1)


def read_table(path: Path) -> dict:
    table = reproduction.read_table(path)
    assert set(table) - {"figures"} == {"title", "dataset", "rows"}
    return table


def row_config(row: dict):
    return load_config(str(ROOT / row["config"]), row.get("overrides", []))


def test_the_papers_tables_are_there_and_name_data_sets_that_exist():
    assert {table_id(path) for path in TABLES} >= {
        *(f"semi_anchored/table_{n}" for n in range(1, 9)),
        *(f"dsla/table_{n}" for n in range(1, 5)),
        *(f"oat/table_{n}" for n in range(1, 8)),
        *(f"indeed/table_{n}" for n in range(1, 6)),
    }
    for path in TABLES:
        assert set(read_table(path)["dataset"].split(", ")) <= set(DatasetCatalog.list())


@pytest.mark.parametrize("path", TABLES, ids=name_of)
def test_every_row_of_a_table_has_a_config_and_the_papers_figures(path):
    rows = read_table(path)["rows"]
    baselines = {row.get("baseline") for row in rows}
    assert len({row["name"] for row in rows}) == len(rows)
    for row in rows:
        assert set(row) <= {
            "name", "config", "overrides", "weights_from", "baseline", "paper", "quick",
        }  # fmt: skip
        assert row.get("baseline") in {None, *(other["name"] for other in rows)} - {row["name"]}
        row_config(row)
        is_printed = bool({"AP", "acc1", "acc1_batch", "mAP"} & set(row["paper"]))
        assert is_printed or row["name"] in baselines or table_id(path) in WITHOUT_FIGURES
        assert set(row["paper"]) <= FIGURES
        assert all(0 < figure < 100 for figure in row["paper"].values())
        assert row["paper"].get("AP75", 0) < row["paper"].get("AP50", 100)


@pytest.mark.parametrize("path", TABLES, ids=name_of)
def test_quick_rows_of_a_table_differ_in_what_the_rows_differ(path):
    """All on a CPU and on one embedded set, with one schedule but for what a row is about."""
    rows = [row for row in read_table(path)["rows"] if "quick" in row]
    varied = {
        key.removeprefix("SOLVER.")
        for row in rows for key in row["quick"].get("overrides", [])[::2]
        if key.startswith("SOLVER.") and key in row["overrides"]
    }  # fmt: skip
    common = set()
    for row in rows:
        full, cfg = row_config(row), row_config(row["quick"])
        assert cfg.MODEL.DEVICE == "cpu" and row["quick"]["config"].startswith("configs/quick/")
        assert cfg.MODEL.META_ARCHITECTURE == full.MODEL.META_ARCHITECTURE
        for node, keys in ABLATED.items():
            for key in keys:
                assert cfg.MODEL[node][key] == full.MODEL[node][key], (row["name"], node, key)
        for key in varied:
            del cfg.SOLVER[key]
        common.add((cfg.SOLVER.dump(), cfg.INPUT.dump(), cfg.DATASETS.TEST, cfg.SEED))
    assert len(common) <= 1


@pytest.mark.parametrize("path", TABLES, ids=name_of)
def test_a_row_without_training_evaluates_a_trained_row_with_other_inference(path):
    rows = {row["name"]: row for row in read_table(path)["rows"]}
    for row in rows.values():
        if "weights_from" not in row:
            continue
        source = rows[row["weights_from"]]
        assert "weights_from" not in source
        evaluated, trained = row_config(row), row_config(source)
        assert evaluated != trained
        for cfg in (evaluated, trained):
            for key in INFERENCE_KEYS:
                del cfg.MODEL.SEMI_ANCHORED[key]
        assert evaluated == trained


@pytest.mark.parametrize("path", [p for p in TABLES if table_id(p) in NAMED_SETTINGS], ids=name_of)
def test_a_rows_config_holds_what_the_rows_name_says(path):
    pattern, settings = NAMED_SETTINGS[table_id(path)]
    named = 0
    for row in read_table(path)["rows"]:
        if match := re.fullmatch(pattern, row["name"]):
            named += 1
            model = row_config(row).MODEL
            values = [float(group) for group in match.groups() if group]
            assert settings(model) == values, row["name"]
    assert named >= 3


@pytest.mark.parametrize("path", CHOICES, ids=name_of)
def test_rows_of_choices_are_of_questions_on_the_method_page_and_change_something(path):
    page = (path.parents[1] / "METHOD.md").read_text()
    table = yaml.safe_load(path.read_text())
    plain = {row["config"]: row_config(row) for row in table["rows"] if "overrides" not in row}
    for row in table["rows"]:
        cfg = row_config(row)
        assert cfg.MODEL.DEVICE == "cpu" and tuple(cfg.DATASETS.TEST) == (table["dataset"],)
        assert (cfg != plain[row["config"]]) == ("overrides" in row), row["name"]
        build_model(cfg)
        for question in re.findall(r"A\d+", row["name"]):
            assert f"\n| {question} | " in page


@pytest.mark.parametrize("folder", sorted(ROOT.glob("projects/*/configs")), ids=name_of)
def test_every_config_of_a_project_is_a_row_of_one_of_its_tables(folder):
    used = {
        ROOT / row["config"]
        for table in folder.parent.glob("tables/*.yaml")
        for row in read_table(table)["rows"]
    }
    assert set(folder.glob("*.yaml")) <= used
