"""The baseline RetinaNet keeps the contracts of every dense detector."""

import pytest
import torch
from detectron2.modeling import build_model

from anchorkit.config import load_config
from tests import contracts

C = 3


def small_model(norm="BN"):
    """ResNet-18-FPN with 64 channels, and a threshold that lets an untrained detector through."""
    torch.manual_seed(0)
    overrides = [
        *("MODEL.META_ARCHITECTURE", "BaselineRetinaNet"),
        *("MODEL.BACKBONE.NAME", "build_resnet_fpn_p6p7_backbone"),
        *("MODEL.BACKBONE.FREEZE_AT", 0),
        *("MODEL.RESNETS.DEPTH", 18),
        *("MODEL.RESNETS.STEM_OUT_CHANNELS", 32),
        *("MODEL.RESNETS.RES2_OUT_CHANNELS", 32),
        *("MODEL.RESNETS.NORM", norm),
        *("MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"]),
        *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"]),
        *("MODEL.FPN.OUT_CHANNELS", 64),
        *("MODEL.ANCHOR_GENERATOR.SIZES", [[s, s * 1.5] for s in (16.0, 32.0, 64.0, 128.0, 256.0)]),
        *("MODEL.ANCHOR_GENERATOR.OFFSET", 0.5),
        *("MODEL.NUM_CLASSES", C),
        *("MODEL.PIXEL_STD", [57.375, 57.12, 58.395]),
        *("MODEL.DEVICE", "cpu"),
        *("MODEL.RETINANET.NUM_CONVS", 1),
        *("MODEL.RETINANET.NORM", "GN"),
        *("MODEL.RETINANET.SCORE_THRESH_TEST", 0.001),
    ]
    return build_model(load_config("", overrides))


@pytest.mark.parametrize("contract", contracts.CONTRACTS, ids=lambda check: check.__name__[6:])
def test_the_detector_keeps_the_contract(contract):
    contract(small_model(), num_classes=C)


def test_the_loss_does_not_depend_on_what_was_seen_before():
    # detectron2 divides by a running mean of the number of positive anchors.
    model = small_model()
    inputs = [contracts.make_input(num_classes=C)]
    other = [contracts.make_input([[4.0, 4.0, 60.0, 60.0]] * 8, num_classes=C, seed=1)]
    first = contracts.training_losses(model, inputs)
    contracts.training_losses(model, other)
    again = contracts.training_losses(model, inputs)
    assert all(torch.equal(first[name], again[name]) for name in first)
