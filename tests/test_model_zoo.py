"""Models by name, their checkpoints, and the page that lists them."""

import copy
import hashlib
import importlib.util
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from anchorkit import model_zoo
from anchorkit.analysis import build_input, build_meta_model, count_macs, count_parameters
from anchorkit.checkpoint import read_checkpoint
from anchorkit.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
MODEL = "ce_digits"
LINES = {
    name: entry
    for section in model_zoo.read_data()["sections"]
    for name, entry in section["models"].items()
}
SHIPPED = {
    name: entry["checkpoint"]["file"] for name, entry in LINES.items() if "checkpoint" in entry
}
COUNTED = [
    "semi_anchored_retinanet_R_50_FPN_1x", "retinanet_R_50_FPN_voc2007", "dsla_fcos_R_101_FPN_1x",
    "foveabox_R_50_FPN_1x", "ssd512_VGG_16_voc2007", "fcosv2_digit_scenes",
    "oat_wrn_28_10_cifar10", "ce_efficientnet_b1_bar", "indeed_vgg16_bn_ml_cifar10_5",
]  # fmt: skip


@pytest.fixture(scope="module")
def tool():
    return runpy.run_path(str(ROOT / "tools" / "build_model_zoo.py"))


@pytest.fixture
def data(monkeypatch):
    """A copy of the data file's content, in place of it, to be changed."""
    content = copy.deepcopy(model_zoo.read_data())
    monkeypatch.setattr(model_zoo, "read_data", lambda: content)
    return content


def line_of(data: dict, name: str) -> dict:
    return next(s["models"][name] for s in data["sections"] if name in s["models"])


# --- names and configs ---


def test_every_config_has_a_name_of_its_own():
    paths = [*ROOT.glob("configs/*/*.yaml"), *ROOT.glob("projects/*/configs/*.yaml")]
    stems = [path.stem for path in paths if not path.stem.startswith("Base-")]
    assert model_zoo.list() == sorted(stems) and len(set(stems)) == len(stems)


def test_a_config_is_loaded_by_its_name_and_can_be_changed():
    cfg = model_zoo.get_config("dsla_fcosv2_R_101_FPN_2x", ["MODEL.DSLA.KAPPA", "0.3"])
    assert (cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.DSLA.KAPPA) == (101, 0.3)
    cfg.SOLVER.MAX_ITER = 1  # it is not frozen
    assert model_zoo.get_config("dsla_fcosv2_R_101_FPN_2x").SOLVER.MAX_ITER == 180_000


@pytest.mark.parametrize(("name", "hint"), [
    ("fcos_R_50_FPN_1xx", "did you mean fcos_R_50_FPN_1x?"), ("!", "model_zoo.list() gives all"),
])  # fmt: skip
def test_an_unknown_name_is_told_with_the_nearest_one(name, hint):
    with pytest.raises(UserError, match=re.escape(f"no model '{name}' in the zoo; {hint}")):
        model_zoo.get(name)


def test_an_installed_package_finds_its_configs_and_weights(tmp_path):
    build = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", tmp_path / "built"]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    code = (
        "from anchorkit import model_zoo; print(model_zoo.__file__, *model_zoo.list()); "
        "model_zoo.get_config('dsla_fcos_R_50_FPN_1x_impr_0'); "
        "model_zoo.checkpoint_path('ce_digits')"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, text=True, capture_output=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "built"), "ANCHORKIT_WEIGHTS": ""},
        check=True,
    )  # fmt: skip
    path, *names = run.stdout.split()
    assert Path(path) == tmp_path / "built" / "anchorkit" / "model_zoo.py"
    assert names == model_zoo.list()


# --- models ---


def test_a_detector_is_built_for_evaluation():
    model = model_zoo.get("semi_anchored_retinanet_digit_scenes", device="cpu")
    assert not model.training and model.device == torch.device("cpu")
    (output,) = model([{"image": torch.zeros(3, 64, 64), "height": 64, "width": 64}])
    assert output["instances"].image_size == (64, 64)


@pytest.fixture
def checkpoint(data, tmp_path, monkeypatch):
    """Half-precision weights of a model in $ANCHORKIT_WEIGHTS, known to the data file."""
    torch.manual_seed(1)
    state = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in model_zoo.get(MODEL).state_dict().items()
    }
    path = tmp_path / "digits.pth"
    torch.save({"model": state}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    line_of(data, MODEL)["checkpoint"] = {"file": path.name, "sha256": digest}
    monkeypatch.setenv("ANCHORKIT_WEIGHTS", str(tmp_path))
    return path


def test_trained_weights_are_loaded_from_a_half_precision_file(checkpoint):
    saved = torch.load(checkpoint)["model"]
    torch.manual_seed(2)
    model = model_zoo.get(MODEL, pretrained=True)
    assert not model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, saved[name].to(tensor.dtype))
        assert tensor.dtype != torch.half
    assert not torch.equal(model.head.weight, model_zoo.get(MODEL).head.weight)


def test_weights_are_looked_for_in_the_repositorys_folder_too(checkpoint, monkeypatch):
    root = checkpoint.parent / "repository"
    (root / "weights").mkdir(parents=True)
    checkpoint.rename(root / "weights" / checkpoint.name)
    monkeypatch.setattr(model_zoo, "_root", lambda: root)
    assert model_zoo.checkpoint_path(MODEL) == root / "weights" / checkpoint.name
    monkeypatch.delenv("ANCHORKIT_WEIGHTS")
    assert model_zoo.checkpoint_path(MODEL) == root / "weights" / checkpoint.name


def test_a_missing_file_is_told_with_the_folders_it_may_be_in(checkpoint):
    checkpoint.unlink()
    message = (
        f"the trained weights of {MODEL}, digits.pth, are not in {checkpoint.parent} or "
        f"{ROOT / 'weights'}; put the file there, or let ANCHORKIT_WEIGHTS name its folder"
    )
    with pytest.raises(UserError, match=re.escape(message)):
        model_zoo.get(MODEL, pretrained=True)


def test_a_file_of_another_content_is_refused(checkpoint):
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    checkpoint.write_bytes(checkpoint.read_bytes() + b"\0")
    message = re.escape(f"{checkpoint} is not the checkpoint of {MODEL}, or damaged: expected "
                        f"sha256 {digest}, got ")  # fmt: skip
    with pytest.raises(UserError, match=message):
        model_zoo.get(MODEL, pretrained=True)


def test_weights_of_another_model_are_refused(checkpoint, data):
    line_of(data, "bce_ml_digits_5")["checkpoint"] = line_of(data, MODEL)["checkpoint"]
    with pytest.raises(UserError, match="does not fit the model bce_ml_digits_5: .*size mismatch"):
        model_zoo.get("bce_ml_digits_5", pretrained=True)


def test_a_model_without_a_checkpoint_says_why_and_what_to_do():
    message = "fcos_R_50_FPN_1x has no trained weights yet: training needs GPUs .* train it"
    with pytest.raises(UserError, match=message):
        model_zoo.get("fcos_R_50_FPN_1x", pretrained=True)


# --- the weights that are shipped ---


def test_every_shipped_file_is_a_checkpoint_of_one_model_and_small():
    files = {path.name: path.stat().st_size for path in (ROOT / "weights").iterdir()
             if path.suffix == ".safetensors"}  # fmt: skip
    assert sorted(SHIPPED.values()) == sorted(files)
    assert max(files.values()) <= 6e6 and sum(files.values()) <= 15e6


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_loads(name, monkeypatch):
    monkeypatch.delenv("ANCHORKIT_WEIGHTS", raising=False)
    saved = read_checkpoint(str(ROOT / "weights" / SHIPPED[name]))
    assert not {tensor.dtype for tensor in saved.values()} & {torch.float, torch.double}
    state = model_zoo.get(name, pretrained=True).state_dict()
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[key], value.to(state[key].dtype)) for key, value in saved.items())


# --- the data file and the page ---


def test_the_page_is_what_the_command_writes(tool):
    assert (ROOT / "MODEL_ZOO.md").read_text() == tool["build_page"]()


@pytest.mark.parametrize("name", LINES)
def test_the_data_file_has_the_parameters_of_the_model(name):
    cfg = model_zoo.get_config(name)
    if cfg.MODEL.BACKBONE.NAME == "build_timm_body" and not importlib.util.find_spec("timm"):
        pytest.skip("timm is an extra: pip install -e '.[timm]'")
    assert count_parameters(build_meta_model(cfg)) == LINES[name]["parameters"]


@pytest.mark.parametrize("name", COUNTED)
def test_the_data_file_has_the_multiply_accumulates_of_the_model(name):
    cfg = model_zoo.get_config(name)
    size = model_zoo.read_data()["data_sets"][cfg.DATASETS.TEST[0]].get("size")
    macs = count_macs(build_meta_model(cfg), build_input(cfg, size))[""]
    assert macs == LINES[name]["macs"]


def test_models_alike_in_everything_but_the_method_cost_the_same():
    for name, line in LINES.items():
        for baseline, method in (("ce_", "oat_"), ("bce_", "indeed_")):
            if name.startswith(baseline):
                twin = LINES[method + name.removeprefix(baseline)]
                assert (line["parameters"], line["macs"]) == (twin["parameters"], twin["macs"])


def test_configs_without_a_line_and_lines_without_a_config_are_named(tool, data):
    models = data["sections"][0]["models"]
    models["fcos_R_50_FPN_9x"] = models.pop("fcos_R_50_FPN_1x")
    data["sections"][-1]["models"]["ssd300_VGG_16_120e"] = {}
    with pytest.raises(UserError) as error:
        tool["build_page"]()
    assert str(error.value) == (
        "anchorkit/model_zoo.yaml: no line for fcos_R_50_FPN_1x; no config for the line "
        "fcos_R_50_FPN_9x; ssd300_VGG_16_120e has 2 lines"
    )


def test_costs_that_lack_are_told(tool, data):
    del line_of(data, "oat_wrn_28_10_cifar10")["macs"]
    with pytest.raises(UserError, match="10_cifar10 needs parameters: 36479194, macs: 5243328768$"):
        tool["build_page"]()


def cells(tool, data: dict, name: str) -> dict[str, str]:
    section = next(section for section in data["sections"] if name in section["models"])
    return tool["build_row"](name, section, data["data_sets"], tool["read_tables"]())


def test_the_papers_figures_are_those_of_the_first_row_without_overrides(tool, data):
    rows = tool["read_tables"]()
    assert rows["oat_resnet18_ucf101"]["paper"] == {"acc1": 74.253}  # not 59.397, the first
    assert rows["bce_tresnet_m_voc2007"]["paper"] == {"mAP_single": 54.19, "mAP": 58.34}
    row = cells(tool, data, "semi_anchored_retinanet_R_101_FPN_2x")
    assert (row["data"], row["paper's AP"]) == ("COCO test-dev", "43.6")
    assert cells(tool, data, "retinanet_R_50_FPN_1x")["paper's AP"] == "35.9 ¹"


def test_hours_are_estimated_for_trainings_on_a_gpu(tool, data):
    # By detectron2's page 90,000 iterations of 0.205 s on 8 GPUs, 41 hours.
    assert cells(tool, data, "retinanet_R_50_FPN_1x")["V100 hours"] == "41"
    # 100 epochs of 9,537 images with 61.55 GMACs.
    hours = 100 * 9537 * 61.55 / 245.5 * 0.205 * 8 / 16 / 3600
    assert cells(tool, data, "oat_vit_l_16_ucf101")["V100 hours"] == f"{hours:.1f}"
    for name in ("ce_digits", "semi_anchored_retinanet_R_50_FPN_1x_top_5"):
        assert cells(tool, data, name)["V100 hours"] == "—"


def test_our_figures_are_a_mean_with_those_of_the_seeds(tool, data):
    line = line_of(data, "fcos_R_50_FPN_1x")
    assert cells(tool, data, "fcos_R_50_FPN_1x")["our AP"] == "—"
    line["ours"] = {"AP": [36.5]}
    assert cells(tool, data, "fcos_R_50_FPN_1x")["our AP"] == "36.5"
    line["ours"] = {"AP": [36.5, 36.7]}
    assert cells(tool, data, "fcos_R_50_FPN_1x")["our AP"] == "36.6 (36.5, 36.7)"


def test_a_checkpoint_gets_a_column(tool, checkpoint):
    assert "| `digits.pth` |" in tool["build_page"]()
    assert "| `digits.pth` |" not in (ROOT / "MODEL_ZOO.md").read_text()
