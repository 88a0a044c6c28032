"""Bodies under an FPN: deformable ResNets, and any model of torchvision or timm."""

import logging
import sys

import pytest
import torch
import torchvision
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_backbone, build_model
from detectron2.modeling.backbone.resnet import DeformBottleneckBlock as OriginalBlock
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops import StochasticDepth

from anchorkit.checkpoint import Checkpointer
from anchorkit.config import load_config
from anchorkit.errors import UserError
from anchorkit.layers import DeformConv, DeformHeadConv, conv_tower
from anchorkit.modeling.backbone import DeformBottleneckBlock
from tests import contracts
from tests.reference.deformable import deformable_convolution

RESNET, LIBRARY = "build_resnet_fpn_p6p7_backbone", "build_library_fpn_backbone"


def config(name, **options):
    """FCOS with a thin neck and towers; ``options`` are keys below MODEL, "__" for a dot."""
    overrides = {
        "BACKBONE.NAME": name,
        "DEVICE": "cpu",
        "WEIGHTS": "",
        "NUM_CLASSES": 3,
        "FPN.OUT_CHANNELS": 64,
        "FCOS.NUM_CONVS": 1,
        "FCOS.SCORE_THRESH_TEST": 0.001,
        "PIXEL_STD": [57.0, 57.0, 57.0],
    } | {key.replace("__", "."): value for key, value in options.items()}
    pairs = [part for key, value in overrides.items() for part in (f"MODEL.{key}", value)]
    return load_config("configs/Base-FCOSv2.yaml", pairs)


def library_body(name, freeze_at=0, **options):
    """The body alone, without the FPN around it."""
    options = {f"LIBRARY_BODY__{key}": value for key, value in options.items()}
    torch.manual_seed(0)
    return build_backbone(
        config(LIBRARY, LIBRARY_BODY__NAME=name, BACKBONE__FREEZE_AT=freeze_at, **options)
    ).bottom_up


def image(height=64, width=64, number=1):
    return torch.randn(number, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def at_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


pytestmark = pytest.mark.usefixtures("at_root")


# --- deformable convolution ---


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize(
    ("geometry", "groups", "sampling_groups"),
    [({"stride": 1, "padding": 1, "dilation": 1}, 1, 1),
     ({"stride": 2, "padding": 2, "dilation": 2}, 2, 2)],
)  # fmt: skip
def test_samples_are_taken_where_the_sampling_says(modulated, geometry, groups, sampling_groups):
    torch.manual_seed(0)
    conv = DeformConv(4, 2, 3, groups=groups, bias=False, modulated=modulated, **geometry)
    plain = nn.Conv2d(4, 2, 3, **geometry)
    x = torch.randn(1, 4, 5, 6)
    size = plain(x).shape[2:]
    sampling = 1.5 * torch.randn(1, (27 if modulated else 18) * sampling_groups, *size)
    expected = deformable_convolution(
        x[0], sampling[0], conv.weight.detach(), modulated=modulated,
        sampling_groups=sampling_groups, **geometry,
    )  # fmt: skip
    torch.testing.assert_close(conv(x, sampling)[0].detach(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("modulated", "factor"), [(False, 1.0), (True, 0.5)])
def test_without_shifts_it_is_the_plain_convolution_or_half_of_it(modulated, factor):
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False)
    conv = DeformConv(
        4, 6, 3, stride=2, padding=1, groups=2, bias=False, modulated=modulated
    )  # fmt: skip
    conv.load_state_dict(plain.state_dict())
    x = torch.randn(2, 4, 9, 7).to(memory_format=torch.channels_last)
    sampling = torch.zeros(2, 27 if modulated else 18, 5, 4)
    torch.testing.assert_close(conv(x, sampling), factor * plain(x), atol=1e-6, rtol=1e-5)


def test_half_precision_is_kept_and_computed_in_single():
    conv = DeformConv(4, 2, 3, padding=1, bias=False, modulated=True)
    x, sampling = torch.randn(1, 4, 5, 5).bfloat16(), torch.randn(1, 27, 5, 5).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = conv(x, sampling)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output, conv(x.float(), sampling.float()).bfloat16())


def test_only_the_last_convolution_of_a_tower_is_deformable_and_it_starts_as_the_plain_one():
    torch.manual_seed(0)
    tower = conv_tower(32, 2, "GN", deformable=True)
    plain = conv_tower(32, 2, "GN")
    is_deformed = [isinstance(layer, DeformHeadConv) for layer in tower]
    assert is_deformed == [False, False, False, True, False, False]
    plain.load_state_dict(
        {name: value for name, value in tower.state_dict().items() if "sampling" not in name}
    )
    x = torch.randn(1, 32, 8, 8)
    # Normalisation hides that all samples count one half, but for its epsilon.
    torch.testing.assert_close(tower(x), plain(x), atol=0.02, rtol=0.01)
    assert not torch.allclose(tower[3](x), plain[3](x), atol=1e-4)
    (tower(x) * torch.randn(1, 32, 8, 8)).sum().backward()
    assert tower[3].sampling.weight.grad.abs().max() > 0


def resnet_50(stages, modulated=False, freeze_at=2, **options):
    """A ResNet-50 that is deformable in some stages, with seeded weights."""
    torch.manual_seed(0)
    return build_backbone(
        config(
            RESNET,
            RESNETS__DEFORM_ON_PER_STAGE=stages,
            RESNETS__DEFORM_MODULATED=modulated,
            BACKBONE__FREEZE_AT=freeze_at,
            **options,
        )  # fmt: skip
    ).bottom_up


def test_a_deformable_resnet_starts_as_the_plain_one_and_learns_where_to_look():
    deformable = resnet_50([False, False, False, True])
    plain = resnet_50([False] * 4)
    kinds = [isinstance(block, DeformBottleneckBlock) for block in deformable.res5]
    assert kinds == [True] * 3
    assert not any(isinstance(m, DeformConv) for m in deformable.res4.modules())
    maps, expected = deformable(image()), plain(image())
    for name in ("res3", "res4", "res5"):
        torch.testing.assert_close(maps[name], expected[name])
    maps["res5"].square().sum().backward()
    trained = {n: p for n, p in deformable.named_parameters() if p.requires_grad}
    assert all(parameter.grad is not None for parameter in trained.values())
    assert trained["res5.0.conv2_offset.weight"].grad.abs().max() > 0


@pytest.mark.parametrize("modulated", [False, True])
def test_the_tensors_are_named_as_in_detectron2(modulated):
    options = {"bottleneck_channels": 8, "stride": 2, "num_groups": 2, "norm": "FrozenBN",
               "deform_modulated": modulated, "deform_num_groups": 2}  # fmt: skip
    try:
        original = OriginalBlock(16, 32, **options)
    except ImportError:
        pytest.skip("this detectron2 builds its block with compiled operators only")
    with torch.device("meta"):
        body = resnet_50([True] * 4, modulated, RESNETS__DEFORM_NUM_GROUPS=2,
                         RESNETS__NUM_GROUPS=2)  # fmt: skip
    ours = body.res3[0].state_dict()
    assert list(sorted(ours)) == list(sorted(original.state_dict()))
    offsets = original.state_dict()["conv2_offset.bias"].shape
    assert ours["conv2_offset.bias"].shape == offsets == (2 * (27 if modulated else 18),)
    assert ours["conv2.weight"].shape == (256, 128, 3, 3)


def test_the_stages_that_are_frozen_do_not_move_their_samples():
    with torch.device("meta"):
        body = resnet_50([True] * 4, freeze_at=3, RESNETS__NORM="BN")
    for name, parameter in body.named_parameters():
        assert parameter.requires_grad == name.startswith(("res4", "res5")), name
    assert isinstance(body.res3[0].conv2.norm, FrozenBatchNorm2d)
    assert isinstance(body.res4[0].conv2.norm, nn.BatchNorm2d)


def test_a_detector_with_deformable_towers_trains_every_part():
    cfg = config(LIBRARY, LIBRARY_BODY__NAME="torchvision/mobilenet_v3_small",
                 FCOS__DEFORMABLE_TOWER=True, FCOS__NUM_CONVS=2)  # fmt: skip
    torch.manual_seed(0)
    model = build_model(cfg)
    assert sum(isinstance(module, DeformHeadConv) for module in model.modules()) == 2
    contracts.check_gradients(model, [contracts.make_input(num_classes=3)])


# --- any library's model ---


@pytest.mark.parametrize(
    ("name", "channels"),
    [("resnet18", (128, 256, 512)), ("swin_t", (192, 384, 768)),
     ("mobilenet_v3_small", (24, 48, 576))],
)  # fmt: skip
def test_a_model_of_torchvision_gives_maps_of_the_stated_strides_and_channels(name, channels):
    body = library_body(f"torchvision/{name}").eval()
    shapes = body.output_shape()
    assert [shapes[level].channels for level in ("res3", "res4", "res5")] == list(channels)
    assert [shape.stride for shape in shapes.values()] == [8, 16, 32]
    for size in ((64, 64), (96, 160)):
        maps = body(image(*size))
        for level, shape in shapes.items():
            expected = (1, shape.channels, size[0] // shape.stride, size[1] // shape.stride)
            assert maps[level].shape == expected


@pytest.mark.parametrize("name", ["resnet18", "swin_t"])
def test_a_detector_on_a_librarys_body_trains_every_part_and_detects(name):
    torch.manual_seed(0)
    model = build_model(config(LIBRARY, LIBRARY_BODY__NAME=f"torchvision/{name}"))
    contracts.check_gradients(model, [contracts.make_input(num_classes=3, size=(64, 80))])
    contracts.check_detections(model, num_classes=3)
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert all(name.startswith("backbone.bottom_up.model.") for name in frozen)


@pytest.mark.parametrize(
    ("source", "levels", "p6_channels"),
    [("p5", "p3 p4 p5 p6 p7", 64), ("res5", "p3 p4 p5 p6 p7", 512), ("none", "p3 p4 p5", None)],
)
def test_the_upper_levels_start_where_the_key_says(source, levels, p6_channels):
    with torch.device("meta"):
        fpn = build_backbone(config(
            LIBRARY, LIBRARY_BODY__NAME="torchvision/resnet18", FPN__TOP_BLOCK_IN_FEATURE=source,
        ))  # fmt: skip
        maps = fpn(torch.zeros(1, 3, 64, 64))
    assert list(maps) == levels.split()
    if p6_channels:
        assert fpn.top_block.p6.in_channels == p6_channels


@pytest.mark.parametrize("relu", [True, False])
def test_the_top_levels_are_float32_on_a_cpu_under_autocast(relu):
    # oneDNN's bfloat16 gradient is wrong for maps of one location a side.
    fpn = build_backbone(config(
        LIBRARY, LIBRARY_BODY__NAME="torchvision/resnet18", FPN__TOP_BLOCK_RELU=relu,
    ))  # fmt: skip
    p5, gradients = torch.randn(2, 64, 2, 2), []
    for enabled in (True, False):
        fpn.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            p6, p7 = fpn.top_block(p5.to(torch.bfloat16 if enabled else torch.float32))
        assert p6.dtype == p7.dtype == torch.float32
        (p6.square().sum() + p7.square().sum()).backward()
        gradients.append([weights.grad.clone() for weights in fpn.top_block.parameters()])
    for with_autocast, without in zip(*gradients, strict=True):
        torch.testing.assert_close(with_autocast, without, rtol=0.03, atol=0.03)


def trained_names(body):
    return {n.removeprefix("model.") for n, p in body.named_parameters() if p.requires_grad}


def test_layers_up_to_the_map_of_a_stride_are_frozen():
    every = trained_names(library_body("torchvision/resnet18", NORM="BN"))
    frozen = {
        level: every - trained_names(library_body("torchvision/resnet18", level, NORM="BN"))
        for level in (1, 2, 5)
    }
    assert frozen[1] == {"conv1.weight", "bn1.weight", "bn1.bias"}
    assert frozen[2] == {n for n in every if n.startswith(("conv1", "bn1", "layer1"))}
    assert frozen[5] == every
    swin = library_body("torchvision/swin_t", 2)
    assert "features.1.1.mlp.0.weight" not in trained_names(swin)
    assert "features.2.reduction.weight" in trained_names(swin)


@pytest.mark.parametrize(
    ("norm", "freeze_at", "moving"),
    [("BN", 0, {"bn1", "layer1", "layer2", "layer4"}), ("BN", 2, {"layer2", "layer4"}),
     ("FrozenBN", 0, set()), ("SyncBN", 2, {"layer2", "layer4"})],
)  # fmt: skip
def test_statistics_move_where_batch_normalisation_is_trained(norm, freeze_at, moving):
    body = library_body("torchvision/resnet18", freeze_at, NORM=norm)
    kind = nn.SyncBatchNorm if norm == "SyncBN" else nn.BatchNorm2d
    norms = {n.removeprefix("model."): m for n, m in body.named_modules() if isinstance(m, kind)}
    assert len(norms) == 20
    before = {name: one.running_mean.clone() for name, one in norms.items()}
    body.eval().train()
    body(image(number=2))
    moved = {n for n, one in norms.items() if not torch.equal(one.running_mean, before[n])}
    assert {name.split(".")[0] for name in moved} & {"bn1", "layer1", "layer2", "layer4"} == moving
    for name, one in norms.items():
        assert one.weight.requires_grad == (name in moved)
    assert not any(one.training for one in body.eval().modules())


def test_the_share_of_skipped_branches_rises_to_the_given_one():
    shares = [
        [one.p for one in library_body("torchvision/swin_t", DROP_PATH=p).modules()
         if isinstance(one, StochasticDepth)] for p in (0.0, 0.1)
    ]  # fmt: skip
    assert shares[0] == [0.0] * 12
    assert shares[1] == pytest.approx([0.1 * block / 11 for block in range(12)])


def test_a_file_of_torchvision_gives_its_features_and_one_of_the_detector_is_left_as_it_is(
    tmp_path, caplog
):
    torch.manual_seed(1)
    library = torchvision.models.swin_t().eval()
    torch.save(library.state_dict(), tmp_path / "swin_t.pth")
    torch.manual_seed(2)
    model = build_model(config(LIBRARY, LIBRARY_BODY__NAME="torchvision/swin_t")).eval()
    logging.getLogger("anchorkit").propagate = True
    with caplog.at_level(logging.INFO, logger="anchorkit"):
        Checkpointer(model, str(tmp_path)).load_weights(str(tmp_path / "swin_t.pth"))
    (unused,) = [r.message for r in caplog.records if "not used" in r.message]
    assert unused.endswith("bottom_up.head.weight, backbone.bottom_up.head.bias")
    (missing,) = [r.message for r in caplog.records if "not in the file" in r.message]
    assert "bottom_up.model" not in missing and "bottom_up.norms.res3.weight" in missing
    with torch.no_grad():
        maps, features = model.backbone.bottom_up(image()), library.features
        expected = nn.functional.layer_norm(features[:4](image()), (192,)).permute(0, 3, 1, 2)
        torch.testing.assert_close(maps["res3"], expected)
        expected = library.norm(features(image())).permute(0, 3, 1, 2)
        torch.testing.assert_close(maps["res5"], expected)
    Checkpointer(model, str(tmp_path)).save("detector")
    other = build_model(config(LIBRARY, LIBRARY_BODY__NAME="torchvision/swin_t"))
    Checkpointer(other, str(tmp_path)).load_weights(str(tmp_path / "detector.pth"))
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_the_extractor_gives_what_the_librarys_own_does_in_training_too():
    body = library_body("torchvision/resnet18", NORM="BN")
    torch.manual_seed(0)
    library = torchvision.models.resnet18()
    library = create_feature_extractor(library, {"layer2": "res3", "layer4": "res5"})
    maps, expected = body(image(number=2)), library(image(number=2))
    for name, one in expected.items():
        torch.testing.assert_close(maps[name], one)


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "efficientnet_lite0"])
def test_a_model_of_timm_takes_its_weights_and_gives_its_features(name):
    timm = pytest.importorskip("timm", reason="timm is an extra: pip install -e '.[timm]'")
    body = library_body(f"timm/{name}", freeze_at=2)
    torch.manual_seed(1)
    library = timm.create_model(name)
    loaded = body.load_state_dict(body.rename_weights(library.state_dict()), strict=False)
    assert not loaded.missing_keys
    expected = library.eval().forward_intermediates(image(), indices=3, intermediates_only=True)
    maps = body.eval()(image())
    for level, one in zip(("res3", "res4", "res5"), expected, strict=True):
        assert maps[level].shape[1] == body.output_shape()[level].channels
        torch.testing.assert_close(maps[level], one)
    sum(one.sum() for one in body.train()(image(number=2)).values()).backward()
    assert all(p.grad is not None for p in body.parameters() if p.requires_grad)


def test_activations_in_timms_normalisation_stay_when_it_is_synchronised():
    pytest.importorskip("timm", reason="timm is an extra: pip install -e '.[timm]'")
    maps = [library_body("timm/efficientnet_lite0", NORM=norm).eval()(image())["res5"]
            for norm in ("BN", "SyncBN")]  # fmt: skip
    torch.testing.assert_close(*maps)


def test_without_timm_its_models_cannot_be_had(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match="'timm/convnext_atto' needs the package timm"):
        library_body("timm/convnext_atto")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("torchvision/squeezenet1_1", {}, "FPN.IN_FEATURES: .* has no maps 'res3', 'res4', 'res5'"),
        ("torchvision/vit_b_16", {}, "no maps of an image of 64 x 96 .* any size"),
        ("torchvision/resnet81", {}, "LIBRARY_BODY.NAME: .* did you mean resnet1"),
        ("resnet50", {}, "must be one of 'torchvision', 'timm'"),
        ("torchvision/resnet18", {"LIBRARY_BODY__NORM": "GN"}, "LIBRARY_BODY.NORM is 'GN'"),
        ("torchvision/resnet18", {"LIBRARY_BODY__DROP_PATH": 0.2}, "DROP_PATH is 0.2"),
        ("torchvision/swin_t", {"BACKBONE__FREEZE_AT": 1}, "FREEZE_AT 1: .* no maps 'res1'"),
        ("torchvision/resnet18", {"FPN__IN_FEATURES": ["c3"]}, "no maps 'c3'; it has res1 [(]str"),
    ],
)
def test_what_a_library_cannot_give_is_told(name, options, message):
    cfg = config(LIBRARY, LIBRARY_BODY__NAME=name, **options)
    with pytest.raises(UserError, match=message), torch.device("meta"):
        build_backbone(cfg)


def test_what_cannot_be_a_body_is_told():
    stages = [False, False, False, True]
    with pytest.raises(UserError, match="ResNet-18 has no bottleneck blocks"):
        build_backbone(config(RESNET, RESNETS__DEPTH=18, RESNETS__DEFORM_ON_PER_STAGE=stages))
    with pytest.raises(UserError, match="take 3 channels"):
        build_backbone(config(LIBRARY), ShapeSpec(channels=1))
