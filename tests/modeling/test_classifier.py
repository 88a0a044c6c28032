"""The classifier: bodies, input, weights of libraries, and its two kinds of batches."""

import logging

import pytest
import torch
import torchvision
from detectron2.modeling import build_model
from torch import nn

from anchorkit.checkpoint import Checkpointer
from anchorkit.config import load_config
from anchorkit.data.image_set import ImageBatch
from anchorkit.errors import UserError
from anchorkit.modeling.backbone import LibraryBody, LightweightCNN, SimpleCNN, WideResNet

K = 5


def classifier(body="build_lightweight_cnn", size=16, **options):
    """A classifier of K classes; ``options`` are keys with "__" for the dots."""
    overrides = {
        "MODEL.META_ARCHITECTURE": "ImageClassifier",
        "MODEL.BACKBONE.NAME": body,
        "MODEL.DEVICE": "cpu",
        "MODEL.NUM_CLASSES": K,
        "MODEL.PIXEL_STD": [57.0, 57.0, 57.0],
        "INPUT.FIXED_SIZE": size,
    }
    overrides |= {name.replace("__", "."): value for name, value in options.items()}
    torch.manual_seed(0)
    return build_model(load_config("", [part for pair in overrides.items() for part in pair]))


def batch(number=4, size=16, channels=3, multi_label=False):
    torch.manual_seed(1)
    images = torch.randint(0, 256, (number, channels, size, size), dtype=torch.uint8)
    labels = torch.arange(number) % K
    if multi_label:
        labels = (torch.rand(number, K) < 0.5).to(torch.int8)
    return ImageBatch(images, labels, torch.arange(number), [f"image {i}" for i in range(number)])


def as_dicts(images):
    return [
        {
            "image": image,
            "gt_classes": label.nonzero()[:, 0].tolist() if label.dim() else [int(label)],
            "image_id": int(index),
        }
        for image, label, index in zip(images.images, images.labels, images.indices, strict=True)
    ]


def evaluated(model, images):
    model.eval()
    with torch.no_grad():
        return model(images)


@pytest.mark.parametrize(
    ("body", "options"),
    [
        ("build_lightweight_cnn", {}),
        ("build_simple_cnn", {}),
        ("build_torchvision_body", {
            "size": 32, "MODEL__CLASSIFIER__BODY": "vgg11", "MODEL__CLASSIFIER__FEATURE": "maps"}),
        ("build_wide_resnet", {"MODEL__WIDE_RESNET__DEPTH": 10, "MODEL__WIDE_RESNET__WIDTH": 1}),
        ("build_torchvision_body", {"size": 32}),
        ("build_resnet_backbone", {
            "size": 32, "MODEL__RESNETS__DEPTH": 18, "MODEL__RESNETS__RES2_OUT_CHANNELS": 64,
            "MODEL__RESNETS__OUT_FEATURES": ["res5"], "MODEL__CLASSIFIER__FEATURE": "res5",
            "MODEL__RESNETS__NORM": "BN", "MODEL__BACKBONE__FREEZE_AT": 0}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["cross_entropy", "oat", "binary_cross_entropy", "indeed"])
def test_every_body_learns_with_every_method(body, options, method):
    model = classifier(body, MODEL__CLASSIFIER__METHOD=method, **options)
    if method == "oat":
        model.method.activate()
    images = batch(size=options.get("size", 16), multi_label=model.method.is_multi_label)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(6):
        loss = sum(model.train()(images).values())
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    outputs = evaluated(model, images)
    assert outputs.shape == (4, K) and outputs.isfinite().all()


def test_dicts_and_batches_are_the_same_images():
    model, images = classifier(), batch()
    from_batch, from_dicts = evaluated(model, images), evaluated(model, as_dicts(images))
    torch.testing.assert_close(from_batch, torch.stack([one["outputs"] for one in from_dicts]))
    scores = torch.stack([one["scores"] for one in from_dicts])
    torch.testing.assert_close(scores, from_batch.softmax(dim=1))
    model.train()
    assert model(images)["loss_class"].item() == pytest.approx(
        model(as_dicts(images))["loss_class"].item()
    )


def test_dicts_and_batches_have_the_same_loss_and_scores_with_several_labels():
    model = classifier(MODEL__CLASSIFIER__METHOD="binary_cross_entropy")
    images = batch(multi_label=True)
    loss, of_dicts = (model.train()(one)["loss_class"] for one in (images, as_dicts(images)))
    assert loss.item() == pytest.approx(of_dicts.item())
    scores = torch.stack([one["scores"] for one in evaluated(model, as_dicts(images))])
    torch.testing.assert_close(scores, evaluated(model, images).sigmoid())


def test_the_ramp_is_a_share_of_the_training():
    model = classifier(MODEL__CLASSIFIER__METHOD="indeed", SOLVER__MAX_ITER=200)
    assert model.method.ramp_steps == 40


def test_dropout_lies_before_the_last_layer_and_not_in_the_features():
    model, images = classifier(MODEL__CLASSIFIER__DROPOUT=0.5).train(), batch()
    first, second = (model.features(model.normalize(images.images)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(model.head(first), model.head(first))
    # VGG's own would come before the features of its second hidden layer are compared.
    vgg = classifier("build_torchvision_body", size=32, MODEL__CLASSIFIER__BODY="vgg11")
    assert isinstance(vgg.body.model.classifier[5], nn.Identity)


def test_pixels_are_normalised_channel_by_channel():
    model = classifier(MODEL__PIXEL_MEAN=[10.0, 20.0, 30.0], MODEL__PIXEL_STD=[2.0, 4.0, 8.0])
    images = batch().images
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([10.0, 20, 30], [2.0, 4, 8]))
    torch.testing.assert_close(model.normalize(images), (images.float() - mean) / std)


def test_grey_images_are_repeated_for_a_body_that_takes_three_channels():
    model, grey = classifier(), batch(channels=1)
    repeated = grey.images.expand(-1, 3, -1, -1)
    torch.testing.assert_close(model.normalize(grey.images), model.normalize(repeated))
    one_channel = classifier(MODEL__PIXEL_MEAN=[30.0], MODEL__PIXEL_STD=[80.0])
    assert evaluated(one_channel, grey).shape == (4, K)


def test_images_of_another_size_are_resized():
    model = classifier()
    assert model.normalize(batch(size=40).images).shape == (4, 3, 16, 16)
    dicts = [{"image": torch.zeros(3, h, w, dtype=torch.uint8)} for h, w in ((20, 30), (16, 16))]
    assert len(evaluated(model, dicts)) == 2


def test_the_bodies_have_the_known_number_of_parameters():
    with torch.device("meta"):
        body = WideResNet(in_channels=3, depth=28, width=10)
    head = 640 * 10 + 10
    assert sum(p.numel() for p in body.parameters()) + head == 36_479_194
    body = LightweightCNN(in_channels=3, image_size=32)
    assert body.hidden1.in_features == 400
    shapes = [(m.out_channels, m.kernel_size) for m in body.modules() if isinstance(m, nn.Conv2d)]
    assert shapes == [(6, (5, 5)), (16, (5, 5))]
    assert (body.hidden1.out_features, body.hidden2.out_features) == (128, 64)
    body = SimpleCNN(in_channels=1, image_size=84, channels=[32, 64, 128], hidden=128)
    convolutions = sum((9 * first + 1) * last for first, last in ((1, 32), (32, 64), (64, 128)))
    assert sum(p.numel() for p in body.parameters()) == convolutions + (128 * 10 * 10 + 1) * 128


# The last layer of Swin is named as the classifier's own.
@pytest.mark.parametrize(("name", "last"), [("resnet18", "fc"), ("swin_t", "head")])
def test_a_file_of_torchvision_gives_its_outputs_with_a_new_last_layer(
    name, last, tmp_path, caplog
):
    torch.manual_seed(0)
    library = torchvision.models.get_model(name, num_classes=1000).eval()
    path = tmp_path / f"{name}.pth"
    torch.save(library.state_dict(), path)
    model = classifier("build_torchvision_body", size=64, MODEL__CLASSIFIER__BODY=name)
    with caplog.at_level(logging.INFO, logger="anchorkit"):
        logging.getLogger("anchorkit").propagate = True
        Checkpointer(model, str(tmp_path)).load_weights(str(path))
    left = [r.message for r in caplog.records if "initial values" in r.message]
    assert left == ["not in the file, left at their initial values: head.weight, head.bias"]
    images = model.eval().normalize(batch(size=64).images)
    library.set_submodule(last, nn.Identity())
    with torch.no_grad():
        torch.testing.assert_close(model.features(images), library(images))


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "tresnet_m"])
def test_weights_of_timm_give_its_features(name):
    timm = pytest.importorskip("timm", reason="timm is an extra: pip install -e '.[timm]'")
    torch.manual_seed(0)
    library = timm.create_model(name)
    model = classifier("build_timm_body", size=224, MODEL__CLASSIFIER__BODY=name).eval()
    loaded = model.load_state_dict(model.rename_weights(library.state_dict()), strict=False)
    assert set(loaded.missing_keys) == {"head.weight", "head.bias"}
    assert not loaded.unexpected_keys
    library.eval().reset_classifier(0)
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(model.features(images), library(images))


def test_only_the_convolutions_of_torchvisions_weights_are_taken_for_maps():
    torch.manual_seed(0)
    library = torchvision.models.vgg11().eval()
    options = {"MODEL__CLASSIFIER__BODY": "vgg11", "MODEL__CLASSIFIER__FEATURE": "maps"}
    model = classifier("build_torchvision_body", size=64, **options).eval()
    loaded = model.load_state_dict(model.rename_weights(library.state_dict()), strict=False)
    assert set(loaded.missing_keys) == {"head.weight", "head.bias"} and not loaded.unexpected_keys
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = library.features(images).mean(dim=(2, 3))
        torch.testing.assert_close(model.features(images), expected)


def test_only_the_last_layer_is_left_out_of_a_librarys_weights():
    body = LibraryBody(nn.Identity(), num_features=1, last_layers=["fc"])
    state = {"fc.weight": 0, "layer1.se.fc.weight": 1}
    assert body.rename_weights(state) == {"model.layer1.se.fc.weight": 1}


def test_a_head_of_another_class_count_starts_anew_with_one_line(tmp_path, caplog):
    model = classifier()
    Checkpointer(model, str(tmp_path)).save("trained")
    other = classifier(MODEL__NUM_CLASSES=3)
    logging.getLogger("anchorkit").propagate = True
    with caplog.at_level(logging.WARNING, logger="anchorkit"):
        Checkpointer(other, str(tmp_path)).load_weights(str(tmp_path / "trained.pth"))
    (line,) = [r.message for r in caplog.records]
    assert "head.weight ([5, 64] in the file, [3, 64] in the model)" in line
    torch.testing.assert_close(other.body.conv1.weight, model.body.conv1.weight)


@pytest.mark.parametrize(
    ("body", "options", "message"),
    [
        ("build_torchvision_body", {"MODEL__CLASSIFIER__BODY": "resnet81"}, "did you mean resnet1"),
        ("build_torchvision_body", {"MODEL__PIXEL_MEAN": [1.0], "MODEL__PIXEL_STD": [1.0]},
         "take 3 channels"),
        ("build_torchvision_body", {"MODEL__CLASSIFIER__FEATURE": "maps"}, "resnet18 does not"),
        ("build_torchvision_body", {"MODEL__CLASSIFIER__BODY": "squeezenet1_1"},
         "no linear layer .*FEATURE to 'maps'"),
        ("build_lightweight_cnn", {"size": 8}, "INPUT.FIXED_SIZE is 8"),
        ("build_wide_resnet", {"MODEL__WIDE_RESNET__DEPTH": 27}, "it must be 6 n [+] 4"),
        ("build_lightweight_cnn", {"MODEL__CLASSIFIER__METHOD": "oats"}, "must be one of"),
        ("build_lightweight_cnn", {"MODEL__CLASSIFIER__FEATURE": "res5"}, "gives features"),
        ("build_lightweight_cnn", {"MODEL__CLASSIFIER__METHOD": "indeed", "INPUT__MIXUP": 0.2},
         "INPUT.MIXUP is 0.2, but INDeeD"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_told(body, options, message):
    with pytest.raises(UserError, match=message):
        classifier(body, **options)
