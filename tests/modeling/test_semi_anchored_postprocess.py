"""Which anchors of a location go on to NMS (Table 6)."""

import math

import pytest
import torch

from anchorkit.modeling.postprocess import select_anchors
from tests.reference import semi_anchored_detector as oracle

P, K = 50, 6


def random_logits(seed=0, count=P, num_anchors=K):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, num_anchors, generator=generator) * 2


def pairs(scores, indices):
    """Per location the selected anchors as (index, score), in order of the index."""
    return [
        sorted((k, s) for s, k in zip(row_s, row_k, strict=True) if s > 0)
        for row_s, row_k in zip(scores.tolist(), indices.tolist(), strict=True)
    ]


def check(logits, **options):
    actual = pairs(*select_anchors(logits, **{"topk": 1, "threshold": 0.1} | options))
    for row, chosen in zip(logits.tolist(), actual, strict=True):
        expected = sorted((k, s) for s, k in oracle.select_anchors(row, **options))
        assert [k for k, _ in chosen] == [k for k, _ in expected]
        assert [s for _, s in chosen] == pytest.approx([s for _, s in expected], rel=1e-5)
    return actual


@pytest.mark.parametrize("topk", [1, 2, 5, 6])
def test_top_k_selects_the_most_probable_anchors(topk):
    chosen = check(random_logits(), selection="top", topk=topk)
    assert {len(row) for row in chosen} == {topk}


def test_top_k_with_fewer_anchors_than_k_selects_all_of_them():
    scores, indices = select_anchors(
        random_logits(num_anchors=2), selection="top", topk=5, threshold=0.0
    )
    assert scores.shape == indices.shape == (P, 2)
    check(random_logits(num_anchors=2), selection="top", topk=5)


@pytest.mark.parametrize("threshold", [0.1, 0.2, 0.5, 0.0])
def test_positive_selects_all_anchors_above_the_threshold(threshold):
    chosen = check(random_logits(1), selection="positive", threshold=threshold)
    lengths = {len(row) for row in chosen}
    assert lengths == {K} if threshold == 0 else len(lengths) > 2


def test_an_anchor_at_the_threshold_itself_is_not_above_it():
    logits = torch.tensor([[0.0, 1.0]])
    scores, indices = select_anchors(logits, selection="positive", topk=1, threshold=0.5)
    assert [k for k, _ in pairs(scores, indices)[0]] == [1]


def test_positive_may_select_no_anchor_at_all():
    scores, _ = select_anchors(
        torch.full((4, K), -5.0), selection="positive", topk=1, threshold=0.5
    )
    assert not scores.any()


def test_top_1_is_positive_0_restricted_to_the_most_probable_anchor():
    logits = random_logits(2)
    scores, indices = select_anchors(logits, selection="top", topk=1, threshold=0.0)
    everything = pairs(*select_anchors(logits, selection="positive", topk=1, threshold=0.0))
    for row, score, index in zip(everything, scores[:, 0], indices[:, 0], strict=True):
        assert max(row, key=lambda pair: pair[1]) == (index.item(), score.item())
    assert torch.equal(indices[:, 0], logits.argmax(dim=1))


def test_random_selects_one_anchor_of_score_one_by_the_generator():
    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return select_anchors(
            random_logits(count=2000),
            selection="random",
            topk=1,
            threshold=0.0,
            generator=generator,
        )

    scores, indices = draw(0)
    assert scores.shape == indices.shape == (2000, 1)
    assert torch.equal(scores, torch.ones(2000, 1))
    counts = torch.bincount(indices[:, 0], minlength=K)
    assert len(counts) == K and counts.min() > 240 and counts.max() < 430  # 333 expected
    assert torch.equal(indices, draw(0)[1])
    assert not torch.equal(indices, draw(1)[1])


@pytest.mark.parametrize("selection", ["top", "positive", "random"])
def test_one_anchor_a_location_is_always_that_anchor(selection):
    scores, indices = select_anchors(
        torch.tensor([[2.0], [-2.0]]), selection=selection, topk=3, threshold=0.0
    )
    assert indices.tolist() == [[0], [0]]
    expected = [1.0, 1.0] if selection == "random" else [0.8808, 0.1192]
    assert scores[:, 0].tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("selection", ["top", "positive", "random"])
def test_no_location_and_nan_logits_are_no_errors(selection):
    scores, indices = select_anchors(torch.zeros(0, K), selection=selection, topk=1, threshold=0.1)
    assert len(scores) == len(indices) == 0
    logits = random_logits(3)
    logits[0] = math.nan
    scores, indices = select_anchors(logits, selection=selection, topk=1, threshold=0.1)
    assert ((indices >= 0) & (indices < K)).all()
    assert torch.isfinite(scores[1:]).all()


def test_half_precision_logits_give_scores_in_single_precision():
    logits = random_logits(4).half()
    scores, _ = select_anchors(logits, selection="top", topk=1, threshold=0.0)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores[:, 0], logits.float().sigmoid().max(dim=1).values)
