"""Focal losses with soft labels, against the loops of tests/reference/focal.py."""

import math

import pytest
import torch
from fvcore.nn import sigmoid_focal_loss

from anchorkit.losses import quality_focal_loss, smoothed_focal_loss, soft_anchor_targets
from tests.reference import focal as oracle

Q, K = 7, 5


def random_case(seed=0, shape=(Q, K)):
    """Logits, soft targets and positives."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator) * 3
    targets = torch.rand(shape, generator=generator)
    return logits, targets, torch.rand(shape, generator=generator) < 0.4


def elementwise(function, *tensors, **options):
    """A loop over the elements of tensors of one shape."""
    values = [
        function(*row, **options)
        for row in zip(*(t.flatten().tolist() for t in tensors), strict=True)
    ]
    return torch.tensor(values, dtype=torch.float32).reshape(tensors[0].shape)


# --- eq. 2 ---


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_soft_targets_are_those_of_equation_2(sigma):
    ious = torch.rand(Q, K, generator=torch.Generator().manual_seed(1))
    expected = torch.tensor([oracle.soft_targets(row, sigma) for row in ious.tolist()])
    torch.testing.assert_close(soft_anchor_targets(ious, sigma), expected)


def test_the_best_anchor_of_a_location_has_target_one():
    ious = torch.rand(Q, K, generator=torch.Generator().manual_seed(2)) * 0.9 + 0.01
    targets = soft_anchor_targets(ious, 0.9)
    assert torch.equal(targets.max(dim=1).values, torch.ones(Q))
    assert torch.equal(targets.argmax(dim=1), ious.argmax(dim=1))


def test_a_lower_sigma_lifts_the_targets_of_the_other_anchors():
    # The column of the specification for an IoU ratio of one half.
    ious = torch.tensor([[0.8, 0.4]])
    for sigma, expected in ((0.1, 0.93), (0.3, 0.81), (0.5, 0.71), (0.7, 0.62), (0.9, 0.54)):
        assert soft_anchor_targets(ious, sigma)[0, 1].item() == pytest.approx(expected, abs=0.005)


def test_a_location_where_no_refined_anchor_overlaps_has_targets_zero():
    targets = soft_anchor_targets(torch.zeros(2, K), 0.9)
    assert torch.equal(targets, torch.zeros(2, K))
    small = soft_anchor_targets(torch.tensor([[2e-3, 1e-3]]), 1.0)
    torch.testing.assert_close(small, torch.tensor([[1.0, 0.5]]))
    tiny = soft_anchor_targets(torch.full((1, 2), 1e-9), 0.9)
    assert torch.isfinite(tiny).all() and (tiny < 0.01).all()


def test_one_anchor_a_location_has_target_one_and_no_location_gives_no_target():
    assert torch.equal(soft_anchor_targets(torch.tensor([[0.6], [0.7]]), 0.9), torch.ones(2, 1))
    assert soft_anchor_targets(torch.zeros(0, K), 0.9).shape == (0, K)


# --- eq. 3 and its relatives ---


@pytest.mark.parametrize(("alpha", "beta"), [(0.25, 2.0), (0.25, 1.0), (0.5, 1.5)])
def test_smoothed_focal_loss_is_that_of_equation_3(alpha, beta):
    case = random_case()
    expected = elementwise(oracle.smoothed_focal_loss, *case, alpha=alpha, beta=beta)
    actual = smoothed_focal_loss(*case, alpha=alpha, beta=beta)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_quality_focal_loss_is_that_of_the_loop(beta):
    case = random_case(3)
    expected = elementwise(oracle.quality_focal_loss, *case, beta=beta)
    torch.testing.assert_close(quality_focal_loss(*case, beta=beta), expected)


@pytest.mark.parametrize(("alpha", "beta"), [(0.25, 2.0), (0.25, 1.0)])
def test_with_targets_of_one_the_smoothed_focal_loss_is_the_focal_loss(alpha, beta):
    logits, _, is_positive = random_case(4)
    actual = smoothed_focal_loss(
        logits, torch.ones_like(logits), is_positive, alpha=alpha, beta=beta
    )
    expected = sigmoid_focal_loss(logits, is_positive.float(), alpha=alpha, gamma=beta)
    torch.testing.assert_close(actual, expected)
    loop = elementwise(oracle.focal_loss, logits, is_positive, alpha=alpha, beta=beta)
    torch.testing.assert_close(actual, loop)


def test_only_positives_look_at_the_soft_target():
    logits, targets, is_positive = random_case(5)
    first = smoothed_focal_loss(logits, targets, is_positive, alpha=0.25, beta=2.0)
    other = targets.where(is_positive, torch.full_like(targets, 0.123))
    second = smoothed_focal_loss(logits, other, is_positive, alpha=0.25, beta=2.0)
    assert torch.equal(first, second)
    first = quality_focal_loss(logits, targets, is_positive, beta=2.0)
    assert torch.equal(first, quality_focal_loss(logits, other, is_positive, beta=2.0))


def value_and_gradient(loss, logit, target, is_positive=True, **options):
    x = torch.tensor([logit], requires_grad=True)
    value = loss(x, torch.tensor([target]), torch.tensor([is_positive]), **options)
    value.sum().backward()
    return value.item(), x.grad.item()


@pytest.mark.parametrize("target", [0.2, 0.5, 0.8])
def test_value_and_gradient_vanish_where_the_probability_is_the_target(target):
    logit = math.log(target / (1 - target))
    value, gradient = value_and_gradient(smoothed_focal_loss, logit, target, alpha=0.25, beta=2.0)
    assert abs(value) < 1e-10 and abs(gradient) < 1e-5
    value, gradient = value_and_gradient(quality_focal_loss, logit, target, beta=2.0)
    assert abs(value) < 1e-10 and abs(gradient) < 1e-5


@pytest.mark.parametrize("loss", [smoothed_focal_loss, quality_focal_loss])
@pytest.mark.parametrize("beta", [1.0, 1.5, 2.0])
def test_the_gradient_is_finite_at_the_target_itself(loss, beta):
    # sigmoid(0) is exactly one half, where |target - p|^beta has its kink.
    options = {"beta": beta} | ({"alpha": 0.25} if loss is smoothed_focal_loss else {})
    value, gradient = value_and_gradient(loss, 0.0, 0.5, **options)
    assert abs(value) < 1e-12 and math.isfinite(gradient)


def test_the_smoothed_focal_loss_has_a_second_zero_at_probability_one():
    value, gradient = value_and_gradient(smoothed_focal_loss, 30.0, 0.6, alpha=0.25, beta=2.0)
    assert abs(value) < 1e-10 and abs(gradient) < 1e-10
    # It is not so for the quality focal loss, which keeps the other half of the cross entropy.
    value, gradient = value_and_gradient(quality_focal_loss, 30.0, 0.6, beta=2.0)
    assert value > 1 and gradient > 0.01


@pytest.mark.parametrize(
    ("target", "barrier"), [(0.5, 0.82), (0.6, 0.86), (0.7, 0.90), (0.8, 0.93), (0.9, 0.97)]
)
def test_the_gradient_turns_towards_one_at_the_known_barrier(target, barrier):
    def gradient(p):
        logit = math.log(p / (1 - p))
        options = {"alpha": 0.25, "beta": 2.0}
        return value_and_gradient(smoothed_focal_loss, logit, target, **options)[1]

    assert gradient(target - 0.05) < 0  # pulled up to the target
    assert gradient(barrier - 0.012) > 0  # pulled back to it
    assert gradient(barrier + 0.012) < 0  # pushed on to 1


@pytest.mark.parametrize("seed", range(3))
def test_gradients_are_the_slopes_of_the_oracle(seed):
    logits, targets, is_positive = random_case(seed)
    for loss, slow, options in (
        (smoothed_focal_loss, oracle.smoothed_focal_loss, {"alpha": 0.25, "beta": 2.0}),
        (quality_focal_loss, oracle.quality_focal_loss, {"beta": 2.0}),
    ):
        x = logits.clone().requires_grad_()
        loss(x, targets, is_positive, **options).sum().backward()

        def slope(logit, target, positive, slow=slow, options=options, step=1e-5):
            above = slow(logit + step, target, positive, **options)
            return (above - slow(logit - step, target, positive, **options)) / (2 * step)

        expected = elementwise(slope, logits, targets, is_positive)
        torch.testing.assert_close(x.grad, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("is_positive", [True, False])
@pytest.mark.parametrize("logit", [-1e4, -100.0, -17.5, 17.5, 100.0, 1e4])
def test_saturated_logits_have_the_loss_of_the_loop_and_a_finite_gradient(logit, is_positive):
    for loss, slow, options in (
        (smoothed_focal_loss, oracle.smoothed_focal_loss, {"alpha": 0.25, "beta": 2.0}),
        (quality_focal_loss, oracle.quality_focal_loss, {"beta": 2.0}),
    ):
        value, gradient = value_and_gradient(loss, logit, 0.7, is_positive, **options)
        expected = slow(logit, 0.7, is_positive, **options)
        assert value == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert math.isfinite(gradient)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_give_a_loss_in_single_precision(dtype):
    logits, targets, is_positive = random_case(6)
    logits = logits.to(dtype)
    for loss, options in (
        (smoothed_focal_loss, {"alpha": 0.25, "beta": 2.0}),
        (quality_focal_loss, {"beta": 2.0}),
    ):
        result = loss(logits, targets, is_positive, **options)
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, loss(logits.float(), targets, is_positive, **options))
        with torch.autocast("cpu", torch.bfloat16):
            under_autocast = loss(logits, targets, is_positive, **options)
        assert under_autocast.dtype == torch.float32
        torch.testing.assert_close(under_autocast, result)


def test_nan_logits_and_empty_input_are_no_errors():
    logits, targets, is_positive = random_case(7)
    logits[0, 0] = math.nan
    result = smoothed_focal_loss(logits, targets, is_positive, alpha=0.25, beta=2.0)
    assert result[0, 0].isnan() and result.isnan().sum() == 1
    assert quality_focal_loss(logits, targets, is_positive, beta=2.0).isnan().sum() == 1
    empty = (torch.zeros(0, K), torch.zeros(0, K), torch.zeros(0, K, dtype=torch.bool))
    assert smoothed_focal_loss(*empty, alpha=0.25, beta=2.0).shape == (0, K)
    assert quality_focal_loss(*empty, beta=2.0).shape == (0, K)
