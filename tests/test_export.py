"""Exported files give what the models give: detectors, classifiers, and the tool."""

import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image
from torch import nn

from anchorkit import model_zoo
from anchorkit.data import write_digit_scenes
from anchorkit.errors import UserError
from anchorkit.export import ExportedModel, export_model
from anchorkit.export.check import same_share
from anchorkit.export.graphs import DenseDetectorGraph
from anchorkit.layers import DeformConv
from anchorkit.modeling.meta_arch import PointDetector
from anchorkit.predictor import Predictor
from tests.reference.weights import randomize

ROOT = Path(__file__).resolve().parent.parent
TRAINED = "semi_anchored_retinanet"
DETECTORS = [
    *("retinanet", "ssd", "fcos", "fcosv2", "foveabox"),
    *(TRAINED, "semi_anchored_ssd", "dsla_fcos", "dsla_fcosv2", "dsla_foveabox"),
]
# What the quick configs have, but narrow.
NARROW = [
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8),
    *("MODEL.FPN.OUT_CHANNELS", 32, "MODEL.SSD.WIDTH_DIVISOR", 16, "MODEL.DEVICE", "cpu"),
]


@pytest.fixture(scope="module", autouse=True)
def onnx_packages():
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason="onnx is an extra: pip install -e '.[onnx]'")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Images (3, H, W) uint8: scenes and a photograph, also in odd sizes, and black."""
    root = tmp_path_factory.mktemp("datasets")
    write_digit_scenes(str(root), num_train=0, num_val=2)
    first, second = (Image.open(path) for path in sorted(root.rglob("val/*.png")))
    photograph = Image.fromarray(load_sample_image("flower.jpg"))
    images = [
        *(first, second.resize((201, 135)), photograph.resize((240, 160))),
        *(photograph.resize((160, 160)), Image.new("RGB", (160, 160))),
    ]
    return [torch.tensor(np.array(image)[..., ::-1].transpose(2, 0, 1).copy()) for image in images]


def random_detector(name, folder, *overrides):
    """The config of an untrained detector with weights that give scores of all sizes."""
    cfg = model_zoo.get_config(f"{name}_digit_scenes", [*NARROW, *overrides])
    torch.manual_seed(0)
    cfg.MODEL.WEIGHTS = str(folder / f"{name}.pth")
    torch.save({"model": randomize(build_model(cfg)).state_dict()}, cfg.MODEL.WEIGHTS)
    return cfg


def assert_same_detections(found, expected):
    """Equal but for rounding, which may swap detections of nearly the same score."""
    assert len(found["scores"]) == len(expected)
    torch.testing.assert_close(found["scores"], expected.scores, rtol=0, atol=1e-5)
    rows, others = (
        torch.cat([boxes, 1000 * scores[:, None], 1000 * classes[:, None]], dim=1)
        for boxes, scores, classes in (
            (found["boxes"], found["scores"], found["classes"]),
            (expected.pred_boxes.tensor, expected.scores, expected.pred_classes),
        )
    )
    distances = torch.cdist(rows, others, p=float("inf"))
    assert distances.amin(dim=0).max() < 1e-2 and distances.amin(dim=1).max() < 1e-2


@torch.inference_mode()
def detect(model, image):
    return model([{"image": image}])[0]["instances"]


# --- detectors ---


@pytest.mark.parametrize(
    ("name", "file_format"),
    # DSLA's networks are the hosts' without centerness.
    [(name, "onnx") for name in DETECTORS]
    + [(name, "torchscript") for name in DETECTORS if not name.startswith("dsla")],
)
def test_detections_are_those_of_the_model(name, file_format, scenes, tmp_path):
    cfg = random_detector(name, tmp_path)
    path = str(tmp_path / "model")
    export_model(cfg, path, file_format=file_format)
    model, exported = Predictor(cfg).model, ExportedModel(path, file_format)
    if "ssd" in name:
        scenes = [image for image in scenes if image.shape[1:] == (160, 160)]
    for image in scenes:
        expected = detect(model, image)
        assert len(expected) > 10
        assert_same_detections(exported(image), expected)


@pytest.mark.parametrize("name", ["retinanet", "ssd", "fcos", TRAINED])
@pytest.mark.parametrize("file_format", ["onnx", "torchscript"])
def test_an_image_may_have_no_detections(name, file_format, scenes, tmp_path):
    keys = {"ssd": "SSD", "retinanet": "RETINANET", "fcos": "FCOS"}
    key = f"MODEL.{keys.get(name, 'SEMI_ANCHORED')}.SCORE_THRESH_TEST"
    cfg = random_detector(name, tmp_path, key, 1.0)
    path = str(tmp_path / "model")
    metadata = export_model(cfg, path, file_format=file_format)
    assert metadata["score_threshold"] == "1.0"
    found = ExportedModel(path, file_format)(scenes[0])
    assert {n: tuple(one.shape) for n, one in found.items()} == {
        "boxes": (0, 4), "scores": (0,), "classes": (0,)
    }  # fmt: skip


@pytest.mark.parametrize("name", ["retinanet", "ssd", "fcos", "dsla_foveabox", TRAINED])
def test_without_nms_all_boxes_and_scores_are_given(name, scenes, tmp_path):
    cfg = random_detector(name, tmp_path)
    model = Predictor(cfg).model
    for file_format in ("onnx", "torchscript"):
        path = str(tmp_path / "model")
        export_model(cfg, path, file_format=file_format, with_nms=False)
        found = ExportedModel(path, file_format)(scenes[0])
        with torch.inference_mode():
            boxes, scores = DenseDetectorGraph(model)(scenes[0])
        assert len(boxes) >= 20 * 20 + 10 * 10 + 5 * 5 and scores.shape == (len(boxes), 10)
        torch.testing.assert_close(found["scores"], scores, rtol=0, atol=1e-5)
        torch.testing.assert_close(found["boxes"], boxes, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("name", DETECTORS)
def test_the_detections_are_among_all_boxes_and_scores(name, scenes, tmp_path):
    model = Predictor(random_detector(name, tmp_path)).model
    with torch.inference_mode():
        boxes, scores = DenseDetectorGraph(model)(scenes[0])
    boxes = boxes.clamp(0, 160)
    found = detect(model, scenes[0])
    assert len(found) > 10
    for index in range(len(found)):
        distance = (boxes - found.pred_boxes.tensor[index]).abs().amax(dim=1)
        rest = (scores[:, found.pred_classes[index]] - found.scores[index]).abs()
        assert ((distance < 1e-3) & (rest < 1e-5)).any()


def test_a_fixed_size_stands_in_the_file(scenes, tmp_path):
    import onnxruntime

    path = str(tmp_path / "model.onnx")
    cfg = random_detector("fcos", tmp_path)
    metadata = export_model(cfg, path, file_format="onnx", size=(135, 201))
    session = onnxruntime.InferenceSession(path)
    assert session.get_inputs()[0].shape == [3, 135, 201] and metadata["size"] == "[135, 201]"
    assert_same_detections(
        ExportedModel(path, "onnx")(scenes[1]), detect(Predictor(cfg).model, scenes[1])
    )


def test_a_detector_for_images_of_one_size_is_exported_for_it(tmp_path):
    cfg = random_detector("ssd", tmp_path)
    assert export_model(cfg, str(tmp_path / "m"), file_format="torchscript")["size"] == "[160, 160]"
    with pytest.raises(UserError, match="160 x 160"):
        export_model(cfg, str(tmp_path / "m"), file_format="torchscript", size=(160, 200))


def test_the_metadata_say_how_to_feed_the_model(tmp_path):
    cfg = random_detector("retinanet", tmp_path)
    for file_format in ("onnx", "torchscript"):
        path = str(tmp_path / "model")
        metadata = export_model(cfg, path, file_format=file_format, config_name="mine")
        assert ExportedModel(path, file_format).metadata == metadata
    assert metadata["config"] == "mine" and metadata["input_format"] == "BGR"
    assert json.loads(metadata["class_names"]) == list("0123456789")
    assert metadata["min_size"] == "160" and metadata["score_threshold"] == "0.01"


def test_deformable_convolution_is_known_to_onnx(tmp_path):
    import onnxruntime

    from anchorkit.export.files import onnx_file

    class Graph(nn.Module):
        inputs = {"maps": {2: "height"}}
        outputs = {"out": {2: "height"}}

        def __init__(self, modulated):
            super().__init__()
            self.sampling = nn.Conv2d(4, 27 if modulated else 18, 3, stride=2, padding=1)
            self.conv = DeformConv(4, 6, 3, stride=2, padding=1, groups=2, modulated=modulated)

        def forward(self, maps):
            return self.conv(maps, self.sampling(maps))

    for modulated in (True, False):
        torch.manual_seed(0)
        graph, maps = Graph(modulated), torch.randn(1, 4, 13, 8)
        content = onnx_file(graph, torch.randn(1, 4, 9, 8), {}, has_fixed_size=False)
        (found,) = onnxruntime.InferenceSession(content).run(None, {"maps": maps.numpy()})
        torch.testing.assert_close(torch.tensor(found), graph(maps), rtol=1e-4, atol=1e-4)


# --- classifiers ---


@pytest.mark.parametrize("file_format", ["onnx", "torchscript"])
@pytest.mark.parametrize(
    "name", ["ce_digits", "oat_digits", "bce_ml_digits_5", "indeed_ml_digits_5"]
)
def test_batches_of_any_size_are_classified(name, file_format, tmp_path):
    cfg = model_zoo.get_config(name)
    cfg.MODEL.WEIGHTS = str(model_zoo.checkpoint_path(name))
    path = str(tmp_path / "model")
    export_model(cfg, path, file_format=file_format)
    model, exported = Predictor(cfg).model, ExportedModel(path, file_format)
    digits = (load_digits().images[:5] * 255 / 16).astype(np.uint8)
    side = cfg.INPUT.FIXED_SIZE
    images = torch.stack([torch.tensor(np.array(Image.fromarray(d).resize((side, side))))[None]
                          for d in digits])  # fmt: skip
    for batch in (images, images[:1]):
        found = exported(batch)
        with torch.inference_mode():
            expected = model([{"image": image} for image in batch])
        for key in ("outputs", "scores"):
            rows = torch.stack([one[key] for one in expected])
            torch.testing.assert_close(found[key], rows, rtol=1e-4, atol=1e-4)


def test_the_running_anchor_decodes_as_the_evaluation_does(tmp_path):
    cfg = model_zoo.get_config("oat_digits")
    cfg.MODEL.WEIGHTS = str(model_zoo.checkpoint_path("oat_digits"))
    path = str(tmp_path / "model")
    metadata = export_model(cfg, path, file_format="onnx", decoding="running")
    assert metadata["decoding"] == "running"
    images = torch.randint(256, (4, 1, 16, 16), dtype=torch.uint8)
    found = ExportedModel(path, "onnx")(images)
    expected = Predictor(cfg).model.method.decodings(found["outputs"])["running"]
    torch.testing.assert_close(found["scores"], expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(found["scores"], found["outputs"])


# --- mistakes ---


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ce_digits", {"with_nms": False}, "only detectors"),
        ("ce_digits", {"decoding": "running"}, "needs a classifier that OAT has trained"),
        ("oat_digits", {"size": (8, 8)}, "INPUT.FIXED_SIZE resizes all images to 16 x 16"),
        (f"{TRAINED}_digit_scenes", {"decoding": "running"}, "this is a detector"),
        (f"{TRAINED}_digit_scenes", {"size": (0, 8)}, "at least 1 pixel"),
    ],
)
def test_choices_that_do_not_fit_the_model_are_told(name, options, message, tmp_path):
    cfg = model_zoo.get_config(name)
    cfg.MODEL.WEIGHTS = str(model_zoo.checkpoint_path(name))
    with pytest.raises(UserError, match=message):
        export_model(cfg, str(tmp_path / "m"), file_format="onnx", **options)
    assert not list(tmp_path.iterdir())


def test_random_anchors_are_refused(tmp_path):
    cfg = random_detector(TRAINED, tmp_path, "MODEL.SEMI_ANCHORED.ANCHOR_SELECTION", "random")
    with pytest.raises(UserError, match="'random' cannot be exported"):
        export_model(cfg, str(tmp_path / "m"), file_format="onnx")


def test_models_of_detectron2_are_left_to_it(tmp_path):
    overrides = ("MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.RETINANET.NUM_CLASSES", 10)
    cfg = random_detector("retinanet", tmp_path, *overrides)
    with pytest.raises(UserError, match="RetinaNet is not anchorkit's"):
        export_model(cfg, str(tmp_path / "m"), file_format="torchscript")


def test_a_missing_package_is_told_before_anything_is_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="need the package onnxruntime: pip install onnx"):
        export_model(model_zoo.get_config("ce_digits"), "m", file_format="onnx")


def test_a_file_that_gives_something_else_is_not_left_behind(tmp_path, monkeypatch):
    cfg = random_detector("fcos", tmp_path)
    grid = PointDetector.grid_locations
    # A trace of this holds the width of the example's maps.
    monkeypatch.setattr(
        PointDetector, "grid_locations",
        lambda self, maps: [points + int(maps[0].shape[-1]) for points in grid(self, maps)],
    )  # fmt: skip
    with pytest.raises(UserError, match="wrong for an image of 299 x 230"):
        export_model(cfg, str(tmp_path / "m"), file_format="torchscript")
    assert not (tmp_path / "m").exists()


def test_the_share_of_equal_results_counts_what_either_lacks():
    boxes = torch.arange(40.0).view(10, 4) * 7
    one = {"boxes": boxes, "scores": torch.rand(10), "classes": torch.arange(10)}
    order = torch.randperm(10)
    assert same_share(one, {n: v[order] for n, v in one.items()}) == 1
    assert same_share(one, {n: v[:5] for n, v in one.items()}) == 0.5
    assert same_share({n: v[:5] for n, v in one.items()}, one) == 0.5
    assert same_share(one, one | {"boxes": boxes + 1}) == 0
    assert same_share(one, one | {"classes": torch.arange(10) + 10}) == 0
    none = {n: v[:0] for n, v in one.items()}
    assert same_share(none, none) == 1 and same_share(one, none) == 0
    del one["classes"]
    assert same_share(one, one) == 1 and same_share(one, {n: v[order] for n, v in one.items()}) < 1


# --- the tool and the page ---


@pytest.fixture
def export(monkeypatch, capsys):
    tool = runpy.run_path(str(ROOT / "tools" / "export_model.py"))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["export_model.py", *map(str, arguments)])
        status = tool["run"]()
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


def test_the_pages_python_finds_the_digits_of_a_scene(export, tmp_path, monkeypatch, capsys):
    page = (ROOT / "INSTALL.md").read_text()
    (command,) = re.findall(r"^python tools/export_model.py (.+?[^\\])$", page, re.M | re.S)
    (code,) = re.findall(r"```python\n(.+?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "weights").symlink_to(ROOT / "weights")
    write_digit_scenes(str(tmp_path / "datasets"), num_train=0, num_val=1)
    status, said = export(*command.replace("\\\n", " ").split())
    assert status == 0, said
    assert "input_format: BGR" in said and "detector.onnx: 7.9 MB" in said
    names = {}
    exec(code, names)
    image = "datasets/digit_scenes/val/000000.png"
    expected = Predictor.from_zoo(f"{TRAINED}_digit_scenes", device="cpu")(image)
    keys = ("boxes", "scores", "classes")
    found = {key: torch.tensor(names[key]) for key in keys}
    assert_same_detections(found, expected)
    assert len(capsys.readouterr().out.splitlines()) == (expected.scores > 0.5).sum() > 0


def test_mistakes_are_told_in_one_line(export, tmp_path):
    config = ROOT / "configs" / "quick" / "ce_digits.yaml"
    arguments = ["--config-file", config, "--format", "torchscript"]
    status, said = export(*arguments, "--output", tmp_path / "m")
    assert status == 2 and "MODEL.WEIGHTS is empty" in said and len(said.splitlines()) == 1
    (tmp_path / "file").touch()
    weights = ["--opts", "MODEL.WEIGHTS", ROOT / "weights" / "ce_digits.safetensors"]
    status, said = export(*arguments, "--output", tmp_path / "file" / "m", *weights)
    assert status == 2 and "cannot be written" in said and len(said.splitlines()) == 1
