#!/usr/bin/env python
"""Train the semi-anchored RetinaNet on digit scenes, evaluate it, and draw what it does.

    python tools/demo_digit_scenes.py                   # or: make demo
    make demo ARGS="SOLVER.MAX_ITER 300"                 # with config keys overridden

Runs the same commands that one would type, shows them, and ends with where everything is. The
scenes are written to $DETECTRON2_DATASETS, or ./datasets, the first time.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import threading
import time

REPO = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CONFIG = os.path.join(REPO, "configs", "quick", "semi_anchored_retinanet_digit_scenes.yaml")
OUTPUT = os.path.join("output", "demo")
NUM_ASSIGNMENTS = 4
# Fewer iterations than the config's, so that the demo takes under six minutes on two cores.
MAX_ITER = "1300"
# A command that says nothing for so many seconds is reported to be at work.
QUIET_SECONDS = 15.0
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def main() -> int:
    """Run the demo; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "opts", nargs="*", metavar="KEY VALUE", help="config keys to override, such as in train_net"
    )
    defaults = ["OUTPUT_DIR", OUTPUT, "SOLVER.MAX_ITER", MAX_ITER]
    overrides = [*defaults, *parser.parse_args().opts]
    output = dict(zip(overrides[::2], overrides[1::2], strict=False))["OUTPUT_DIR"]
    started = time.monotonic()
    # What an earlier demo left must not pass for this one's.
    results = os.path.join(output, "results.json")
    if os.path.exists(results):
        os.remove(results)
    config = ["--config-file", os.path.relpath(CONFIG)]
    status = run("train_net.py", [*config, *overrides])
    trained = time.monotonic()
    assignment = os.path.join(output, "assignment")
    if status == 0:
        status = run(
            "visualize_assignment.py",
            [*config, "--num-images", str(NUM_ASSIGNMENTS), "--output", assignment,
             "--opts", *overrides],
        )  # fmt: skip
    if status == 0:
        seconds = trained - started, time.monotonic() - started
        print(closing_note(output, assignment, results, *seconds))
    return status


def run(tool: str, arguments: list[str]) -> int:
    """Run one of this folder's tools with its output passed on; returns its exit status."""
    command = [sys.executable, os.path.join(REPO, "tools", tool), *arguments]
    shown = ["python", os.path.relpath(command[1]), *arguments]
    print(f"\n$ {shlex.join(shown)}", flush=True)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    last_line = [time.monotonic()]
    finished = threading.Event()
    watch = threading.Thread(target=_report_silence, args=(last_line, finished), daemon=True)
    watch.start()
    try:
        for line in process.stdout:
            last_line[0] = time.monotonic()
            print(line, end="", flush=True)
        return process.wait()
    except KeyboardInterrupt:
        # The terminal has sent it to the command as well.
        process.wait()
        return 130
    finally:
        finished.set()
        watch.join()


def closing_note(
    output: str, assignment: str, results: str, train_seconds: float, all_seconds: float
) -> str:
    """The table of average precision, the time, and where everything is."""
    lines = ["", "Demo: semi-anchored RetinaNet on digit scenes, validation set", ""]
    lines += _table(results) if os.path.exists(results) else ["  no evaluation: training was cut"]
    lines += [
        "",
        f"  time        {_minutes(all_seconds)}, of which training and evaluation "
        f"{_minutes(train_seconds)}",
    ]
    places = {
        "model": os.path.join(output, "model_final.pth"),
        "log": os.path.join(output, "log.txt"),
        "table": os.path.join(output, "results.md"),
        "detections": os.path.join(output, "pictures"),
        "labels": assignment,
    }
    lines += [f"  {name:<12}{path}" for name, path in places.items() if os.path.exists(path)]
    return "\n".join(lines)


def _table(path: str) -> list[str]:
    with open(path, encoding="utf-8") as file:
        results = json.load(file)
    rows = ["  " + "".join(f"{metric:>8}" for metric in METRICS)]
    for tasks in results.values():
        values = [tasks.get("bbox", {}).get(metric) for metric in METRICS]
        rows.append("  " + "".join(f"{'—' if v is None else f'{v:.1f}':>8}" for v in values))
    return rows


def _report_silence(last_line: list[float], finished: threading.Event) -> None:
    """Say every so often that the command is at work, while it says nothing itself."""
    started = time.monotonic()
    while not finished.wait(1.0):
        now = time.monotonic()
        if now - last_line[0] >= QUIET_SECONDS:
            last_line[0] = now
            print(f"... at work ({now - started:.0f} s)", flush=True)


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


if __name__ == "__main__":
    sys.exit(main())
