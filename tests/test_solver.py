"""The optimizers that a config names."""

import pytest
import torch
from torch import nn

from anchorkit.config import load_config
from anchorkit.errors import UserError
from anchorkit.solver import build_optimizer


def small_model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


@pytest.mark.parametrize(("name", "kind"), [("SGD", torch.optim.SGD), ("AdamW", torch.optim.AdamW)])
@pytest.mark.parametrize("clip", ["True", "False"])
def test_the_named_optimizer_is_built_with_and_without_clipping(name, kind, clip):
    cfg = load_config("", ["SOLVER.OPTIMIZER", name, "SOLVER.CLIP_GRADIENTS.ENABLED", clip])
    model = small_model()
    optimizer = build_optimizer(cfg, model)
    assert isinstance(optimizer, kind)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    model(torch.randn(2, 3, 4, 4)).square().mean().backward()
    optimizer.step()
    pairs = zip(before, model.parameters(), strict=True)
    assert any(not torch.equal(old, new) for old, new in pairs)


def test_normalisation_is_decayed_by_its_own_key():
    cfg = load_config("", ["SOLVER.OPTIMIZER", "AdamW", "SOLVER.WEIGHT_DECAY", "0.05"])
    model = small_model()
    decay = {
        parameter: group["weight_decay"]
        for group in build_optimizer(cfg, model).param_groups
        for parameter in group["params"]
    }
    assert decay[model[0].weight] == 0.05
    assert decay[model[1].weight] == cfg.SOLVER.WEIGHT_DECAY_NORM == 0.0


def test_adamw_is_fused_but_under_mixed_precision_and_steps_as_the_plain_one():
    weights, steps = [], 3
    for amp in ("False", "True"):
        cfg = load_config("", ["SOLVER.OPTIMIZER", "AdamW", "SOLVER.AMP.ENABLED", amp])
        torch.manual_seed(0)
        model = small_model()
        optimizer = build_optimizer(cfg, model)
        assert all(group["fused"] == (amp == "False") for group in optimizer.param_groups)
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.arange(96.0).view(2, 3, 4, 4)).square().mean().backward()
            optimizer.step()
        weights.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(*weights)


def test_an_unknown_optimizer_is_named_with_the_choices():
    cfg = load_config("", ["SOLVER.OPTIMIZER", "Adagrad"])
    with pytest.raises(UserError, match="SOLVER.OPTIMIZER is 'Adagrad'.*'SGD', 'AdamW'"):
        build_optimizer(cfg, small_model())
