"""One training, started in every way that there is: alone, by detectron2's launch, by torchrun."""

import argparse
import socket
import subprocess
import sys

import pytest
import torch

from anchorkit.errors import UserError
from anchorkit.launch import launch
from tests import test_train_net as runs

# No batch normalisation, whose statistics are those of a process, and batches dealt out in turn.
OPTIONS = (
    "MODEL.RESNETS.NORM", "GN", "MODEL.RESNETS.STEM_OUT_CHANNELS", "32",
    "MODEL.RESNETS.RES2_OUT_CHANNELS", "32", "SOLVER.MAX_ITER", "3", "SOLVER.METRIC_PERIOD", "1",
    "SOLVER.CHECKPOINT_PERIOD", "1", "SOLVER.CLIP_GRADIENTS.ENABLED", "False",
    "DATASETS.TEST", "()", "DATALOADER.ASPECT_RATIO_GROUPING", "False",
)  # fmt: skip
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return runs.write_tiny(tmp_path_factory.mktemp("launch"), "tiny_launch")


@pytest.fixture(scope="module")
def alone(tiny, tmp_path_factory):
    """What one process with the joint batch learns."""
    return run_all(tmp_path_factory.mktemp("alone"), [(sys.executable, *words(tiny))])


def words(config, *flags):
    return (str(runs.COMMAND), "--config-file", str(config), *flags, "OUTPUT_DIR", "OUT", *OPTIONS)


def run_all(output, commands, status=0):
    """Run commands beside each other; what the model learns after the first iteration, or what
    the commands say if they should fail."""
    environment = {**runs.environment(), "CUDA_VISIBLE_DEVICES": ""}
    started = [
        subprocess.Popen(
            [str(output) if word == "OUT" else word for word in command],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )
        for command in commands
    ]  # fmt: skip
    said = [process.communicate(timeout=500)[0] for process in started]
    assert [process.returncode for process in started] == [status] * len(started), "\n".join(said)
    if status:
        return said
    first, last = (
        torch.load(output / f"{name}.pth", weights_only=True)["model"]
        for name in ("model_0000000", "model_final")
    )
    return torch.cat([(last[name] - first[name]).flatten() for name in sorted(first)])


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def spawned(config):
    return [(sys.executable, *words(config, "--num-gpus", "2"))]


def torchrun(config):
    return [(*TORCHRUN, "--standalone", "--nproc-per-node", "2", *words(config))]


def two_machines(config):
    url = f"tcp://127.0.0.1:{free_port()}"
    return [
        (sys.executable, *words(config, "--num-machines", "2", "--machine-rank", str(rank),
                                "--dist-url", url))
        for rank in range(2)
    ]  # fmt: skip


def torchrun_on_two_machines(config):
    port = free_port()
    return [
        (*TORCHRUN, "--nnodes", "2", "--node-rank", str(rank), "--nproc-per-node", "1",
         "--master-addr", "127.0.0.1", "--master-port", port, *words(config))
        for rank in range(2)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "commands",
    [
        torchrun,
        torchrun_on_two_machines,
        pytest.param(spawned, marks=pytest.mark.acceptance),
        pytest.param(two_machines, marks=pytest.mark.acceptance),
    ],
)
def test_two_processes_learn_what_one_learns_from_the_joint_batch(commands, tiny, alone, tmp_path):
    learnt = run_all(tmp_path, commands(tiny))
    assert alone.norm() > 0 and (learnt - alone).norm() < 1e-3 * alone.norm()


def test_a_mistake_of_all_of_torchruns_processes_is_told_once(tiny, tmp_path):
    (said,) = run_all(tmp_path, [(*torchrun(tiny)[0], "SOLVER.IMS_PER_BATCH", "3")], status=1)
    assert said.count("train_net: error: SOLVER.IMS_PER_BATCH 3 is the number") == 1
    assert "UserError" not in said


def arguments(**changed):
    known = {"num_gpus": 1, "num_machines": 1, "machine_rank": 0, "dist_url": "auto"}
    return argparse.Namespace(**{**known, **changed})


TORCHRUNS = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("variables", "changed", "message"),
    [
        ({}, {"num_gpus": 4}, "torchrun has started the processes: leave out --num-gpus"),
        ({"LOCAL_RANK": None}, {}, "LOCAL_RANK is None; start several processes with torchrun"),
        ({"LOCAL_WORLD_SIZE": "x"}, {}, "LOCAL_WORLD_SIZE is 'x'"),
        ({"LOCAL_WORLD_SIZE": "3"}, {}, "as many processes on each machine"),
        ({"LOCAL_RANK": "0"}, {}, "as many processes on each machine"),
    ],
)
def test_an_environment_that_is_not_torchruns_is_told(monkeypatch, variables, changed, message):
    for name, value in {**TORCHRUNS, **variables}.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        launch(lambda args: None, arguments(**changed))


def test_a_single_process_of_torchrun_is_an_ordinary_run(monkeypatch):
    for name in TORCHRUNS:
        monkeypatch.setenv(name, "1" if "SIZE" in name else "0")
    called = []
    launch(called.append, arguments())
    assert len(called) == 1 and not torch.distributed.is_initialized()


def diverge(args):
    raise FloatingPointError("the loss became nan at iteration 7")


def test_a_loss_that_is_not_finite_is_told_as_one_process_tells_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(FloatingPointError, match="^the loss became nan at iteration 7$"):
        launch(diverge, arguments(num_gpus=2))
