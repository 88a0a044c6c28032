"""The training command with a classifier: from a config to accuracies, resumed, and refused."""

import csv
import json
import re
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.test_train_net import REPO, differing, start_and_signal, train

QUICK = REPO / "configs" / "quick"
# Five epochs of 45 iterations; OAT starts with the third.
SHORT = ("SOLVER.MAX_EPOCHS", "5", "TEST.EVAL_EPOCHS", "2", "MODEL.OAT.PRETRAIN_EPOCHS", "2",
         "SOLVER.BASE_LR", "0.02")  # fmt: skip


def figures(output):
    (results,) = json.loads((output / "results.json").read_text()).values()
    return results["classification"]


def weights(output):
    return torch.load(output / "model_final.pth", weights_only=True)["model"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An OAT run of five epochs: its folder and what it said."""
    output = tmp_path_factory.mktemp("oat") / "out"
    result = train(QUICK / "oat_digits.yaml", output, *SHORT)
    assert result.returncode == 0, result.stdout
    return output, result.stdout


def test_a_run_ends_with_accuracies_of_all_protocols_tables_and_a_picture(trained):
    output, said = trained
    found = figures(output)
    protocols = ("batch", "batch_min", "batch_max", "single", "dataset", "running")
    assert {"acc1", "acc5", "mean_class_acc", "acc-0", "acc-9"} <= set(found)
    assert {f"acc1_{protocol}" for protocol in protocols} <= set(found)
    assert found["acc1"] > 50 and found["acc5"] > found["acc1"]
    assert found["acc1_batch_min"] <= found["acc1_batch"] <= found["acc1_batch_max"]
    assert "| images of 9" in said and "1437" in said, "the data check shows a table"
    assert "iteration 90: pre-training is over" in said
    folder = output / "inference" / "digits_test"
    assert {path.name for path in folder.iterdir()} == {
        "predictions.csv", "confusion.json", "confusion.png", "outputs.npz"}  # fmt: skip
    rows = list(csv.DictReader((folder / "predictions.csv").open()))
    assert len(rows) == 360
    share = 100 * sum(int(row["correct"]) for row in rows) / len(rows)
    assert share == pytest.approx(found["acc1"])
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    evaluated = [line["iteration"] for line in lines if "classification/acc1" in line]
    assert evaluated == [89, 179, 224], "every second epoch and the last"


def test_a_checkpoint_of_each_phase_is_decoded_as_it_was_trained(trained, tmp_path):
    output, _ = trained
    again = train(QUICK / "oat_digits.yaml", tmp_path / "again", "--eval-only",
                  "MODEL.WEIGHTS", str(output / "model_final.pth"))  # fmt: skip
    assert again.returncode == 0, again.stdout
    assert figures(tmp_path / "again") == figures(output)
    first_phase = train(QUICK / "oat_digits.yaml", tmp_path / "first", *SHORT,
                        "SOLVER.MAX_EPOCHS", "2")  # fmt: skip
    assert first_phase.returncode == 0, first_phase.stdout
    assert "acc1_batch" not in figures(tmp_path / "first")


def test_a_run_resumed_before_or_after_the_switch_ends_with_the_same_weights(trained, tmp_path):
    expected = weights(trained[0])
    for iterations in ("60", "130"):
        output = tmp_path / iterations
        period = ("SOLVER.CHECKPOINT_PERIOD", iterations)
        start_and_signal(QUICK / "oat_digits.yaml", output, signal.SIGKILL, *SHORT, *period)
        rest = train(QUICK / "oat_digits.yaml", output, "--resume", *SHORT, *period)
        assert rest.returncode == 0, rest.stdout
        for name, value in weights(output).items():
            assert torch.equal(value, expected[name]), name


def test_averages_rates_and_all_augmentation_go_on_as_if_a_run_had_not_been_killed(tmp_path):
    arguments = ("SOLVER.MAX_EPOCHS", "1", "SOLVER.CHECKPOINT_PERIOD", "20",
                 "SOLVER.EMA.ENABLED", "True", "SOLVER.EMA.DECAY", "0.9",
                 "SOLVER.OPTIMIZER", "Adam", "SOLVER.LR_SCHEDULER_NAME", "OneCycleLR",
                 "INPUT.RANDOM_RESIZED_CROP", "0.6", "INPUT.RANDAUGMENT.NUM_OPS", "1",
                 "INPUT.CUTOUT", "4", "INPUT.MIXUP", "0.2")  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train(QUICK / "ce_digits.yaml", whole, *arguments).returncode == 0
    start_and_signal(QUICK / "ce_digits.yaml", killed, signal.SIGKILL, *arguments)
    rest = train(QUICK / "ce_digits.yaml", killed, "--resume", *arguments)
    assert rest.returncode == 0 and "training from iteration 0" not in rest.stdout, rest.stdout
    expected, actual = (
        torch.load(folder / "model_final.pth", weights_only=True) for folder in (whole, killed)
    )
    assert differing(actual, expected) == []
    assert expected["ema"]["num_updates"] == expected["trainer"]["scheduler"]["total_steps"] == 45
    assert differing(expected["ema"]["model"], expected["model"])
    assert figures(whole) == figures(killed)


@pytest.fixture
def folders(tmp_path):
    """Two sets of 12 images of two classes, told by their brightness."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name, level in (("dark", 30), ("light", 200)):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for number in range(12):
                pixels = rng.integers(level, level + 50, (20, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return tmp_path


def of_folders(folders):
    pairs = [[f"mine_{split}", str(folders / split)] for split in ("train", "test")]
    return ("DATASETS.IMAGE_FOLDERS", str(pairs), "DATASETS.TRAIN", "('mine_train',)",
            "DATASETS.TEST", "('mine_test',)")  # fmt: skip


def test_folders_of_ones_own_are_trained_without_python(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    (folders / "train" / "dark" / "broken.png").write_bytes(b"no image")
    arguments = (*of_folders(folders), "SOLVER.MAX_EPOCHS", "12", "SOLVER.IMS_PER_BATCH", "8",
                 "SOLVER.BASE_LR", "0.01", "INPUT.SHIFT", "1", "INPUT.MIXUP", "0.1",
                 "MODEL.CLASSIFIER.LABEL_SMOOTHING", "0.1")  # fmt: skip
    result = train(QUICK / "ce_digits.yaml", tmp_path / "out", *arguments,
                   "MODEL.PIXEL_MEAN", "[115.0, 115.0, 115.0]",
                   "MODEL.PIXEL_STD", "[90.0, 90.0, 90.0]")  # fmt: skip
    assert result.returncode == 0, result.stdout
    assert "left out" in result.stdout and "broken.png" in result.stdout
    assert figures(tmp_path / "out")["acc1"] == 100
    assert "acc5" not in figures(tmp_path / "out")


@pytest.mark.parametrize(("change", "arguments", "message"), [
    ("empty class", (), "empty class 'light'"),
    ("other class", (), "mine_train has no 'grey'"),
    ("", ("DATASETS.TEST", "('digit_scenes_val',)"), "digit_scenes_val is a detection set"),
    ("", ("DATASETS.TRAIN", "('digits_trian',)"), "did you mean digits_train"),
    ("", ("MODEL.CLASSIFIER.METHOD", "oats"), "must be one of 'cross_entropy', 'oat'"),
    ("", ("SOLVER.IMS_PER_BATCH", "64", "DATALOADER.DROP_LAST", "True"), "too few for a batch"),
])  # fmt: skip
def test_what_cannot_work_is_one_line_and_status_2(
    folders, tmp_path, monkeypatch, change, arguments, message
):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    if change == "empty class":
        for path in (folders / "train" / "light").iterdir():
            path.unlink()
    if change == "other class":
        (folders / "test" / "dark").rename(folders / "test" / "grey")
    result = train(QUICK / "ce_digits.yaml", tmp_path / "out", *of_folders(folders), *arguments)
    assert result.returncode == 2, result.stdout
    assert re.search(message, result.stdout) and "Traceback" not in result.stdout


def test_a_detector_refuses_a_classification_set(tmp_path):
    config = QUICK / "retinanet_digit_scenes.yaml"
    result = train(config, tmp_path / "out", "DATASETS.TRAIN", "('digits_train',)")
    assert result.returncode == 2
    assert "digits_train is a classification set; BaselineRetinaNet needs a detection set" in (
        result.stdout
    )


def test_a_multi_label_run_ends_with_precision_and_a_map_of_confidence(tmp_path):
    output = tmp_path / "out"
    result = train(QUICK / "indeed_ml_digits_5.yaml", output, "SOLVER.MAX_EPOCHS", "2",
                   "TEST.EVAL_EPOCHS", "1")  # fmt: skip
    assert result.returncode == 0, result.stdout
    assert "| classes an image" in result.stdout and "loss_disparate" in result.stdout
    (results,) = json.loads((output / "results.json").read_text()).values()
    found = results["multi_label"]
    assert {"mAP", "acc1_single", "off_diagonal_confidence", "AP-0", "AP-9"} <= set(found)
    assert "mAP_single" not in found, "all test images have one class"
    folder = output / "inference" / "ml_digits_1_test"
    assert {path.name for path in folder.iterdir()} == {
        "predictions.csv", "confidence.json", "confidence.png", "outputs.npz"}  # fmt: skip
    assert (output / "model_best.pth").exists(), "multi_label/mAP tells the best one"
    events = EventAccumulator(str(output)).Reload()
    (shown,) = events.Images("ml_digits_1_test/confidence")
    assert shown.step == max(step.step for step in events.Scalars("multi_label/mAP"))


@pytest.mark.parametrize(("config", "arguments", "message"), [
    ("bce_ml_digits_5", ("MODEL.CLASSIFIER.METHOD", "oat"),
     "an image of ml_digits_5_train has any number of classes, and MODEL.CLASSIFIER.METHOD 'oat'"),
    ("ce_digits", ("MODEL.CLASSIFIER.METHOD", "indeed"), "an image of digits_train has one class"),
    ("bce_ml_digits_5", ("DATASETS.TRAIN", "('ml_digits_5_trian',)"), "did you mean ml_digits_5_t"),
    ("bce_ml_digits_5", ("DATASETS.TRAIN", "('digit_scenes_train',)"),
     "such as digit_scenes_train_multi_label"),
    ("indeed_ml_digits_5", ("MODEL.INDEED.NORM", "l1"), "must be one of 'minmax', 'l2'"),
    ("bce_ml_digits_5", ("DATASETS.MULTI_LABEL.CELLS", "left"), "must be one of 'random', 'fixed'"),
])  # fmt: skip
def test_what_a_multi_label_run_cannot_do_is_one_line_and_status_2(
    tmp_path, config, arguments, message
):
    result = train(QUICK / f"{config}.yaml", tmp_path / "out", *arguments)
    assert result.returncode == 2, result.stdout
    assert re.search(message, result.stdout) and "Traceback" not in result.stdout
