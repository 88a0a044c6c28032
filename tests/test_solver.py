"""The optimizers and schedules that a config names, by loops; saved, loaded, and refused."""

import io
from pathlib import Path

import pytest
import torch
import torchvision
from detectron2.engine import DefaultTrainer
from torch import nn

from anchorkit.config import load_config
from anchorkit.engine import resolve_epochs
from anchorkit.errors import UserError
from anchorkit.solver import (
    build_lr_scheduler,
    build_optimizer,
    check_schedule,
    load_schedule,
    scale_learning_rate,
)
from tests.reference.schedules import adam, one_cycle, steps_after_epochs, warm_restarts

DIGITS = str(Path(__file__).resolve().parents[1] / "configs" / "quick" / "ce_digits.yaml")


def small_model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("SGD", torch.optim.SGD), ("Adam", torch.optim.Adam), ("AdamW", torch.optim.AdamW)],
)
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


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_normalisation_is_decayed_by_its_own_key(name):
    cfg = load_config("", ["SOLVER.OPTIMIZER", name, "SOLVER.WEIGHT_DECAY", "0.05"])
    model = small_model()
    decay = {
        parameter: group["weight_decay"]
        for group in build_optimizer(cfg, model).param_groups
        for parameter in group["params"]
    }
    assert decay[model[0].weight] == 0.05
    assert decay[model[1].weight] == cfg.SOLVER.WEIGHT_DECAY_NORM == 0.0


def test_the_position_biases_of_swin_are_not_decayed():
    model = torchvision.models.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [7, 7])
    cfg = load_config("", ["SOLVER.OPTIMIZER", "AdamW", "SOLVER.WEIGHT_DECAY", "0.05"])
    decay = {
        parameter: group["weight_decay"]
        for group in build_optimizer(cfg, model).param_groups
        for parameter in group["params"]
    }
    attention = model.features[1][0].attn
    assert decay[attention.relative_position_bias_table] == 0.0
    assert decay[attention.qkv.weight] == 0.05


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_adam_is_fused_but_under_mixed_precision_and_steps_as_the_plain_one(name):
    weights, steps = [], 3
    for amp in ("False", "True"):
        cfg = load_config("", ["SOLVER.OPTIMIZER", name, "SOLVER.AMP.ENABLED", amp])
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
    with pytest.raises(UserError, match="SOLVER.OPTIMIZER is 'Adagrad'.*'SGD', 'Adam', 'AdamW'"):
        build_optimizer(cfg, small_model())


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_adam_adds_the_decay_to_the_gradient_and_adamw_takes_it_off_the_weight(name):
    cfg = load_config("", ["SOLVER.OPTIMIZER", name, "SOLVER.BASE_LR", "0.01",
                           "SOLVER.WEIGHT_DECAY", "0.2"])  # fmt: skip
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.7)
    optimizer = build_optimizer(cfg, model)
    gradients = [0.3, -0.1, 0.02, 0.5]
    for gradient in gradients:
        model.weight.grad = torch.tensor([[gradient]])
        optimizer.step()
    expected = adam(0.7, gradients, 0.01, 0.2, decoupled=name == "AdamW")
    assert model.weight.item() == pytest.approx(expected, rel=1e-5)


def started(*overrides):
    """An optimizer and its schedule of 12 iterations, no warm-up, for the config's overrides."""
    cfg = load_config("", ["SOLVER.MAX_ITER", "12", "SOLVER.STEPS", "()", "SOLVER.BASE_LR", "0.1",
                           "SOLVER.WARMUP_ITERS", "0", *overrides])  # fmt: skip
    torch.manual_seed(0)
    model = small_model()
    optimizer = build_optimizer(cfg, model)
    return model, optimizer, build_lr_scheduler(cfg, optimizer)


def run(model, optimizer, scheduler, number):
    """(rate, momentum or first beta) of each of so many iterations, made as the trainer does."""
    seen = []
    for _ in range(number):
        group = optimizer.param_groups[0]
        seen.append((group["lr"], group["betas"][0] if "betas" in group else group["momentum"]))
        optimizer.zero_grad()
        model(torch.arange(96.0).view(2, 3, 4, 4)).square().mean().backward()
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize("multiply", [1, 2, 3])
def test_sgdr_is_a_row_of_half_cosines(multiply):
    parts = started("SOLVER.LR_SCHEDULER_NAME", "SGDR", "SOLVER.SGDR.ITERS", "3",
                    "SOLVER.SGDR.MULTIPLY", str(multiply))  # fmt: skip
    rates = [rate for rate, _ in run(*parts, 40)]
    assert rates == pytest.approx(warm_restarts(0.1, 3, multiply, 40))
    assert rates[3] == pytest.approx(0.1), "the first restart"


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("number", [1, 2, 12, 50])
def test_one_cycle_goes_up_to_the_base_rate_and_down_with_the_momentum_opposite(optimizer, number):
    parts = started("SOLVER.LR_SCHEDULER_NAME", "OneCycleLR", "SOLVER.OPTIMIZER", optimizer,
                    "SOLVER.MAX_ITER", str(number))  # fmt: skip
    rates, momenta = zip(*run(*parts, number), strict=True)
    expected = one_cycle(0.1, number)
    assert rates == pytest.approx(expected[0], rel=1e-6)
    assert momenta == pytest.approx(expected[1], rel=1e-6)
    if number == 50:
        assert max(rates) == pytest.approx(0.1) and rates[14] == max(rates)


def test_one_cycle_keeps_the_factor_of_biases():
    _, optimizer, _ = started("SOLVER.LR_SCHEDULER_NAME", "OneCycleLR",
                              "SOLVER.BIAS_LR_FACTOR", "2.0")  # fmt: skip
    assert {group["max_lr"] for group in optimizer.param_groups} == {0.1, 0.2}


# Five epochs of 45 iterations.
OF_DIGITS = ("SOLVER.MAX_EPOCHS", "5", "SOLVER.BASE_LR", "0.1", "SOLVER.GAMMA", "0.5")


def of_digits(*overrides):
    return load_config(DIGITS, [*OF_DIGITS, *overrides])


@pytest.mark.parametrize("every", [1, 2, 5, 9])
def test_the_rate_falls_after_every_so_many_epochs(every):
    cfg = of_digits("SOLVER.STEP_EPOCHS", str(every))
    resolve_epochs(cfg)
    assert cfg.SOLVER.MAX_ITER == 225
    optimizer = build_optimizer(cfg, small_model())
    parts = small_model(), optimizer, build_lr_scheduler(cfg, optimizer)
    rates = [rate for rate, _ in run(*parts, 225)]
    assert rates == pytest.approx(steps_after_epochs(0.1, 0.5, every, 45, 5))


def test_steps_count_where_no_epochs_are_given():
    cfg = of_digits("SOLVER.STEPS", "(7, 20)")
    resolve_epochs(cfg)
    assert cfg.SOLVER.STEPS == (7, 20)


def test_many_steps_fall_where_they_should_in_a_long_run():
    """300 epochs of 391 iterations: fvcore's share of the training is exact enough."""
    cfg = load_config("", ["SOLVER.MAX_ITER", str(300 * 391), "SOLVER.GAMMA", "0.99",
                           "SOLVER.STEPS", str(tuple(range(391, 300 * 391, 391))),
                           "SOLVER.WARMUP_ITERS", "0"])  # fmt: skip
    optimizer = build_optimizer(cfg, small_model())
    scheduler = build_lr_scheduler(cfg, optimizer)
    for epoch in range(1, 300):
        for iteration in (epoch * 391 - 1, epoch * 391):
            scheduler.last_epoch = iteration
            expected = cfg.SOLVER.BASE_LR * 0.99 ** (iteration // 391)
            assert scheduler.get_lr()[0] == pytest.approx(expected, rel=1e-9)


def test_the_first_cycle_is_given_in_epochs_or_in_iterations():
    cfg = of_digits("SOLVER.LR_SCHEDULER_NAME", "SGDR", "SOLVER.SGDR.EPOCHS", "2")
    resolve_epochs(cfg)
    assert cfg.SOLVER.SGDR.ITERS == 90
    cfg = of_digits("SOLVER.LR_SCHEDULER_NAME", "SGDR", "SOLVER.SGDR.EPOCHS", "0",
                    "SOLVER.SGDR.ITERS", "11")  # fmt: skip
    resolve_epochs(cfg)
    assert build_lr_scheduler(cfg, build_optimizer(cfg, small_model())).T_0 == 11


NAMES = ["WarmupMultiStepLR", "WarmupCosineLR", "SGDR", "OneCycleLR"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("half", [1, 4, 11])
def test_a_resumed_run_has_the_rates_momenta_and_weights_of_one_that_was_not(name, optimizer, half):
    overrides = ("SOLVER.LR_SCHEDULER_NAME", name, "SOLVER.OPTIMIZER", optimizer,
                 "SOLVER.STEPS", "(3, 5, 9)", "SOLVER.SGDR.ITERS", "2")  # fmt: skip
    whole = started(*overrides)
    expected = run(*whole, 12)
    model, first, schedule = started(*overrides)
    assert run(model, first, schedule, half) == expected[:half]
    file = io.BytesIO()
    torch.save([model.state_dict(), first.state_dict(), schedule.state_dict()], file)
    file.seek(0)
    states = torch.load(file, weights_only=True)
    resumed = started(*overrides)
    for part, state in zip(resumed[:2], states[:2], strict=True):
        part.load_state_dict(state)
    load_schedule(resumed[2], states[2])
    assert run(*resumed, 12 - half) == expected[half:]
    for name, value in whole[0].state_dict().items():
        assert torch.equal(value, resumed[0].state_dict()[name])


@pytest.mark.parametrize(("before", "after"), [
    (("OneCycleLR",), ("OneCycleLR", "SOLVER.MAX_ITER", "13")),
    (("SGDR", "SOLVER.SGDR.ITERS", "3"), ("SGDR", "SOLVER.SGDR.ITERS", "4")),
    (("SGDR", "SOLVER.SGDR.ITERS", "3"), ("OneCycleLR",)),
    (("OneCycleLR",), ("WarmupCosineLR",)),
])  # fmt: skip
def test_a_schedule_of_another_length_is_not_gone_on_with(before, after):
    one, other = (started("SOLVER.LR_SCHEDULER_NAME", *words)[2] for words in (before, after))
    with pytest.raises(ValueError, match="the schedule's lengths in iterations are"):
        load_schedule(other, one.state_dict())


@pytest.mark.parametrize(("overrides", "message"), [
    (("SOLVER.LR_SCHEDULER_NAME", "Cosine"),
     "LR_SCHEDULER_NAME is 'Cosine'; .* 'WarmupMultiStepLR', .* 'SGDR', 'OneCycleLR'"),
    (("SOLVER.STEP_EPOCHS", "-1"), "SOLVER.STEP_EPOCHS is -1; .* at least 0"),
    (("SOLVER.STEP_EPOCHS", "1", "SOLVER.LR_SCHEDULER_NAME", "SGDR"), "'SGDR' has no steps"),
    (("SOLVER.SGDR.MULTIPLY", "0"), "SOLVER.SGDR.MULTIPLY is 0; .* at least 1"),
    (("SOLVER.SGDR.EPOCHS", "-2"), "SOLVER.SGDR.EPOCHS is -2"),
    (("SOLVER.SGDR.EPOCHS", "0", "SOLVER.LR_SCHEDULER_NAME", "SGDR"), "length of its first cycle"),
])  # fmt: skip
def test_a_schedule_that_makes_no_sense_is_named(overrides, message):
    with pytest.raises(UserError, match=message):
        check_schedule(load_config("", overrides))


@pytest.mark.parametrize(("overrides", "key"), [
    (("SOLVER.LR_SCHEDULER_NAME", "SGDR"), "SOLVER.SGDR.EPOCHS is 20"),
    (("SOLVER.STEP_EPOCHS", "1"), "SOLVER.STEP_EPOCHS is 1"),
    (("SOLVER.MAX_EPOCHS", "3"), "SOLVER.MAX_EPOCHS is 3"),
])  # fmt: skip
def test_a_detector_counts_no_epochs(overrides, key):
    with pytest.raises(UserError, match=f"{key}, but only a classifier counts epochs"):
        resolve_epochs(load_config("", overrides))
    cfg = load_config("", [])
    before = cfg.clone()
    resolve_epochs(cfg)
    assert cfg == before


BATCH = ("SOLVER.BASE_LR", "0.01", "SOLVER.IMS_PER_BATCH", "8", "SOLVER.ACCUMULATION_STEPS", "4",
         "SOLVER.WARMUP_ITERS", "7")  # fmt: skip


def test_the_rate_is_scaled_to_the_images_of_a_step_once():
    cfg = load_config("", [*BATCH, "SOLVER.REFERENCE_BATCH", "16"])
    assert "0.01 is for 16 images a step" in scale_learning_rate(cfg)
    assert cfg.SOLVER.BASE_LR == pytest.approx(0.02) and cfg.SOLVER.WARMUP_ITERS == 7
    scale_learning_rate(cfg)
    assert cfg.SOLVER.BASE_LR == pytest.approx(0.02), "a config that was written out stays"


def test_the_rate_stays_without_a_reference():
    cfg = load_config("", BATCH)
    assert scale_learning_rate(cfg) == "" and cfg.SOLVER.BASE_LR == 0.01
    with pytest.raises(UserError, match="SOLVER.REFERENCE_BATCH is -1"):
        scale_learning_rate(load_config("", ["SOLVER.REFERENCE_BATCH", "-1"]))


def test_the_reference_world_size_scales_what_comes_out_with_its_batch():
    options = ["SOLVER.REFERENCE_BATCH", "16", "SOLVER.REFERENCE_WORLD_SIZE", "4"]
    cfg = load_config("", [*BATCH, *options])
    scale_learning_rate(cfg)
    scaled = DefaultTrainer.auto_scale_workers(cfg, 2)
    images = scaled.SOLVER.IMS_PER_BATCH * scaled.SOLVER.ACCUMULATION_STEPS
    assert images == 16 and scaled.SOLVER.BASE_LR == pytest.approx(0.01)
