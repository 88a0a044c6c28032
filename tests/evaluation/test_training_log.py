"""Metrics read from what a training logs, and runs averaged."""

import json

import pytest

from anchorkit.errors import UserError
from anchorkit.evaluation.training_log import average_runs, read_metric

ACC = "classification/acc1"


@pytest.fixture
def write_log(tmp_path):
    """Function that writes lines (dicts, or text as it is) and returns the run's folder."""

    def write(*lines, end="\n"):
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (tmp_path / "metrics.json").write_text("\n".join(texts) + end)
        return str(tmp_path)

    return write


def test_evaluations_are_the_lines_with_the_metric_and_the_last_of_an_iteration_counts(write_log):
    folder = write_log(
        {"iteration": 9, ACC: 10.0},
        {"iteration": 14, "total_loss": 2.0},
        {"iteration": 19, ACC: 20.0, "total_loss": 1.0},
        {"iteration": 29, ACC: 31.0},
        "",
        {"iteration": 19, ACC: 21},
        {"iteration": 29, ACC: float("nan")},
    )
    iterations, values = read_metric(folder, ACC)
    assert iterations.tolist() == [9, 19, 29] and values.tolist() == [10, 21, 31]
    assert read_metric(folder, "total_loss")[0].tolist() == [14, 19]


def test_a_line_that_is_still_being_written_is_left_out(write_log):
    folder = write_log({"iteration": 9, ACC: 10.0}, '{"iteration": 19, "clas', end="")
    assert read_metric(folder, ACC)[0].tolist() == [9]
    folder = write_log('{"iteration": 19, "clas', {"iteration": 9, ACC: 10.0})
    with pytest.raises(UserError, match="metrics.json, line 1: expected one JSON object a line"):
        read_metric(folder, ACC)
    with pytest.raises(UserError, match="line 1: expected a JSON object"):
        read_metric(write_log("[1]"), ACC)


def test_what_is_not_there_is_named_and_the_nearest_metric(write_log, tmp_path):
    folder = write_log({"iteration": 9, "some/classification/acc1": 10.0, "lr": 1.0})
    with pytest.raises(
        UserError,
        match="no metric 'classification/acc1'; did you mean 'some/classification/acc1'",
    ):
        read_metric(folder, ACC)
    with pytest.raises(UserError, match="did you mean"):
        read_metric(folder, "zzz")
    with pytest.raises(UserError, match="nothing has been logged yet"):
        read_metric(write_log(), ACC)
    with pytest.raises(UserError, match="never as a finite number"):
        read_metric(write_log({"iteration": 1, ACC: float("nan")}), ACC)
    with pytest.raises(UserError, match=r"nowhere.metrics.json: expected the metrics of a train"):
        read_metric(str(tmp_path / "nowhere"), ACC)


def test_runs_are_averaged_where_all_were_evaluated(write_log):
    first = read_metric(write_log(*({"iteration": i, ACC: i} for i in (1, 2, 3))), ACC)
    second = read_metric(write_log(*({"iteration": i, ACC: 2 * i} for i in (2, 3, 4))), ACC)
    iterations, values = average_runs([first, second])
    assert iterations.tolist() == [2, 3] and values.tolist() == [[2, 3], [4, 6]]
    iterations, values = average_runs([first])
    assert iterations.tolist() == [1, 2, 3] and values.shape == (1, 3)
    third = read_metric(write_log({"iteration": 9, ACC: 1}), ACC)
    with pytest.raises(UserError, match="not evaluated at the same iterations"):
        average_runs([first, third])
