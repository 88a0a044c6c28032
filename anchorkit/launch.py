"""Start the processes of a run: one, one per GPU, or several on a CPU."""

import contextlib
import functools
import logging
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from detectron2.engine import launch as detectron2_launch
from detectron2.utils import comm
from torch import multiprocessing as torch_multiprocessing

from .errors import UserError


def launch(main: Callable, args) -> None:
    """Call ``main(args)`` in ``--num-gpus`` processes on each of ``--num-machines`` machines.

    On CUDA this is detectron2's launch. Without CUDA the processes share the CPU through gloo,
    which is of use to try out a distributed run; detectron2 v0.6 refuses it.

    Raises:
        UserError: more GPUs asked for than there are, no address for several machines, or what
            ``main`` raised in any of the processes.
    """
    _check_arguments(args)
    world_size = args.num_gpus * args.num_machines
    if world_size == 1:
        main(args)
        return
    mistakes = torch_multiprocessing.get_context("spawn").SimpleQueue()
    run = functools.partial(_run_and_report, main, mistakes)
    with _forward_termination():
        try:
            if torch.cuda.is_available():
                detectron2_launch(
                    run, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, (args,)
                )
            else:
                _launch_on_cpu(run, world_size, args)
        except Exception:
            if not mistakes.empty():
                raise UserError(mistakes.get()) from None
            raise


def _check_arguments(args) -> None:
    if args.num_gpus < 1 or args.num_machines < 1:
        raise UserError(
            f"--num-gpus {args.num_gpus} and --num-machines {args.num_machines}: both must be at "
            "least 1; a CPU run is one process: leave them out"
        )
    if not 0 <= args.machine_rank < args.num_machines:
        raise UserError(
            f"--machine-rank {args.machine_rank}: must be from 0 to --num-machines - 1, "
            f"{args.num_machines - 1}"
        )
    if torch.cuda.is_available() and args.num_gpus > torch.cuda.device_count():
        raise UserError(
            f"--num-gpus {args.num_gpus}: this machine shows {torch.cuda.device_count()} GPU(s)"
        )
    if args.num_machines > 1 and args.dist_url == "auto":
        raise UserError(
            "--num-machines > 1 needs --dist-url tcp://HOST:PORT, an address of machine 0 that "
            "every machine can reach"
        )


def _run_and_report(main: Callable, mistakes, args) -> None:
    """Run one rank; a user's mistake goes to the parent process, which prints it once."""
    try:
        main(args)
    except UserError as error:
        mistakes.put(str(error))
        sys.stdout.flush()
        # Without clean-up: the other ranks may wait for this one in a collective.
        os._exit(2)


def _launch_on_cpu(run: Callable, world_size: int, args) -> None:
    logging.getLogger(__name__).warning(
        "no CUDA device: %d processes share the CPU of this machine (gloo)", args.num_gpus
    )
    url = args.dist_url
    if url == "auto":
        url = f"tcp://127.0.0.1:{_free_port()}"
    torch_multiprocessing.start_processes(
        _cpu_worker,
        args=(run, world_size, url, args),
        nprocs=args.num_gpus,
        start_method="spawn",
    )


def _cpu_worker(local_rank: int, run: Callable, world_size: int, url: str, args) -> None:
    torch.set_num_threads(max(1, torch.get_num_threads() // args.num_gpus))
    dist.init_process_group(
        "gloo",
        init_method=url,
        world_size=world_size,
        rank=args.machine_rank * args.num_gpus + local_rank,
        timeout=timedelta(minutes=30),
    )
    _create_local_group(args.num_gpus, args.num_machines, args.machine_rank)
    comm.synchronize()
    run(args)
    dist.destroy_process_group()


def _create_local_group(size: int, num_machines: int, machine_rank: int) -> None:
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(size)
        return
    for machine in range(num_machines):  # detectron2 v0.6 leaves this to its own launch
        group = dist.new_group(list(range(machine * size, (machine + 1) * size)))
        if machine == machine_rank:
            comm._LOCAL_PROCESS_GROUP = group


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def _forward_termination():
    """Hand SIGTERM on to the ranks, which save a checkpoint and end by themselves."""

    def forward(_signal, _frame):
        for process in multiprocessing.active_children():
            process.terminate()

    previous = signal.signal(signal.SIGTERM, forward)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
