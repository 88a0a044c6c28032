"""The validation loss by a loop, and without a trace in the training beside it."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from anchorkit.config import load_config
from anchorkit.data import load_dataset, register_datasets
from anchorkit.data.mapper import resize_augmentations
from anchorkit.errors import UserError
from anchorkit.evaluation import validation_losses
from tests.test_train_net import REPO, _leave_no_trace, differing, tiny, train_here  # noqa: F401

QUICK = REPO / "configs" / "quick"
EPOCHS = ("SOLVER.MAX_EPOCHS", "2", "TEST.EVAL_EPOCHS", "1")
TRAININGS = {
    "detector with batch norm and averaged weights": (None, ("TEST.EVAL_PERIOD", "4")),
    "detectron2's normaliser": (
        None,
        ("TEST.EVAL_PERIOD", "4", "MODEL.META_ARCHITECTURE", "RetinaNet",
         "MODEL.RETINANET.NUM_CLASSES", "3"),
    ),
    "dropout and the centre of OAT": (
        "oat_digits.yaml",
        (*EPOCHS, "MODEL.OAT.PRETRAIN_EPOCHS", "1", "MODEL.CLASSIFIER.DROPOUT", "0.3"),
    ),
    "the pairs and the ramp of INDeeD": ("indeed_ml_digits_5.yaml", EPOCHS),
}  # fmt: skip


@pytest.fixture
def scenes(tiny):  # noqa: F811
    """Config and model of the tiny set, with batch statistics that differ from those at the start.

    Batches of one image, so that their order plays no part.
    """
    cfg = load_config(str(tiny), ["SOLVER.IMS_PER_BATCH", "1", "MODEL.DEVICE", "cpu"])
    register_datasets(cfg)
    torch.manual_seed(0)
    model = build_model(cfg)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
    return cfg, model


def loop(cfg, model):
    """Mean losses of the images one by one, each layer but the model itself in evaluation."""
    mapper = DatasetMapper(
        is_train=True, augmentations=resize_augmentations(cfg), image_format=cfg.INPUT.FORMAT
    )
    for child in model.children():
        child.eval()
    losses = []
    with torch.no_grad(), EventStorage():
        losses += [model([mapper(image)]) for image in load_dataset(cfg.DATASETS.TEST[0])[0]]
    return {name: float(np.mean([float(one[name]) for one in losses])) for name in losses[0]}


def test_it_is_the_mean_of_the_training_losses_without_augmentation(scenes):
    cfg, model = scenes
    found = validation_losses(cfg, model, cfg.DATASETS.TEST[0])
    expected = loop(cfg, model)
    assert found.pop("loss") == pytest.approx(sum(expected.values()), rel=1e-5)
    assert found == pytest.approx(expected, rel=1e-5)


def test_model_mode_and_random_states_stay_as_they_are(scenes):
    cfg, model = scenes
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    validation_losses(cfg, model, cfg.DATASETS.TEST[0])
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]
    assert differing(before, model.state_dict()) == []
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("case", TRAININGS)
def test_a_training_with_it_ends_with_the_weights_of_one_without(case, tiny, tmp_path):  # noqa: F811
    config, options = TRAININGS[case]
    config = QUICK / config if config else tiny
    ends = {}
    for on in ("True", "False"):
        train_here(config, tmp_path / on, "TEST.VALIDATION_LOSS", on, "TEST.NUM_PICTURES", "0",
                   "SOLVER.METRIC_PERIOD", "1", *options)  # fmt: skip
        ends[on] = torch.load(tmp_path / on / "model_final.pth", weights_only=True)
    assert differing(ends["True"], ends["False"]) == []
    logged = Path(tmp_path / "True" / "metrics.json").read_text()
    assert logged.count('"validation/loss":') == 2
    assert '"validation/loss_' in logged
    assert "validation" not in Path(tmp_path / "False" / "metrics.json").read_text()


def test_other_models_and_sets_without_boxes_are_refused(scenes, monkeypatch):
    cfg, model = scenes
    with pytest.raises(UserError, match="dense detectors and classifiers, not for Linear"):
        validation_losses(cfg, nn.Linear(1, 1), cfg.DATASETS.TEST[0])
    bare = [{**image, "annotations": []} for image in load_dataset(cfg.DATASETS.TEST[0])[0]]
    monkeypatch.setattr("anchorkit.data.validation.load_dataset", lambda name: (bare, []))
    with pytest.raises(UserError, match="tiny_boxes has no boxes"):
        validation_losses(cfg, model, cfg.DATASETS.TEST[0])
