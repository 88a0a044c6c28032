"""The training command as its users meet it: run, killed, resumed, mistyped."""

import contextlib
import json
import logging
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.utils.logger import setup_logger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from anchorkit import engine

REPO = Path(__file__).resolve().parents[1]
COMMAND = REPO / "tools" / "train_net.py"

CONFIG = """
MODEL:
  META_ARCHITECTURE: "BaselineRetinaNet"
  NUM_CLASSES: 3
  DEVICE: "{device}"
  WEIGHTS: ""
  PIXEL_STD: [57.375, 57.12, 58.395]
  BACKBONE: {{NAME: "build_resnet_fpn_p6p7_backbone", FREEZE_AT: 0}}
  RESNETS: {{DEPTH: 18, NORM: "BN", STEM_OUT_CHANNELS: 8, RES2_OUT_CHANNELS: 8,
    OUT_FEATURES: ["res3", "res4", "res5"]}}
  FPN: {{IN_FEATURES: ["res3", "res4", "res5"], OUT_CHANNELS: 16}}
  ANCHOR_GENERATOR: {{SIZES: [[16.0], [32.0], [64.0], [128.0], [256.0]], ASPECT_RATIOS: [[1.0]]}}
  RETINANET: {{NUM_CONVS: 1, NORM: "", SCORE_THRESH_TEST: 0.0}}
DATASETS:
  COCO_FORMAT: [["{name}", "{folder}/boxes.json", "{folder}/images"]]
  TRAIN: ("{name}",)
  TEST: ("{name}",)
DATALOADER: {{NUM_WORKERS: 0}}
INPUT: {{MIN_SIZE_TRAIN: [48, 64], MIN_SIZE_TEST: 64}}
SOLVER:
  IMS_PER_BATCH: 4
  BASE_LR: 0.02
  WARMUP_ITERS: 3
  STEPS: []
  MAX_ITER: 8
  CHECKPOINT_PERIOD: 4
  METRIC_PERIOD: 3
  CLIP_GRADIENTS: {{ENABLED: True, CLIP_TYPE: "norm", CLIP_VALUE: 1.0}}
  EMA: {{ENABLED: True, DECAY: 0.9}}
TEST: {{EVAL_PERIOD: 6, NUM_PICTURES: 2, DETECTIONS_PER_IMAGE: 20}}
SEED: 5
VERSION: 2
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Path of a config that trains on twelve 64-pixel images of coloured rectangles."""
    # One folder for all modules that a process tests: the set's name can stand for one alone.
    folder = tmp_path_factory.getbasetemp() / "tiny"
    if folder.exists():
        return folder / "tiny.yaml"
    folder.mkdir()
    return write_tiny(folder, "tiny_boxes")


def write_tiny(folder, name):
    """Write images, boxes and such a config; ``name`` is the data set's."""
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for index in range(12):
        pixels = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8)
        width, height = (int(size) for size in rng.integers(14, 30, 2))
        x, y = (int(rng.integers(0, 64 - size)) for size in (width, height))
        channel = int(rng.integers(0, 3))
        pixels[y : y + height, x : x + width, channel] = 220
        Image.fromarray(pixels).save(folder / "images" / f"{index:03d}.png")
        images.append({"id": index, "file_name": f"{index:03d}.png", "width": 64, "height": 64})
        annotations.append({
            "id": index + 1, "image_id": index, "category_id": channel + 1, "iscrowd": 0,
            "bbox": [x, y, width, height], "area": width * height,
        })
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(("red", "green", "blue"))]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(content))
    config = folder / "tiny.yaml"
    # "cuda" where there is none: a run on the CPU that warns. Elsewhere the CPU as well, since
    # only there two runs are the same to the last bit.
    device = "cpu" if torch.cuda.is_available() else "cuda"
    config.write_text(CONFIG.format(folder=folder, name=name, device=device))
    return config


@pytest.fixture(autouse=True)
def _leave_no_trace():
    """Undo what a run inside this process sets for the whole of it."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)
    torch.use_deterministic_algorithms(False)
    for name in ("anchorkit", "detectron2", "fvcore"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
    setup_logger.cache_clear()


def command_line(config, output, *arguments):
    """The command with its own arguments first and ``KEY VALUE`` pairs after them."""
    flags = [item for item in arguments if item.startswith("--")]
    rest = list(arguments)
    options = []
    while rest and (rest[0] in flags or (options and options[-1] in ("--max-time", "--num-gpus"))):
        options.append(rest.pop(0))
    return [sys.executable, str(COMMAND), "--config-file", str(config), *options,
            "OUTPUT_DIR", str(output), *rest]


def environment():
    path = os.pathsep.join(filter(None, (str(REPO), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def train(config, output, *arguments, cwd=None):
    """Run the command to its end; returns its CompletedProcess with all it printed in stdout."""
    return subprocess.run(
        command_line(config, output, *arguments),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600,
        env=environment(), cwd=cwd,
    )


def train_here(config, output, *arguments):
    """Do the same in this process; returns what was logged."""
    words = command_line(config, output, *arguments)[2:]
    engine.main(engine.argument_parser().parse_args(words))
    return (Path(output) / "log.txt").read_text()


def start_and_signal(config, output, number, *arguments, to_group=False):
    """Start the command, send it a signal once it has written a checkpoint; its exit status."""
    with open(f"{output}.txt", "w") as log:
        process = subprocess.Popen(
            command_line(config, output, *arguments), stdout=log, stderr=log, env=environment(),
            start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + 300
    try:
        while not (Path(output) / "last_checkpoint").exists():
            assert process.poll() is None and time.monotonic() < deadline, log.name
            time.sleep(0.01)
        if to_group:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        return process.wait(timeout=120)
    finally:
        with contextlib.suppress(ProcessLookupError):  # what is left of it after a failure
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """A run to the end without a break, from another working directory: (folder, what it said)."""
    output = tmp_path_factory.mktemp("finished") / "out"
    result = train(tiny, output, cwd=output.parent)
    assert result.returncode == 0, result.stdout
    return output, result.stdout


def differing(first, second, path=""):
    """Paths of the entries in which two nested checkpoint values differ."""
    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) else [path]
    if isinstance(first, dict):
        keys = set(first) | set(second)
        return [d for k in keys for d in differing(first.get(k), second.get(k), f"{path}/{k}")]
    return [] if first == second else [path]


def test_a_run_leaves_model_log_table_and_pictures_and_says_where(finished):
    output, said = finished
    closing = said[said.index("Done. Here it is:") :]
    for name in ("model_final.pth", "model_best.pth", "log.txt", "metrics.json", "results.md",
                 "pictures"):
        assert str(output / name) in closing
        assert (output / name).exists()
    assert (output / "model_0000003.pth").exists()
    assert (output / "last_checkpoint").read_text() == "model_final.pth"
    assert len(list((output / "pictures" / "tiny_boxes").glob("*.png"))) == 2
    assert list(output.glob("events.out.tfevents.*"))


def test_tensorboard_shows_the_pictures_of_every_evaluation(finished):
    events = EventAccumulator(str(finished[0]), size_guidance={"images": 0}).Reload()
    shown = {tag: [image.step for image in events.Images(tag)] for tag in events.Tags()["images"]}
    names = ("detections/0", "detections/1", "precision_recall", "confusion")
    assert shown == {f"tiny_boxes/{name}": [5, 7] for name in names}
    for name in names[2:]:
        assert (finished[0] / "inference" / "tiny_boxes" / f"{name}.png").exists()


def test_cuda_that_is_not_there_is_one_warning(finished):
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    assert finished[1].count("MODEL.DEVICE is cuda, but there is no CUDA device: using cpu") == 1


def test_the_log_has_losses_eta_and_throughput(finished):
    lines = re.findall(r"eta: .*iter: (\d+)/8 .*total_loss: .*images/s: [\d.]+ ", finished[1])
    assert lines[-1] == "8"


def test_metrics_are_json_lines_with_every_loss_and_the_evaluation(finished):
    lines = [json.loads(line) for line in (finished[0] / "metrics.json").read_text().splitlines()]
    assert lines[-1]["iteration"] == 7
    assert {"total_loss", "loss_cls", "loss_box_reg", "lr", "images_per_second"} <= set(lines[-1])
    assert any("bbox/AP" in line for line in lines if line["iteration"] == 5)
    assert "bbox/AP" in lines[-1]


def test_a_run_killed_and_resumed_ends_as_one_that_was_not(tiny, finished, tmp_path):
    # Workers, too: what is drawn must not depend on how many there are.
    output, workers = tmp_path / "out", ("DATALOADER.NUM_WORKERS", "2")
    status = start_and_signal(tiny, output, signal.SIGKILL, *workers)
    assert status == -signal.SIGKILL
    assert not (output / "model_final.pth").exists()
    result = train(tiny, output, "--resume", *workers)
    assert result.returncode == 0, result.stdout
    assert "training from iteration 4 to 8" in result.stdout
    first = torch.load(finished[0] / "model_final.pth", weights_only=True)
    second = torch.load(output / "model_final.pth", weights_only=True)
    assert differing(first, second) == []


def test_resuming_a_finished_run_says_so_and_evaluates(tiny, finished):
    before = (finished[0] / "results.json").read_text()
    (finished[0] / "results.json").unlink()
    said = train_here(tiny, finished[0], "--resume")
    assert "training is finished: 8 of SOLVER.MAX_ITER 8 iterations" in said
    assert (finished[0] / "results.json").read_text() == before


def test_evaluation_takes_the_averaged_weights_when_they_are_on(tiny, finished, tmp_path):
    def figures(folder):
        return json.loads((folder / "results.json").read_text())["tiny_boxes"]["bbox"]

    weights = ("MODEL.WEIGHTS", str(finished[0] / "model_final.pth"), "TEST.NUM_PICTURES", "0")
    said = train_here(tiny, tmp_path / "average", "--eval-only", *weights)
    assert "taking the averaged weights" in said
    assert figures(tmp_path / "average") == figures(finished[0])
    raw = ("SOLVER.EMA.ENABLED", "False")
    train_here(tiny, tmp_path / "raw", "--eval-only", *weights, *raw)
    # Figures of so little training may be equal by chance, detections not.
    found = Path("inference", "tiny_boxes", "coco_instances_results.json")
    assert (tmp_path / "raw" / found).read_text() != (tmp_path / "average" / found).read_text()


def test_max_time_stops_with_a_checkpoint_to_go_on_from(tiny, tmp_path):
    said = train_here(tiny, tmp_path / "out", "--max-time", "1", "SOLVER.MAX_ITER", "100000",
                      "SOLVER.CHECKPOINT_PERIOD", "100000", "TEST.EVAL_PERIOD", "0")
    pattern = r"Stopped after (\d+) of 100000 iterations, because --max-time 1 s is over"
    done = re.search(pattern, said)
    assert done, said
    last = (tmp_path / "out" / "last_checkpoint").read_text()
    assert last == f"model_{int(done[1]) - 1:07d}.pth"
    state = torch.load(tmp_path / "out" / last, weights_only=True)
    assert state["trainer"]["iteration"] == int(done[1]) - 1


def test_sigterm_saves_a_checkpoint_and_exits_with_0(tiny, tmp_path):
    output = tmp_path / "out"
    status = start_and_signal(tiny, output, signal.SIGTERM, "SOLVER.MAX_ITER", "100000",
                              "TEST.EVAL_PERIOD", "0", "SOLVER.CHECKPOINT_PERIOD", "5")
    assert status == 0
    assert "because SIGTERM was received" in (output / "log.txt").read_text()


def test_sigterm_to_the_whole_group_leaves_the_loaders_workers_until_all_is_saved(tiny, tmp_path):
    output = tmp_path / "out"
    status = start_and_signal(tiny, output, signal.SIGTERM, "SOLVER.MAX_ITER", "100000",
                              "TEST.EVAL_PERIOD", "0", "SOLVER.CHECKPOINT_PERIOD", "5",
                              "DATALOADER.NUM_WORKERS", "2", to_group=True)
    said = Path(f"{output}.txt").read_text()
    assert status == 0, said
    assert "because SIGTERM was received" in said and "DataLoader worker" not in said
    last = (output / "last_checkpoint").read_text()
    assert torch.load(output / last, weights_only=True)["trainer"]["iteration"] >= 4


def test_two_processes_train_on_a_cpu_with_mixed_precision(tiny, tmp_path):
    result = train(tiny, tmp_path / "out", "--num-gpus", "2", "SOLVER.AMP.ENABLED", "True",
                   "SOLVER.MAX_ITER", "3", "SOLVER.ACCUMULATION_STEPS", "2")
    assert result.returncode == 0, result.stdout
    assert "2 processes share the CPU" in result.stdout
    weights = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["model"]
    assert all(value.isfinite().all() for value in weights.values())


def test_a_mistake_found_in_spawned_processes_is_one_line(tiny, tmp_path):
    result = train(tiny, tmp_path / "out", "--num-gpus", "2", "SOLVER.IMS_PER_BATCH", "3")
    assert result.returncode == 2, result.stdout
    assert result.stdout.count("train_net: error: ") == 1
    assert "train_net: error: SOLVER.IMS_PER_BATCH 3" in result.stdout.splitlines()[-1]
    assert "Traceback" not in result.stdout


MISTAKES = {
    "no config file": (
        "--config-file {folder}/tinny.yaml",
        r"no config file .*tinny\.yaml; did you mean tiny\.yaml\?",
    ),
    "unknown key": (
        "{config} SOLVER.BASE_LRR 0.1",
        r"no config key SOLVER\.BASE_LRR; did you mean SOLVER\.BASE_LR\?",
    ),
    "wrong type": ("{config} SOLVER.MAX_ITER many", r"SOLVER\.MAX_ITER: expected int, got 'many'"),
    "key without value": ("{config} SOLVER.MAX_ITER", "has no value"),
    "unsafe YAML": ("--config-file {folder}/unsafe.yaml", "cannot be read as plain YAML"),
    "unknown data set": (
        "{config} DATASETS.TRAIN ('tiny_boxs',)",
        r"DATASETS\.TRAIN: no data set 'tiny_boxs'; did you mean tiny_boxes\?",
    ),
    "missing annotations": (
        "{config} DATASETS.COCO_FORMAT [['tiny_gone','{folder}/gone.json','{folder}/images']] "
        "DATASETS.TRAIN ('tiny_gone',) DATASETS.TEST ('tiny_gone',)",
        r"gone\.json",
    ),
    "missing image folder": (
        "{config} DATASETS.COCO_FORMAT [['tiny_bare','{folder}/boxes.json','{folder}/nowhere']] "
        "DATASETS.TRAIN ('tiny_bare',) DATASETS.TEST ('tiny_bare',)",
        "nowhere",
    ),
    "other class count": ("{config} MODEL.NUM_CLASSES 7", r"NUM_CLASSES"),
    "no training data": ("{config} DATASETS.TRAIN ()", r"DATASETS\.TRAIN is empty"),
    "no weights file": (
        "{config} MODEL.WEIGHTS {folder}/tiny.yml",
        r"MODEL\.WEIGHTS: no file .*tiny\.yml; did you mean .*tiny\.yaml\?",
    ),
    "damaged weights": ("{config} MODEL.WEIGHTS {folder}/boxes.json", r"boxes\.json: damaged"),
    "weights from nowhere": (
        "{config} MODEL.WEIGHTS detectron3://R-50.pkl", "detectron3://R-50.pkl: cannot be fetched"
    ),
    "evaluation without weights": ("{config} --eval-only", "--eval-only needs weights"),
    "unknown model": (
        "{config} MODEL.META_ARCHITECTURE BaselineRetinaNett",
        r"no 'BaselineRetinaNett'; did you mean BaselineRetinaNet\?",
    ),
    "no iterations": ("{config} SOLVER.MAX_ITER 0", r"SOLVER\.MAX_ITER is 0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_status_2(mistake, tiny, tmp_path, monkeypatch, capsys):
    arguments, message = MISTAKES[mistake]
    (tiny.parent / "unsafe.yaml").write_text('OUTPUT_DIR: !!python/name:os.getcwd ""\n')
    words = arguments.format(folder=tiny.parent, config=f"--config-file {tiny}").split()
    words += [] if words[-1] == "SOLVER.MAX_ITER" or "--eval-only" in words else [
        "OUTPUT_DIR", str(tmp_path / "out")]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train_net.py", *words])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(COMMAND), run_name="__main__")
    assert end.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith("train_net: error: ")]
    assert len(errors) == 1 and lines[-1] == errors[0]
    assert re.search(message, errors[0])
