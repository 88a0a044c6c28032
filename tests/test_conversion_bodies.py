"""Classifiers become bodies: the same features, and nothing taken that does not belong."""

import datetime
import os
import pickle

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from torchvision.models import get_model

from anchorkit.checkpoint import Checkpointer, read_checkpoint
from anchorkit.config import load_config
from anchorkit.conversion import convert
from anchorkit.errors import UserError
from tests.conversion_tool import load_tool
from tests.reference.weights import randomize

OVERRIDES = [
    *("MODEL.META_ARCHITECTURE", "FCOS", "MODEL.BACKBONE.NAME", "build_resnet_fpn_p6p7_backbone"),
    *("MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"]),
    *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"], "MODEL.FPN.OUT_CHANNELS", 32),
    *("MODEL.BACKBONE.FREEZE_AT", 0, "MODEL.NUM_CLASSES", 2, "MODEL.DEVICE", "cpu"),
    *("MODEL.FCOS.NUM_CONVS", 1, "MODEL.RESNETS.STRIDE_IN_1X1", False),
]
R18 = ("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64)
PIXELS = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def build(*overrides):
    cfg = load_config("", [*OVERRIDES, *overrides])
    return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg).eval()


def library_features(model, pixels):
    """res3, res4 and res5 of torchvision's ResNet."""
    x = model.layer1(model.maxpool(model.relu(model.bn1(model.conv1(pixels)))))
    features = {}
    for name, layer in (("res3", model.layer2), ("res4", model.layer3), ("res5", model.layer4)):
        features[name] = x = layer(x)
    return features


@torch.no_grad()
def check_features(model, expected):
    actual = model.backbone.bottom_up(PIXELS)
    assert actual.keys() == expected.keys()
    for name, feature in expected.items():
        assert feature.std() > 0.1
        torch.testing.assert_close(actual[name], feature, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("resnet18", (*R18, "MODEL.RESNETS.NORM", "BN")),
        ("resnet50", ("MODEL.RESNETS.NORM", "FrozenBN")),
        ("resnext50_32x4d",
         ("MODEL.RESNETS.NUM_GROUPS", 32, "MODEL.RESNETS.WIDTH_PER_GROUP", 4)),
    ],
)  # fmt: skip
def test_a_body_sees_what_torchvisions_classifier_sees(name, keys):
    theirs = randomize(get_model(name, weights=None))
    conversion = convert(theirs.state_dict(), model := build(*keys))
    assert conversion.problem == ""
    assert {"fc.weight", "fc.bias"} <= set(conversion.unused)
    missing, unexpected = model.load_state_dict(conversion.weights, strict=False)
    assert unexpected == [] and missing == conversion.unfilled
    assert not any(name.startswith("backbone.bottom_up.") for name in missing)
    with torch.no_grad():
        check_features(model, library_features(theirs, PIXELS))


@pytest.mark.parametrize(
    "name",
    ["resnet34", "resnet101", "resnet152", "resnext101_32x8d", "resnext101_64x4d",
     "wide_resnet50_2", "wide_resnet101_2"],
)  # fmt: skip
def test_the_keys_in_the_report_are_those_of_a_model_that_fits(name):
    with torch.device("meta"):
        state = get_model(name, weights=None).state_dict()
        keys = convert(state, build()).name_map.structure
        model = build(*(part for pair in keys.items() for part in pair))
        conversion = convert(state, model)
        assert conversion.problem == ""
        body = model.backbone.bottom_up.state_dict()
        assert conversion.num_matched == len(conversion.weights) == len(body)
        # The standard model of the configs is another one.
        assert convert(state, build()).problem != ""


def test_the_body_of_a_classifier_is_filled_too():
    model = build(
        *("MODEL.META_ARCHITECTURE", "ImageClassifier", "MODEL.CLASSIFIER.FEATURE", "res5"),
        *("MODEL.BACKBONE.NAME", "build_resnet_backbone", *R18),
    )
    conversion = convert(get_model("resnet18", weights=None).state_dict(), model)
    assert conversion.problem == "" and conversion.unfilled == ["head.weight", "head.bias"]
    assert "body.res5.1.conv2.weight" in conversion.weights


def test_a_classifier_of_the_library_fills_the_body_of_its_name():
    model = build(
        *("MODEL.META_ARCHITECTURE", "ImageClassifier"),
        *("MODEL.BACKBONE.NAME", "build_torchvision_body", "MODEL.CLASSIFIER.BODY", "resnet18"),
    )
    theirs = randomize(get_model("resnet18", weights=None))
    conversion = convert(theirs.state_dict(), model)
    assert conversion.problem == "" and conversion.unused == ["fc.weight", "fc.bias"]
    model.load_state_dict(conversion.weights, strict=False)
    theirs.fc = torch.nn.Identity()
    with torch.no_grad():
        actual = model.body(PIXELS)["features"]
        torch.testing.assert_close(actual, theirs(PIXELS), rtol=1e-4, atol=1e-4)
    other = get_model("resnet34", weights=None).state_dict()
    assert "the model has no tensor 'body.model.layer1.2" in convert(other, model).problem


def test_timms_models_say_what_pixels_they_take():
    timm = pytest.importorskip("timm", reason="timm is an extra: pip install -e '.[timm]'")
    model = build(
        *("MODEL.META_ARCHITECTURE", "ImageClassifier"),
        *("MODEL.BACKBONE.NAME", "build_timm_body", "MODEL.CLASSIFIER.BODY", "resnet10t"),
    )
    conversion = convert(timm.create_model("resnet10t", pretrained=False).state_dict(), model)
    assert conversion.problem == ""
    settings = conversion.name_map.settings
    assert settings["MODEL.PIXEL_MEAN"] == pytest.approx([123.675, 116.28, 103.53])


# Names of a normalisation's parts in the files of the model zoos.
NORM_PARTS = {
    "detectron2": ("gamma", "beta", "running_mean", "running_var"),
    "detectron": ("s", "b"),
}


def caffe2_file(model, kind, classifier="fc1000"):
    """The body of a model under Caffe2's names; the statistics are part of Detectron's norms."""
    parts = dict(zip(("weight", "bias", "running_mean", "running_var"), NORM_PARTS[kind],
                     strict=False))  # fmt: skip
    convs = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c", "shortcut": "branch1"}
    arrays = {
        "conv1_b": torch.zeros(64).numpy(),
        f"{classifier}_w": torch.zeros(1000, 2048).numpy(),
        f"{classifier}_b": torch.zeros(1000).numpy(),
    }
    for name, module in model.backbone.bottom_up.named_modules():
        if not name.endswith(("conv1", "conv2", "conv3", "shortcut")):
            continue
        place, _, conv = name.rpartition(".")
        is_stem = place == "stem"
        new = "conv1" if is_stem else f"{place.replace('.', '_')}_{convs[conv]}"
        arrays[f"{new}_w"] = module.weight.detach().numpy()
        for part, theirs in parts.items():
            key = f"res_conv1_bn_{theirs}" if is_stem else f"{new}_bn_{theirs}"
            arrays[key] = getattr(module.norm, part).numpy()
    return arrays


def frozen_model(*overrides, statistics=True):
    """A model with FrozenBN whose weights are random; without statistics they are as at first."""
    model = randomize(build(*overrides))
    generator = torch.Generator().manual_seed(1)
    for name, buffer in model.backbone.bottom_up.named_buffers():
        if name.endswith(("norm.weight", "norm.bias")):
            buffer.uniform_(0.5, 1.0, generator=generator)
        elif statistics and name.endswith("running_mean"):
            buffer.normal_(std=0.1, generator=generator)
        elif statistics and name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5, generator=generator)
    return model


def write_pickle(path, content):
    # Protocol 2 is that of Detectron's files.
    with open(path, "wb") as file:
        pickle.dump(content, file, protocol=2)
    return str(path)


@pytest.mark.parametrize("kind", NORM_PARTS)
def test_caffe2s_names_are_read_without_a_flag_and_as_detectron2_reads_them(tmp_path, kind):
    source = frozen_model("MODEL.RESNETS.STRIDE_IN_1X1", True, statistics=kind == "detectron2")
    with torch.no_grad():
        expected = source.backbone.bottom_up(PIXELS)
    arrays = caffe2_file(source, kind)
    content = {
        "detectron2": {"model": arrays, "__author__": "Caffe2", "matching_heuristics": True},
        "detectron": {"blobs": arrays | {"conv1_w_momentum": arrays["conv1_w"]}, "cfg": "text"},
    }[kind]
    path = write_pickle(tmp_path / "R-50.pkl", content)
    model = build("MODEL.RESNETS.STRIDE_IN_1X1", True)
    conversion = convert(read_checkpoint(path), model)
    assert conversion.problem == ""
    model.load_state_dict(conversion.weights, strict=False)
    check_features(model, expected)
    settings = conversion.name_map.settings
    assert settings["MODEL.RESNETS.STRIDE_IN_1X1"] and settings["INPUT.FORMAT"] == "BGR"
    assert settings["MODEL.PIXEL_STD"] == [1.0, 1.0, 1.0]
    # detectron2 guesses by suffixes, and finds the same.
    other = build("MODEL.RESNETS.STRIDE_IN_1X1", True)
    Checkpointer(other).load_weights(path)
    theirs = other.backbone.bottom_up.state_dict()
    for name, value in model.backbone.bottom_up.state_dict().items():
        torch.testing.assert_close(value, theirs[name])


def test_the_resnext_of_caffe2_has_its_stride_in_the_3x3_and_another_deviation():
    groups = ("MODEL.RESNETS.NUM_GROUPS", 32, "MODEL.RESNETS.WIDTH_PER_GROUP", 8)
    model = frozen_model(*groups)
    conversion = convert({"model": caffe2_file(model, "detectron2", "pred")}, model)
    assert conversion.problem == "" and {"pred_w", "pred_b"} <= set(conversion.unused)
    settings = conversion.name_map.settings
    assert not settings["MODEL.RESNETS.STRIDE_IN_1X1"]
    assert settings["MODEL.PIXEL_STD"] == [57.375, 57.12, 58.395]
    assert conversion.name_map.structure["MODEL.RESNETS.NUM_GROUPS"] == 32
    for name, value in model.backbone.bottom_up.state_dict().items():
        assert torch.equal(conversion.weights[f"backbone.bottom_up.{name}"], value)


def test_norms_without_statistics_are_not_for_a_model_that_trains_them():
    arrays = caffe2_file(frozen_model(statistics=False), "detectron")
    with pytest.raises(UserError, match="set MODEL.RESNETS.NORM FrozenBN"):
        convert(arrays, build("MODEL.RESNETS.NORM", "BN"))
    of_groups = {name.replace("_bn_", "_gn_"): value for name, value in arrays.items()}
    with pytest.raises(UserError, match="group normalisation is not converted"):
        convert(of_groups, build())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a config of the detector, and torchvision's ResNet-18."""
    folder = tmp_path_factory.mktemp("bodies")
    keys = load_config("", [*OVERRIDES, *R18])
    keys.pop("VERSION")
    (folder / "fcos.yaml").write_text(keys.dump())
    torch.save(randomize(get_model("resnet18", weights=None)).state_dict(), folder / "r18.pth")
    return folder


@pytest.fixture
def run(files, capsys):
    """Runs the tool on a state dict; returns its status, report, error and output file."""
    tool = load_tool()

    def run(state, *arguments, name="changed.pth"):
        source, target = str(files / name), str(files / "out" / "ours.pth")
        if state is not None:
            torch.save(state, source)
        if os.path.exists(target):
            os.remove(target)
        config = str(files / "fcos.yaml")
        status = tool.run([source, target, "--config-file", config, *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err, target

    return run


def test_the_tool_reports_what_a_body_leaves_and_which_keys_belong_to_it(run):
    status, report, _, target = run(None, name="r18.pth")
    assert status == 0
    assert "matched     100 of the model's" in report and "unexpected  0\n" in report
    assert "* INPUT.FORMAT RGB" in report
    assert "* MODEL.PIXEL_MEAN '[123.675, 116.28, 103.53]'" in report
    assert "  MODEL.RESNETS.STRIDE_IN_1X1 False" in report
    assert "'fc.weight'" in report
    model = build(*R18)
    Checkpointer(model).load_weights(target)
    theirs = get_model("resnet18", weights=None).eval()
    theirs.load_state_dict(torch.load(target.replace("out/ours", "r18"), weights_only=True))
    with torch.no_grad():
        check_features(model, library_features(theirs, PIXELS))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.update({"layer4.1.conv3.weight": torch.zeros(1)}),
         "nothing is known of the file's 'layer4.1.conv3.weight'"),
        (lambda state: state.pop("layer4.1.conv2.weight"),
         "the file has no tensor 'layer4.1.conv2.weight'"),
        (lambda state: state.update({"conv1.weight": torch.zeros(64, 1, 7, 7)}),
         "conv1.weight ([64, 1, 7, 7], in the model [64, 3, 7, 7])"),
        (lambda state: state.pop("layer4.1.conv1.weight"),
         "with (2, 2, 2, 1) blocks of 2 convolutions"),
    ],
    ids=["one too many", "one missing", "another shape", "a block missing"],
)  # fmt: skip
def test_a_body_that_is_not_the_models_is_refused_and_nothing_is_written(
    run, files, change, message
):
    state = torch.load(files / "r18.pth", weights_only=True)
    change(state)
    status, _, error, target = run(state)
    assert status == 2 and message in error and error.count("\n") == 1
    assert not os.path.exists(target)


def test_a_refusal_names_the_keys_that_the_file_needs(run, files):
    state = torch.load(files / "r18.pth", weights_only=True)
    status, report, error, _ = run(state, "--opts", "MODEL.RESNETS.DEPTH", "34")
    assert status == 2 and "such weights need MODEL.RESNETS.DEPTH 18" in error
    assert "* MODEL.RESNETS.DEPTH 18" in report and "missing     " in report
    # Group normalisation has no statistics to take.
    status, _, error, _ = run(state, "--opts", "MODEL.RESNETS.NORM", "GN")
    assert status == 2 and "the model has no tensor" in error


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm_was_done",)


@pytest.mark.parametrize("name", ["hostile.pkl", "hostile.pth"])
def test_a_hostile_pickle_is_refused_and_runs_no_code(run, files, monkeypatch, name):
    monkeypatch.chdir(files)
    content = {"model": {"conv1_w": Harmful()}}
    if name.endswith(".pkl"):
        write_pickle(files / name, content)
    else:
        torch.save(content, files / name)
    status, _, error, _ = run(None, name=name)
    assert status == 2 and "refused, it holds the Python object" in error
    assert "--trust-pickle" in error and error.count("\n") == 1
    assert not os.path.exists("harm_was_done")


@pytest.mark.parametrize("name", ["dated.pkl", "dated.pth"])
def test_a_file_with_objects_needs_the_flag(run, files, name):
    state = torch.load(files / "r18.pth", weights_only=True)
    if name.endswith(".pkl"):
        arrays = {key: value.numpy() for key, value in state.items()}
        write_pickle(files / name, {"model": arrays, "made": datetime.date(2020, 1, 1)})
    else:
        torch.save({"model": state, "made": datetime.date(2020, 1, 1)}, files / name)
    assert run(None, name=name)[0] == 2
    status, _, error, target = run(None, "--trust-pickle", name=name)
    assert status == 0, error
    assert len(read_checkpoint(target)["model"]) == 100


def test_safetensors_hold_what_the_pth_holds_and_are_weights_of_a_model(tmp_path, run, files):
    _, _, _, target = run(None, name="r18.pth")
    other = str(tmp_path / "ours.safetensors")
    config = str(files / "fcos.yaml")
    assert load_tool().run([str(files / "r18.pth"), other, "--config-file", config]) == 0
    expected, actual = read_checkpoint(target)["model"], read_checkpoint(other)
    assert expected.keys() == actual.keys()
    assert all(torch.equal(actual[name], value) for name, value in expected.items())
    model = build(*R18)
    Checkpointer(model).load_weights(other)
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    with open(other, "r+b") as file:
        file.truncate(1000)
    with pytest.raises(UserError, match="ours.safetensors: damaged"):
        read_checkpoint(other)
