"""Average precision, precision and recall against scikit-learn and against loops."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from anchorkit.evaluation.average_precision import (
    average_precisions,
    highest_classes,
    precision_recall,
)
from tests.reference import multi_label as oracle


def random_pairs(seed, num_images=40, num_classes=6, levels=4, values=(-1, 0, 0, 1)):
    """Outputs (N, K) of few different values if there are ``levels``, and labels (N, K)."""
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(num_images, num_classes, generator=generator)
    if levels is not None:
        outputs = torch.randint(levels, outputs.shape, generator=generator) - levels / 2 + 0.25
    chosen = torch.randint(len(values), outputs.shape, generator=generator)
    return outputs, torch.tensor(values, dtype=torch.int8)[chosen]


def listed(values):
    return [None if math.isnan(value) else value for value in values.tolist()]


@pytest.mark.parametrize("levels", [None, 1, 2, 5])
@pytest.mark.parametrize("num_images", [1, 2, 7, 60])
def test_average_precisions_are_those_of_the_loops(num_images, levels):
    outputs, labels = random_pairs(num_images, num_images, 8, levels)
    labels[:, 2] = labels[:, 2].clamp(max=0)
    area, voc = average_precisions(outputs, labels)
    columns = list(zip(outputs.T.tolist(), labels.T.tolist(), strict=True))
    expected = [oracle.average_precision(*pair) for pair in columns]
    assert listed(area) == pytest.approx(expected) and expected[2] is None
    assert listed(voc) == pytest.approx([oracle.voc_average_precision(*pair) for pair in columns])
    assert area.dtype == voc.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(6))
def test_they_are_those_of_scikit_learn(seed, dtype):
    outputs, labels = random_pairs(seed, 200, 5, levels=None if seed % 2 else 7, values=(-1, 0, 1))
    # Logits whose sigmoids are all 1 in float32 still have an order.
    outputs = (outputs * 40).to(dtype)
    area, _ = average_precisions(outputs, labels)
    for index in range(5):
        is_known = labels[:, index] >= 0
        expected = average_precision_score(
            labels[is_known, index].numpy(), outputs[is_known, index].numpy()
        )
        assert area[index] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_the_images_plays_no_part(seed):
    outputs, labels = random_pairs(seed, 50, 6, levels=3)
    expected = average_precisions(outputs, labels)
    orders = [torch.randperm(50, generator=torch.Generator().manual_seed(seed)),
              labels[:, 0].argsort(), labels[:, 0].argsort(descending=True)]  # fmt: skip
    for order in orders:
        actual = average_precisions(outputs[order], labels[order])
        for first, second in zip(actual, expected, strict=True):
            assert torch.equal(first, second)


def test_what_is_not_known_is_not_ranked():
    outputs, labels = random_pairs(0, 30, 1, levels=None)
    is_known = labels[:, 0] >= 0
    area, _ = average_precisions(outputs, labels)
    assert torch.equal(area, average_precisions(outputs[is_known], labels[is_known])[0])
    as_negative, _ = average_precisions(outputs, labels.clamp(min=0))
    assert area.item() > as_negative.item()


def test_simple_rankings_have_the_figures_that_one_can_write_down():
    outputs = torch.tensor([[4.0, 1, 4], [3, 2, 3], [2, 3, 2], [1, 4, 1]])
    labels = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 0, 0], [0, 0, 1]])
    area, voc = average_precisions(outputs, labels)
    assert area.tolist() == pytest.approx([1, 1 / 4, (1 / 2 + 2 / 4) / 2])
    assert voc.tolist() == pytest.approx([1, 1 / 4, 1 / 2])
    # Three of ten found without an error: the recalls 0, 0.1, 0.2 and 0.3 have precision 1.
    outputs = torch.tensor([9.0] * 3 + [0.0] * 17)[:, None]
    labels = torch.tensor([1] * 3 + [1] * 7 + [0] * 10)[:, None]
    _, voc = average_precisions(outputs, labels)
    assert voc.item() == pytest.approx((4 * 1 + 7 * 0.5) / 11)


def test_no_images_and_no_positives_have_no_figure():
    for labels in (torch.zeros(0, 3), torch.zeros(5, 3), -torch.ones(5, 3)):
        area, voc = average_precisions(torch.randn(labels.shape), labels.to(torch.int8))
        assert area.isnan().all() and voc.isnan().all() and area.shape == voc.shape == (3,)
        assert precision_recall(torch.ones(labels.shape, dtype=torch.bool), labels) == {}


@pytest.mark.parametrize("seed", range(6))
def test_precision_and_recall_are_those_of_the_loops(seed):
    outputs, labels = random_pairs(seed, 20, 7)
    labels[:, 3] = labels[:, 3].clamp(max=0)
    outputs[:, 4] = -1.0  # never predicted
    labels[0, 4] = 1
    expected = oracle.precision_recall((outputs > 0).tolist(), labels.tolist())
    assert precision_recall(outputs > 0, labels) == pytest.approx(expected)
    for number in (1, 3, 7):
        top = highest_classes(outputs, labels, number)
        assert top.tolist() == oracle.top(outputs.tolist(), labels.tolist(), number)
        assert top.sum(dim=1).tolist() == (labels >= 0).sum(dim=1).clamp(max=number).tolist()


def test_they_are_those_of_scikit_learn_where_all_is_known():
    outputs, labels = random_pairs(1, 50, 6, levels=None, values=(0, 1))
    labels, predicted = labels.numpy(), (outputs > 0).numpy()
    figures = precision_recall(outputs > 0, torch.from_numpy(labels))
    for average, kind in (("macro", "C"), ("micro", "O")):
        precision, recall, f1, _ = precision_recall_fscore_support(
            labels, predicted, average=average
        )
        assert [figures[f"{kind}P"], figures[f"{kind}R"]] == pytest.approx(
            [100 * precision, 100 * recall]
        )
        if kind == "O":
            assert figures["OF1"] == pytest.approx(100 * f1)
    assert figures["CF1"] == pytest.approx(2 / (1 / figures["CP"] + 1 / figures["CR"]))


def test_nothing_predicted_is_no_precision_rather_than_an_error():
    labels = torch.tensor([[1, 0], [0, 1]])
    figures = precision_recall(torch.zeros(2, 2, dtype=torch.bool), labels)
    assert set(figures.values()) == {0.0} and np.isfinite(list(figures.values())).all()
