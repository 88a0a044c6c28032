"""Start the processes of a run: one, one per GPU, several on a CPU, or as torchrun's."""

import contextlib
import functools
import logging
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from detectron2.engine import launch as detectron2_launch
from detectron2.utils import comm
from torch import multiprocessing as torch_multiprocessing

from .errors import UserError

_TIMEOUT = timedelta(minutes=30)
# Variables that torchrun sets, beside MASTER_ADDR and MASTER_PORT, which torch reads.
_TORCHRUN_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


def launch(main: Callable, args) -> None:
    """Call ``main(args)`` in ``--num-gpus`` processes on each of ``--num-machines`` machines.

    On CUDA this is detectron2's launch. Without CUDA the processes share the CPU through gloo,
    which is of use to try out a distributed run; detectron2 v0.6 refuses it.

    A process that torchrun has started, which the environment tells, becomes one rank of its run.

    Raises:
        UserError: more GPUs asked for than there are, no address for several machines, or what
            ``main`` raised in any of the processes.
        FloatingPointError: raised by ``main``.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ:
        _run_as_rank(main, args)
        return
    _check_arguments(args)
    world_size = args.num_gpus * args.num_machines
    if world_size == 1:
        main(args)
        return
    mistakes = torch_multiprocessing.get_context("spawn").SimpleQueue()
    run = functools.partial(_run_and_report, main, mistakes)
    with _forward_signals() as received:
        try:
            if torch.cuda.is_available():
                detectron2_launch(
                    run, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, (args,)
                )
            else:
                _launch_on_cpu(run, world_size, args)
        except Exception:
            if not mistakes.empty():
                raise mistakes.get() from None
            if received:
                raise UserError(f"ended by {received[0]} before training had begun") from None
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
    except (UserError, FloatingPointError) as error:
        mistakes.put(type(error)(str(error)))
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
        timeout=_TIMEOUT,
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
def _forward_signals():
    """Hand SIGTERM and Ctrl-C on to the ranks, which save a checkpoint and end by themselves.

    A second Ctrl-C ends all at once. Yields a list in which the names of received signals appear.
    """
    received = []

    def forward(number, _frame):
        received.append(signal.Signals(number).name)
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
        for process in multiprocessing.active_children():
            process.terminate()

    numbers = (signal.SIGTERM, signal.SIGINT)
    previous = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _run_as_rank(main: Callable, args) -> None:
    """Join the processes that torchrun has started, and run ``main`` as one of them."""
    rank, world_size, local_rank, local_size = map(_torchrun_number, _TORCHRUN_NUMBERS)
    if (args.num_gpus, args.num_machines) != (1, 1):
        raise UserError(
            "torchrun has started the processes: leave out --num-gpus and --num-machines, and give "
            "torchrun --nproc-per-node and --nnodes"
        )
    machine, rest = divmod(rank - local_rank, local_size)
    if rest or world_size % local_size:
        raise UserError("torchrun must start as many processes on each machine (--nproc-per-node)")
    on_cuda = torch.cuda.is_available()
    if on_cuda and local_rank >= torch.cuda.device_count():
        raise UserError(
            f"torchrun --nproc-per-node {local_size}: this machine shows "
            f"{torch.cuda.device_count()} GPU(s)"
        )
    if on_cuda:
        torch.cuda.set_device(local_rank)
    store, rank, world_size = next(dist.rendezvous("env://", timeout=_TIMEOUT))
    dist.init_process_group(
        "nccl" if on_cuda else "gloo",
        store=store,
        rank=rank,
        world_size=world_size,
        timeout=_TIMEOUT,
    )
    _create_local_group(local_size, world_size // local_size, machine)
    comm.synchronize()
    try:
        main(args)
    except (UserError, FloatingPointError):
        # The first rank with a mistake tells it, and torchrun then ends the others.
        if store.add("anchorkit_mistakes", 1) == 1:
            raise
        time.sleep(10)
        os._exit(2)
    dist.destroy_process_group()


def _torchrun_number(name: str) -> int:
    try:
        return int(os.environ[name])
    except (KeyError, ValueError):
        raise UserError(
            f"the environment has RANK and WORLD_SIZE, but {name} is {os.environ.get(name)!r}; "
            "start several processes with torchrun, or unset RANK and use --num-gpus"
        ) from None
