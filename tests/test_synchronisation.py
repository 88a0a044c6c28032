"""A classifier's step never waits for the device.

On PyTorch's "meta" device tensors have no values: an operation that must read one, for which the
host would have to wait on a GPU, fails there.
"""

import contextlib
import itertools

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer

from anchorkit.config import load_config
from anchorkit.data.image_set import ImageBatch
from anchorkit.training_step import TrainingStep

CONFIGS = ["ce_digits", "oat_digits", "bce_ml_digits_5", "indeed_ml_digits_5"]
B, K = 8, 10


def start(config):
    """A step on the meta device, and its batch."""
    cfg = load_config(
        f"configs/quick/{config}.yaml", ["MODEL.NUM_CLASSES", str(K), "SOLVER.MAX_ITER", "10"]
    )
    model = build_model(cfg)
    if hasattr(model.method, "activate"):
        model.method.activate()
    model.method._is_checked = True  # INDeeD looks at its first batch, once
    model.to("meta")
    size, multi_label = cfg.INPUT.FIXED_SIZE, model.method.is_multi_label
    batch = ImageBatch(
        torch.empty(B, 1, size, size, dtype=torch.uint8, device="meta"),
        torch.empty((B, K) if multi_label else (B,), dtype=torch.int64, device="meta"),
        torch.empty(B, dtype=torch.int64, device="meta"),
        [f"image {i}" for i in range(B)],
    )
    step = TrainingStep(
        model, build_optimizer(cfg, model), accumulation_steps=1, use_amp=False, seed=0
    )
    step.start(itertools.repeat(batch))
    return step


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch):
    """Autocast knows no meta device."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())


@pytest.mark.parametrize("config", CONFIGS)
def test_a_step_reads_nothing_from_the_device(config):
    step = start(config)
    for iteration in range(3):
        step.run(iteration)
    assert all(parameter.grad is not None for parameter in step.model.parameters())


def test_reading_a_value_is_found():
    step = start("ce_digits")
    losses = step.model.method.losses
    step.model.method.losses = lambda *batch: {
        name: loss if loss.item() > 0 else loss for name, loss in losses(*batch).items()
    }
    with pytest.raises(RuntimeError, match="meta"):
        step.run(0)
