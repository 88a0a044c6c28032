"""Results as a page to read: figures of the whole and of single classes."""

import json
import math

from anchorkit.evaluation import write_tables


def table_of(metrics, tmp_path, task="bbox"):
    path = write_tables({"some_val": {task: metrics}}, str(tmp_path))
    with open(path) as file:
        return file.read()


def test_the_average_precision_of_classes_has_its_own_table(tmp_path):
    metrics = {"AP": 40.125, "AP50": 61.0, "AP-dog": 50.0, "AP-hot-dog": math.nan}
    assert table_of(metrics, tmp_path) == (
        "## some_val\n\n"
        "| bbox | AP | AP50 |\n|---|---|---|\n| some_val | 40.12 | 61.00 |\n\n"
        "| class | AP |\n|---|---|\n| dog | 50.00 |\n| hot-dog | — |\n"
    )
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["some_val"]["bbox"] == {**metrics, "AP-hot-dog": None}


def test_so_has_the_accuracy_of_classes(tmp_path):
    metrics = {"acc1": 90.0, "mean_class_acc": 85.0, "acc-cat": 80.0, "acc-dog": 90.0}
    assert table_of(metrics, tmp_path, "classification") == (
        "## some_val\n\n"
        "| classification | acc1 | mean_class_acc |\n|---|---|---|\n"
        "| some_val | 90.00 | 85.00 |\n\n"
        "| class | acc |\n|---|---|\n| cat | 80.00 |\n| dog | 90.00 |\n"
    )


def test_several_metrics_of_classes_are_columns(tmp_path):
    metrics = {"AP": 1.0, "AP-cat": 2.0, "AP-dog": 3.0, "recall-dog": 4.0}
    assert table_of(metrics, tmp_path).endswith(
        "| class | AP | recall |\n|---|---|---|\n| cat | 2.00 | — |\n| dog | 3.00 | 4.00 |\n"
    )


def test_without_classes_there_is_no_second_table(tmp_path):
    assert "class" not in table_of({"AP": 1.0}, tmp_path)
