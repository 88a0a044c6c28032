"""What a run leaves behind when it is killed, the disk is full, or the losses are not finite."""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from anchorkit import checkpoint, engine
from anchorkit.checkpoint import Checkpointer, read_checkpoint
from anchorkit.data import image_files, mapper
from anchorkit.errors import UserError, exit_status
from tests import test_train_net as runs

_leave_no_trace = runs._leave_no_trace


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return runs.write_tiny(tmp_path_factory.mktemp("faults"), "tiny_faults")


def command_here(config, output, *arguments):
    """Run the training command in this process; returns its exit status."""
    words = runs.command_line(config, output, *arguments)[2:]
    args = engine.argument_parser().parse_args(words)
    return exit_status("train_net", lambda: engine.main(args) and None)


class LimitedFile:
    """A file of which ``limit`` bytes can be written, then ``at_limit()`` is called."""

    def __init__(self, file, limit, at_limit):
        self.file, self.left, self.at_limit = file, limit, at_limit

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        data = bytes(data)
        self.file.write(data[: max(0, self.left)])
        self.left -= len(data)
        if self.left < 0:
            self.file.flush()
            self.at_limit()
        return len(data)


def kill_me(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def die_while_saving(folder, iteration, moment):
    """Save a checkpoint; the process is killed at a byte of it, or around a renaming."""
    kind, number = moment
    if kind == "byte":
        checkpoint.open = lambda path, mode: LimitedFile(open(path, mode), number, kill_me)
    else:
        replace, calls = os.replace, []

        def replace_and_die(*paths):
            calls.append(paths)
            if len(calls) == number and kind == "before renaming":
                kill_me()
            replace(*paths)
            if len(calls) == number:
                kill_me()

        os.replace = replace_and_die
    small_checkpointer(folder, iteration).save(f"model_{iteration:07d}", iteration=iteration)


def small_checkpointer(folder, value):
    model = nn.Linear(40, 50)
    with torch.no_grad():
        model.weight.fill_(float(value))
    return Checkpointer(model, str(folder))


def test_a_kill_while_a_checkpoint_is_written_leaves_a_whole_one_to_go_on_from(tmp_path):
    small_checkpointer(tmp_path, 0).save("model_0000000", iteration=0)
    size = (tmp_path / "model_0000000.pth").stat().st_size
    rng = random.Random(0)
    moments = [(kind, n) for kind in ("before renaming", "after renaming") for n in (1, 2)]
    moments += [("byte", rng.randrange(size)) for _ in range(20)] + [("byte", 3)]
    fork = multiprocessing.get_context("fork")
    ends = []
    for iteration, moment in enumerate(moments, 1):
        # Every second save is of a file that is there already, as after a resume.
        number = iteration // 2 * 2
        process = fork.Process(target=die_while_saving, args=(tmp_path, number, moment))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, moment
        for path in tmp_path.glob("*.pth"):
            read_checkpoint(str(path))
        resumed = small_checkpointer(tmp_path, -1)
        ends.append(resumed.resume()["iteration"])
        assert (resumed.model.weight == ends[-1]).all()
    # Only the kill after the second renaming, that of last_checkpoint, comes too late.
    assert ends == [0] * 3 + [4] * (len(moments) - 3)


@pytest.mark.parametrize("space", [0, 40_000])
def test_a_full_disk_is_one_line_and_the_checkpoint_of_before_stays_good(
    space, tiny, tmp_path, monkeypatch, capfd
):
    def open_on_full_disk(path, mode):
        def fail():
            raise OSError(28, "No space left on device")

        first = path.endswith("model_0000003.pth.partial") or not path.endswith(".pth.partial")
        return LimitedFile(open(path, mode), 10**9 if first else space, fail)

    monkeypatch.setattr(checkpoint, "open", open_on_full_disk, raising=False)
    assert command_here(tiny, tmp_path, "TEST.EVAL_PERIOD", "0") == 2
    said = capfd.readouterr()
    error = said.err.strip().splitlines()[-1]
    assert error.startswith("train_net: error: ") and "No space left on device" in error
    assert "model_0000007.pth: cannot be written" in error and "--resume" in error
    assert "Traceback" not in said.err + said.out
    assert not list(tmp_path.glob("*.partial"))
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"
    assert read_checkpoint(str(tmp_path / "model_0000003.pth"))["trainer"]["iteration"] == 3


def test_a_full_disk_under_the_log_of_figures_is_one_line_too(tiny, tmp_path, monkeypatch, capfd):
    def fail(_self):
        raise OSError(28, "No space left on device", "metrics.json")

    monkeypatch.setattr("detectron2.utils.events.JSONWriter.write", fail)
    assert command_here(tiny, tmp_path) == 2
    said = capfd.readouterr()
    error = said.err.strip().splitlines()[-1]
    assert error.startswith("train_net: error: [Errno 28] No space left on device: 'metrics.json'")
    assert "Traceback" not in said.err + said.out


def test_a_cut_checkpoint_is_never_loaded(tmp_path):
    small_checkpointer(tmp_path, 0).save("model_0000000")
    path = tmp_path / "model_0000000.pth"
    whole = path.read_bytes()
    lengths = {0, 1, len(whole) - 1, *random.Random(0).sample(range(len(whole)), 40)}
    for length in lengths:
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"model_0000000\.pth: damaged") as error:
            small_checkpointer(tmp_path, 1).resume()
        assert "\n" not in str(error.value)


DIVERGING = ("SOLVER.STEPS", "(22,)", "SOLVER.GAMMA", "1e30", "SOLVER.MAX_ITER", "40",
             "SOLVER.METRIC_PERIOD", "1", "TEST.EVAL_PERIOD", "0",
             "SOLVER.CLIP_GRADIENTS.ENABLED", "False")  # fmt: skip


@pytest.mark.parametrize("period", ["1000", "20"])
def test_losses_that_are_not_finite_stop_with_the_last_good_state(
    tiny, tmp_path, monkeypatch, period
):
    monkeypatch.setattr("anchorkit.last_good.MIN_ITERATIONS", 20)
    with pytest.raises(FloatingPointError) as error:
        command_here(tiny, tmp_path / "out", *DIVERGING, "SOLVER.CHECKPOINT_PERIOD", period)
    message = str(error.value)
    assert "became" in message and "iteration 2" in message and ".png)" in message
    name = "model_last_good.pth" if period == "1000" else "model_0000019.pth"
    assert f"; the last good state is {tmp_path / 'out' / name}: --resume goes on" in message
    assert (tmp_path / "out" / "last_checkpoint").read_text() == name
    last = torch.load(tmp_path / "out" / name, weights_only=True)
    assert last["iteration"] == last["trainer"]["iteration"] == 19
    with pytest.raises(FloatingPointError, match=message[:40]):  # from there, the same again
        command_here(tiny, tmp_path / "out", "--resume", *DIVERGING)
    if period == "1000":
        with pytest.raises(FloatingPointError):
            command_here(tiny, tmp_path / "two", *DIVERGING, "SOLVER.CHECKPOINT_PERIOD", "20")
        other = torch.load(tmp_path / "two" / "model_0000019.pth", weights_only=True)
        assert runs.differing(last, other) == []


def test_a_run_that_diverges_at_once_leaves_the_state_it_began_with(tiny, tmp_path):
    rate = ("SOLVER.BASE_LR", "1e30", "SOLVER.WARMUP_ITERS", "0", "TEST.EVAL_PERIOD", "0")
    with pytest.raises(FloatingPointError, match="last good state"):
        command_here(tiny, tmp_path, *rate, "SOLVER.CLIP_GRADIENTS.ENABLED", "False")
    state = torch.load(tmp_path / "model_last_good.pth", weights_only=True)
    assert state["iteration"] == -1
    with pytest.raises(FloatingPointError, match="last good state"):
        command_here(tiny, tmp_path, "--resume", "TEST.EVAL_PERIOD", "0")
    assert "training from iteration 0 to 8" in (tmp_path / "log.txt").read_text()


DAMAGED = {
    "images": lambda c: c["images"][0].update(file_name="nowhere.png"),
    "boxes": lambda c: [a.update(bbox=[0, 0, float("nan"), 3]) for a in c["annotations"][::2]],
    "categories": lambda c: c["annotations"][0].update(category_id=None, iscrowd="x"),
    "areas": lambda c: [a.update(area=-1, id=0) for a in c["annotations"]],
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_run_on_damaged_data_trains_evaluates_and_names_the_faults(kind, tiny, tmp_path):
    content = json.loads((tiny.parent / "boxes.json").read_text())
    DAMAGED[kind](content)
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    name = f"tiny_damaged_{kind}"
    entry = [[name, str(tmp_path / "boxes.json"), str(tiny.parent / "images")]]
    said = runs.train_here(
        tiny, tmp_path / "out", "DATASETS.COCO_FORMAT", str(entry), "SOLVER.MAX_ITER", "3",
        "DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", f"('{name}',)",
    )  # fmt: skip
    assert "Done. Here it is:" in said and (tmp_path / "out" / "results.json").exists()
    told = {"images": "the file does not exist", "boxes": "left out 6 unusable annotations",
            "categories": "the category None is unknown", "areas": "| boxes "}
    assert told[kind] in said
    assert (tmp_path / "out" / "datasets" / f"{name}.json").exists() == (kind != "images")


def die_in_worker(self, record):
    if record["image_id"] == 7 and torch.utils.data.get_worker_info():
        kill_me()
    return ORIGINAL_MAPPING(self, record)


ORIGINAL_MAPPING = mapper.BoxMapper.__call__


def test_the_death_of_a_loading_process_is_one_line(tiny, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(mapper.BoxMapper, "__call__", die_in_worker)
    assert command_here(tiny, tmp_path, "DATALOADER.NUM_WORKERS", "2") == 2
    said = capfd.readouterr()
    error = said.err.strip().splitlines()[-1]
    assert error.startswith("train_net: error: a process that loads data died (")
    assert "DATALOADER.NUM_WORKERS" in error and "Traceback" not in said.err + said.out


def test_a_fault_of_the_program_in_a_loading_process_keeps_its_traceback(
    tiny, tmp_path, monkeypatch
):
    monkeypatch.setattr(mapper, "visible_boxes", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError, match="Traceback"):
        command_here(tiny, tmp_path, "DATALOADER.NUM_WORKERS", "1")


def test_a_mistake_found_in_a_loading_process_is_one_line(tiny, tmp_path, monkeypatch, capfd):
    def fail(*_):
        raise OSError("broken")

    for module in (mapper, image_files):
        monkeypatch.setattr(module, "read_image", fail)
    assert command_here(tiny, tmp_path, "DATALOADER.NUM_WORKERS", "1") == 2
    said = capfd.readouterr()
    error = said.err.strip().splitlines()[-1]
    assert error.startswith("train_net: error: 100 images in a row could not be read")
    assert "Traceback" not in said.err + said.out


def test_ctrl_c_saves_a_checkpoint_in_all_processes_and_exits_with_0(tiny, tmp_path):
    output = tmp_path / "out"
    status = runs.start_and_signal(
        tiny, output, signal.SIGINT, "--num-gpus", "2", "SOLVER.MAX_ITER", "100000",
        "TEST.EVAL_PERIOD", "0", "SOLVER.CHECKPOINT_PERIOD", "5", to_group=True,
    )  # fmt: skip
    said = Path(f"{output}.txt").read_text()
    assert status == 0 and "Traceback" not in said, said
    assert "because SIG" in said
    last = (output / "last_checkpoint").read_text()
    assert torch.load(output / last, weights_only=True)["trainer"]["iteration"] >= 4


PERIOD = 3
ENDLESS = ("SOLVER.CHECKPOINT_PERIOD", str(PERIOD), "SOLVER.METRIC_PERIOD", "1",
           "TEST.EVAL_PERIOD", "0", "TEST.NUM_PICTURES", "0", "DATASETS.TEST", "()")  # fmt: skip


def run_silently(words):
    """One training in a process of its own."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    torch.set_num_threads(1)
    engine.main(engine.argument_parser().parse_args(words))


def last_logged_iteration(folder):
    """Of ``metrics.json``, whose last line a kill may have cut; -1 without one."""
    path = folder / "metrics.json"
    for line in reversed(path.read_text().splitlines() if path.exists() else []):
        try:
            return json.loads(line)["iteration"]
        except ValueError:
            continue
    return -1


@pytest.mark.parametrize(
    ("kills", "iterations"), [(3, 40), pytest.param(20, 300, marks=pytest.mark.acceptance)]
)
def test_a_run_killed_at_random_moments_loses_a_period_at_most_and_ends_the_same(
    tiny, tmp_path, kills, iterations
):
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["anchorkit.engine"])
    options = (*ENDLESS, "SOLVER.MAX_ITER", str(iterations))

    def start(folder, *flags):
        words = runs.command_line(tiny, folder, *flags, *options)[2:]
        process = server.Process(target=run_silently, args=(words,))
        process.start()
        return process

    output, rng, ends = tmp_path / "killed", np.random.default_rng(0), []
    while len(ends) < kills:
        process = start(output, "--resume")
        begun, seen = time.monotonic(), last_logged_iteration(output)
        while last_logged_iteration(output) == seen and time.monotonic() < begun + 120:
            assert process.is_alive()
            time.sleep(0.02)
        process.join(float(rng.uniform(0, 0.6)))  # from the first step on, any moment
        assert process.is_alive(), "more iterations are needed for so many kills"
        process.kill()
        process.join()
        for path in output.glob("*.pth"):
            read_checkpoint(str(path))
        done = last_logged_iteration(output)
        saved = -1
        if (output / "last_checkpoint").exists():
            last = output / (output / "last_checkpoint").read_text()
            saved = read_checkpoint(str(last))["trainer"]["iteration"]
        assert done - saved <= PERIOD
        ends.append(saved)
    assert ends == sorted(ends)
    for folder in (output, tmp_path / "whole"):
        process = start(folder, "--resume")
        process.join(600)
        assert process.exitcode == 0
    first, second = (
        torch.load(tmp_path / name / "model_final.pth", weights_only=True)
        for name in ("killed", "whole")
    )
    assert runs.differing(first, second) == []
