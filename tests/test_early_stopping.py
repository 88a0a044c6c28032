"""The best checkpoint by any metric, and trainings that end when it gets no better."""

import json
import re
import types

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from anchorkit.checkpoint import Checkpointer, read_checkpoint
from anchorkit.config import load_config
from anchorkit.early_stopping import EarlyStopping
from anchorkit.errors import UserError
from anchorkit.hooks import Evaluation
from anchorkit.solver import check_best_metric, is_lower_better
from tests.test_train_net import _leave_no_trace, differing, tiny, train_here  # noqa: F401


def evaluate_in_turn(folder, values, *, start_iter=0, **options):
    """Evaluate after each iteration until early stopping is over; the iterations done, and it."""
    stopping = EarlyStopping("validation/loss", **{"patience": 0, **options})
    results = iter(values)
    hook = Evaluation(
        1, lambda: {"validation": {"loss": next(results)}},
        Checkpointer(nn.Linear(1, 1), str(folder)), "validation/loss", stopping,
    )  # fmt: skip
    with EventStorage(start_iter) as storage:
        trainer = types.SimpleNamespace(storage=storage, start_iter=start_iter, max_iter=100)
        hook.trainer, stopping.num_seen = trainer, start_iter
        hook.before_train()
        for trainer.iter in range(start_iter, start_iter + len(values)):
            hook.after_step()
            if stopping.is_over:
                break
    return trainer.iter + 1, stopping


def best_of(folder):
    return read_checkpoint(str(folder / "model_best.pth"))["best"]


def test_the_lowest_loss_is_the_best_and_stays_it_over_a_resume(tmp_path):
    evaluate_in_turn(tmp_path, [3.0, 2.0, 2.5, float("nan")], lower_is_better=True)
    best = {"metric": "validation/loss", "value": 2.0, "iteration": 1}
    assert best_of(tmp_path) == best
    evaluate_in_turn(tmp_path, [2.2], start_iter=4, lower_is_better=True)
    assert best_of(tmp_path) == best
    evaluate_in_turn(tmp_path, [1.9], start_iter=5, lower_is_better=True)
    assert best_of(tmp_path)["value"] == 1.9


@pytest.mark.parametrize(("values", "options", "number"), [
    ([1, 2, 2, 1, 3], {"patience": 2}, 4),
    ([1, 2, 2, 3, 3, 3], {"patience": 2}, 6),
    ([3, 2, 2.5, 2, 1], {"patience": 2, "lower_is_better": True}, 4),
    ([1, 1.4, 1.5, 2], {"patience": 2, "min_delta": 0.5}, 3),
    ([float("nan")] * 5, {"patience": 3}, 3),
    ([3, 2, 1], {"patience": 0}, 3),
])  # fmt: skip
def test_it_ends_after_so_many_evaluations_that_are_no_better(tmp_path, values, options, number):
    done, stopping = evaluate_in_turn(tmp_path, values, **options)
    assert done == number
    assert stopping.is_over == (options["patience"] > 0 and (tmp_path / "model_final.pth").exists())


def test_a_metric_that_never_comes_is_told_and_stops_nothing(tmp_path, caplog):
    stopping = EarlyStopping("bbox/ap", patience=1)
    checkpointer = Checkpointer(nn.Linear(1, 1), str(tmp_path))
    hook = Evaluation(1, lambda: {"bbox": {"AP": 1.0}}, checkpointer, "bbox/ap", stopping)
    with EventStorage() as storage:
        hook.trainer = types.SimpleNamespace(storage=storage, iter=3, max_iter=9)
        hook.after_step()
    assert "'bbox/ap' is not among the results, no best checkpoint is kept, and early stopping " \
        "does nothing; known are: bbox/AP" in caplog.text  # fmt: skip
    assert not stopping.is_over


def test_the_state_goes_on_with_more_patience_but_not_with_another_metric():
    first = EarlyStopping("bbox/AP", patience=1)
    first.update(5.0, 10)
    first.update(4.0, 20)
    more, other = EarlyStopping("bbox/AP", patience=2), EarlyStopping("bbox/AP50", patience=1)
    for stopping in (more, other):
        stopping.load_state_dict(first.state_dict())
    assert first.is_over and not more.is_over and not other.is_over
    assert (more.best, more.num_worse, other.best, other.num_seen) == (5.0, 1, None, 20)


@pytest.mark.parametrize(("metric", "mode", "expected"), [
    ("bbox/AP", "auto", False),
    ("validation/loss_box", "auto", True),
    ("lossy_val/bbox/AP-glossy", "auto", False),
    ("score_quality/iou_lost", "auto", True),
    ("bbox/AP", "min", True),
    ("validation/loss", "max", False),
])  # fmt: skip
def test_losses_and_errors_are_best_when_low(metric, mode, expected):
    options = ["SOLVER.BEST_METRIC", metric, "SOLVER.BEST_METRIC_MODE", mode]
    assert is_lower_better(load_config("", options)) == expected


@pytest.mark.parametrize(("options", "message"), [
    ("SOLVER.BEST_METRIC_MODE low", "BEST_METRIC_MODE is 'low'; it must be one of"),
    ("SOLVER.EARLY_STOP.PATIENCE -1", "PATIENCE is -1; it must be 0 or more"),
    ("SOLVER.EARLY_STOP.MIN_DELTA -0.1", "MIN_DELTA is -0.1; it must be 0 or more"),
    ("SOLVER.EARLY_STOP.PATIENCE 2", "TEST.EVAL_PERIOD is 0"),
    ("SOLVER.EARLY_STOP.PATIENCE 2 DATASETS.TEST ()", "one of them is empty"),
    ("SOLVER.BEST_METRIC validation/loss", "set TEST.VALIDATION_LOSS True"),
])  # fmt: skip
def test_what_cannot_be_is_refused_before_the_training(options, message):
    cfg = load_config("", ["DATASETS.TEST", "('val',)", *options.split()])
    with pytest.raises(UserError, match=re.escape(message)):
        check_best_metric(cfg)


# Nothing is ever better by 1000: the second and the third evaluation end the training.
STOPS = (
    "SOLVER.EARLY_STOP.PATIENCE", "2", "SOLVER.EARLY_STOP.MIN_DELTA", "1000.0",
    "SOLVER.BEST_METRIC", "validation/loss", "TEST.VALIDATION_LOSS", "True",
    "TEST.EVAL_PERIOD", "2", "SOLVER.CHECKPOINT_PERIOD", "2", "SOLVER.MAX_ITER", "50",
    "SOLVER.REFERENCE_BATCH", "8", "TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(64,)",
    "TEST.NUM_PICTURES", "1", "SOLVER.METRIC_PERIOD", "1",
)  # fmt: skip


def test_a_run_ends_early_as_others_do_and_a_resumed_one_at_the_same_iteration(tiny, tmp_path):  # noqa: F811
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    said = train_here(tiny, whole, *STOPS)
    assert said.count("early stopping after 6 of 50 iterations: in 2 evaluations no ") == 1
    assert said.count("SOLVER.BASE_LR 0.02 is for 8 images a step") == 1
    assert "Done. Here it is:" in said and (whole / "pictures" / "tiny_boxes").is_dir()
    final = torch.load(whole / "model_final.pth", weights_only=True)
    assert final["iteration"] == 5
    results = json.loads((whole / "results.json").read_text())["tiny_boxes"]
    assert set(results) == {"bbox", "bbox_TTA", "validation"}

    # A run that was killed in its second evaluation: the checkpoint does not know its result.
    resumed.mkdir()
    (resumed / "model_0000003.pth").write_bytes((whole / "model_0000003.pth").read_bytes())
    (resumed / "last_checkpoint").write_text("model_0000003.pth")
    said = train_here(tiny, resumed, "--resume", *STOPS)
    assert "training from iteration 4" in said and "early stopping after 6 of 50" in said
    again = torch.load(resumed / "model_final.pth", weights_only=True)
    assert differing(final, again) == []
    lines = [json.loads(line) for line in (resumed / "metrics.json").read_text().splitlines()]
    evaluated = [line["iteration"] for line in lines if "validation/loss" in line]
    assert evaluated == [3, 5]

    said = train_here(tiny, resumed, "--resume", *STOPS)
    assert "training is finished: 6 of SOLVER.MAX_ITER 50 iterations are done" in said
