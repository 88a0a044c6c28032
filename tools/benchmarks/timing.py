"""Time in alternating turns, and memory in fresh processes."""

import ctypes
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path

import torch


def alternate(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each call, one of each function a round, after one round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                times[name].append(1000 * (time.perf_counter() - start))
    return times


def table_of_times(
    times: dict[str, list[float]],
    baseline: str,
    peers: Collection[str] = (),
    *,
    images: int = 0,
    note: str = "",
) -> dict:
    """Median, quartiles, and median ratio to the baseline's call of the same round.

    Args:
        times: of :func:`alternate`.
        baseline: row whose ratio is 1.
        peers: rows of other libraries; with some, a column has the ratio to the fastest of them.
        images: in a call; not 0 adds images a second.
        note: sentence above the table.
    """
    medians = {name: statistics.median(values) for name, values in times.items()}
    references = [baseline, *(min(peers, key=medians.get) for _ in peers[:1])]
    columns = ["what", "median ms", "quartiles", *(f"/ {name}" for name in references)]
    rows = []
    for name, values in times.items():
        low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
        ratios = (_median_ratio(values, times[reference]) for reference in references)
        rows.append([name, round(medians[name], 2), f"{low:.2f} to {high:.2f}", *ratios])
        if images:
            rows[-1].append(round(1000 * images / medians[name], 2))
    return {"note": note, "columns": columns + ["images/s"] * bool(images), "rows": rows}


def _median_ratio(values: list[float], references: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(values, references, strict=True)), 3)


def in_fresh_process(module: str, function: str, *arguments: object) -> list[float]:
    """The numbers that a function of this package returns in a process of its own."""
    code = f"from benchmarks import {module}; print(*{module}.{function}(*{arguments!r}))"
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=Path(__file__).resolve().parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip
    if result.returncode:
        raise RuntimeError(f"{module}.{function}{arguments}: {result.stderr.strip()[-2000:]}")
    return [float(word) for word in result.stdout.splitlines()[-1].split()]


def added_memory(function: Callable[[], object]) -> float:
    """Megabytes by which a call exceeds what the process, or the GPU, held before."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed is not at hand for this one
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the peak starts again at the present
    before = _peak_memory()
    function()
    return _peak_memory() - before


def _peak_memory() -> float:
    """Megabytes of this process at its largest; ``ru_maxrss`` would include its parent's."""
    with open("/proc/self/status", encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file)
    return int(lines["VmHWM"].split()[0]) / 1024
