"""Class activation maps: what they mean, and what stands on their picture."""

import sys

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image
from torch import nn

from anchorkit.config import load_config
from anchorkit.errors import UserError
from anchorkit.modeling.backbone import LibraryBody
from anchorkit.visualization import (
    ActivationMaps,
    choose_classes,
    class_activation_maps,
    draw_activation_maps,
    save_figure,
)
from tests.reference.cam import class_activation_map, grad_cam

K = 4
WIDE = ["MODEL.BACKBONE.NAME", "build_wide_resnet", "MODEL.WIDE_RESNET.DEPTH", "10",
        "MODEL.WIDE_RESNET.WIDTH", "1"]  # fmt: skip
RES5 = ["MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.DEPTH", "18",
        "MODEL.RESNETS.RES2_OUT_CHANNELS", "64",
        "MODEL.RESNETS.OUT_FEATURES", "['res5']", "MODEL.CLASSIFIER.FEATURE", "res5",
        "MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", "0"]  # fmt: skip
RESNET18 = ["MODEL.BACKBONE.NAME", "build_torchvision_body", "MODEL.CLASSIFIER.BODY", "resnet18"]
SMALL_CNN = ["MODEL.BACKBONE.NAME", "build_lightweight_cnn", "INPUT.FIXED_SIZE", "24"]


def classifier(*options):
    torch.manual_seed(0)
    common = ["MODEL.META_ARCHITECTURE", "ImageClassifier", "MODEL.DEVICE", "cpu",
              "MODEL.NUM_CLASSES", str(K), "MODEL.PIXEL_STD", "[57.0,57.0,57.0]",
              "MODEL.CLASSIFIER.METHOD", "binary_cross_entropy"]  # fmt: skip
    return build_model(load_config("", [*common, *options]))


def noise(number=2, size=24, channels=3):
    torch.manual_seed(1)
    return torch.randint(0, 256, (number, channels, size, size), dtype=torch.uint8)


def outputs_of(model, images):
    model.eval()
    with torch.no_grad():
        return model.head(model.features(model.normalize(images)))


class Body(nn.Module):
    """One convolution, and what a library does with its maps."""

    def __init__(self, end):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2)
        self.end = end

    def forward(self, images):
        return self.end(self.conv(images))


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def with_body(body):
    """A classifier whose body, from a library, gives 8 features."""
    model = classifier(*WIDE)
    model.body = LibraryBody(body, num_features=8, last_layers=["fc"])
    model.head = nn.Linear(8, K)
    return model


@pytest.mark.parametrize(
    ("options", "size", "places"), [(WIDE, 24, 6), (RES5, 96, 3), (RESNET18, 96, 3)]
)
def test_the_mean_of_a_map_is_the_logit(options, size, places):
    model, images = classifier(*options), noise(size=size)
    nn.init.normal_(model.head.bias)
    result = class_activation_maps(model, images)
    assert result.maps.shape == (2, K, places, places) and result.layer == ""
    assert result.maps.std(dim=(2, 3)).min() > 1e-3
    expected = outputs_of(model, images)
    torch.testing.assert_close(result.maps.mean(dim=(2, 3)), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(result.outputs, expected)
    torch.testing.assert_close(result.scores, expected.sigmoid())


def test_a_map_is_the_weighted_sum_of_the_last_maps():
    model, images = classifier(*WIDE), noise()
    result = class_activation_maps(model, images)
    with torch.no_grad():
        maps = model.eval().body(model.normalize(images))["features"]
    for image in range(2):
        for label in range(K):
            weights, bias = model.head.weight[label].tolist(), model.head.bias[label].item()
            expected = torch.tensor(class_activation_map(maps[image].tolist(), weights, bias))
            torch.testing.assert_close(result.maps[image, label], expected, rtol=1e-4, atol=1e-5)


def test_chosen_classes_have_their_own_maps_and_none_has_no_map():
    model, images = classifier(*WIDE), noise()
    everything = class_activation_maps(model, images).maps
    chosen = class_activation_maps(model, images, torch.tensor([[3, 1], [2, -1]])).maps
    torch.testing.assert_close(chosen[0], everything[0, [3, 1]])
    torch.testing.assert_close(chosen[1, 0], everything[1, 2])
    assert chosen[1, 1].isnan().all()


def test_one_image_alone_has_the_same_maps_and_the_model_stays_in_its_mode():
    model, images = classifier(*WIDE).train(), noise(3)
    together = class_activation_maps(model, images).maps
    assert model.training and not together.requires_grad
    torch.testing.assert_close(class_activation_maps(model, images[1:2]).maps, together[1:2])
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    "end",
    [
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        Function(lambda maps: maps.relu_().mean(dim=(2, 3))),
        nn.Sequential(Function(lambda maps: maps.permute(0, 2, 3, 1)), nn.LayerNorm(8),
                      Function(lambda maps: maps.mean(dim=(1, 2)))),
    ],
    ids=["a module pools", "no module pools, after a ReLU in place", "channels last"],
)  # fmt: skip
def test_maps_of_a_library_are_found_however_it_pools_them(end):
    model, images = with_body(Body(end)), noise()
    result = class_activation_maps(model, images)
    assert result.layer == "" and result.maps.shape == (2, K, 11, 11)
    expected = outputs_of(model, images)
    torch.testing.assert_close(result.maps.mean(dim=(2, 3)), expected, rtol=1e-4, atol=1e-4)


def test_a_model_that_diverged_has_maps_that_say_so():
    model = classifier(*WIDE)
    nn.init.constant_(model.body.stem.weight, torch.nan)
    assert class_activation_maps(model, noise()).maps.isnan().all()


def test_a_body_without_maps_is_told():
    tokens = Function(lambda maps: maps.flatten(2).transpose(1, 2))
    end = nn.Sequential(tokens, nn.LayerNorm(8), Function(lambda x: x[:, 0]))
    with pytest.raises(UserError, match="no class activation maps: with images of 24 x 24 pixels"):
        class_activation_maps(with_body(Body(end)), noise())


def test_a_missing_package_is_told_to_those_who_need_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(UserError, match="pip install grad-cam"):
        class_activation_maps(classifier(*SMALL_CNN), noise())


@pytest.fixture
def grad_cam_package():
    pytest.importorskip(
        "pytorch_grad_cam", reason="grad-cam is an extra: pip install -e '.[grad-cam]'"
    )


def test_grad_cam_serves_bodies_with_hidden_layers(grad_cam_package):
    model, images = classifier(*SMALL_CNN), noise()
    classes = torch.tensor([[3, 1], [2, -1]])
    result = class_activation_maps(model.train(), images, classes)
    assert result.layer == "body.conv2" and model.training
    expected = grad_cam(model.eval(), model.body.conv2, model.normalize(images))
    assert expected[:, 1:].max() > 0
    torch.testing.assert_close(result.maps[0], expected[0, [3, 1]])
    torch.testing.assert_close(result.maps[1, 0], expected[1, 2])
    assert result.maps[1, 1].isnan().all() and not result.maps.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_grad_cam_serves_a_body_whose_parameters_are_frozen(grad_cam_package):
    model, images = classifier(*SMALL_CNN), noise()
    expected = class_activation_maps(model, images).maps
    model.body.requires_grad_(False)
    torch.testing.assert_close(class_activation_maps(model, images).maps, expected)


def test_grad_cam_is_the_positive_part_of_the_map_without_its_bias(grad_cam_package):
    model, images = with_body(Body(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))), noise()
    direct = class_activation_maps(model, images).maps - model.head.bias[:, None, None]
    # The same function, but what the linear layer takes are no means.
    halved = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), Function(lambda x: x / 2))
    twin = with_body(Body(halved))
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        twin.head.weight *= 2
    result = class_activation_maps(twin, images)
    assert result.layer == "body.model.conv"
    torch.testing.assert_close(result.maps, direct.clamp(min=0), rtol=1e-4, atol=1e-5)


def test_shown_are_the_classes_of_an_image_and_the_highest_other_one():
    labels = torch.tensor([[1, 0, 1, 0], [0, -1, 0, 0], [1, 1, 1, 1], [-1, -1, 1, -1]])
    outputs = torch.tensor([[9.0, 1, 2, 3], [1, 9, 3, 2], [1, 2, 3, 4], [5, 6, 7, 8]])
    expected = [[0, 2, 3, -1], [2, -1, -1, -1], [0, 1, 2, 3], [2, -1, -1, -1]]
    assert choose_classes(labels, outputs).tolist() == expected


def activations(maps, layer=""):
    outputs = torch.full((len(maps), K), 0.5)
    return ActivationMaps(maps, outputs, outputs.sigmoid(), "sigmoid", layer)


def maps_on(figure):
    """The heat maps of a picture."""
    shown = [image for axes in figure.axes for image in axes.images]
    return [one for one in shown if one.get_array().ndim == 2]


def test_all_maps_of_a_picture_have_one_scale():
    first, second = torch.full((2, 3, 2, 2), 0.5), torch.full((2, 3, 4, 4), 0.25)
    second[1, 2, 0, 0] = -8.0
    first[0, 0, 0, 0] = torch.inf
    classes = torch.tensor([[0, 1, 2], [3, -1, 1]])
    labels = torch.tensor([[1, 1, 0, 0], [0, -1, 0, 1]])
    figure = draw_activation_maps(
        noise(), ["0: a", "1: b"], labels, classes,
        [("one", activations(first)), ("$two_", activations(second, "body.conv"))],
        ["a", "$b_", "c", "d"], title="title",
    )  # fmt: skip
    shown = maps_on(figure)
    assert len(shown) == 2 * 5 and {one.get_clim() for one in shown} == {(-8.0, 8.0)}
    texts = [text.get_text() for text in figure.texts]
    assert texts.count("sigmoid 0.62") == 2 * 5 and "0: a" in texts and "c (not there)" in texts
    assert "$b_ (not known)" in texts and "a, $b_" in texts
    assert any("body.conv" in text and "$two_" in text for text in texts)


def test_a_map_covers_its_image_and_lies_where_it_should():
    values = torch.zeros(1, 1, 3, 2)
    values[0, 0, 0, 1] = 5.0
    images = torch.full((1, 1, 20, 40), 200, dtype=torch.uint8)
    maps = [("a", activations(values))]
    figure = draw_activation_maps(
        images, ["0"], torch.ones(1, K), torch.tensor([[2]]), maps, list("abcd")
    )
    (shown,) = maps_on(figure)
    assert list(shown.get_extent()) == [0, 40, 20, 0]
    assert shown.get_array().tolist() == values[0, 0].tolist()
    # Red, in the picture itself, is the upper right part of the panel and nothing else.
    box = shown.axes.get_window_extent()
    figure.canvas.draw()
    pixels = torch.tensor(np.asarray(figure.canvas.buffer_rgba()).astype(int))
    left, bottom, right, top = (round(edge) for edge in (box.x0, box.y0, box.x1, box.y1))
    panel = pixels[len(pixels) - top + 2 : len(pixels) - bottom - 2, left + 2 : right - 2]
    assert (right - left) / (top - bottom) == pytest.approx(2, abs=0.1)
    is_red = panel[..., 0] - panel[..., 2] > 40
    rows, columns = is_red.nonzero().T.double()
    assert len(rows) > 100 and is_red[0, -1]
    # It fades to 0 at the middle of the places beside it.
    assert rows.max() < panel.shape[0] / 2 and columns.min() > panel.shape[1] / 4


@pytest.mark.parametrize("number", [1, 2, 3])
def test_many_classes_and_models_stay_on_the_page(number, tmp_path):
    labels = torch.ones(1, 9)
    maps = ActivationMaps(torch.randn(1, 9, 3, 3), labels, labels, "sigmoid", "")
    figure = draw_activation_maps(
        noise(1, channels=1),
        ["a long name of an image.jpg"],
        labels,
        torch.arange(9)[None],
        [(f"a long name of model {i}", maps) for i in range(number)],
        [f"class {i}" for i in "123456789"],
    )
    assert len(maps_on(figure)) == 9 * number
    boxes = [axes.get_position() for axes in figure.axes]
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)
    for index, one in enumerate(boxes):
        for other in boxes[index + 1 :]:
            assert not one.overlaps(other)
    save_figure(figure, str(tmp_path / "many.png"), dpi=72)
    with Image.open(tmp_path / "many.png") as picture:
        assert picture.width <= 504


def test_an_image_without_classes_and_without_maps_is_drawn():
    nothing = torch.empty(1, 1, 3, 3).fill_(torch.nan)
    figure = draw_activation_maps(
        noise(1), ["0"], torch.zeros(1, K), torch.tensor([[-1]]), [("a", activations(nothing))],
        list("abcd"),
    )  # fmt: skip
    assert maps_on(figure) == [] and "no class" in [text.get_text() for text in figure.texts]
