#!/usr/bin/env python
"""Train the rows of a paper's table, and put their figures beside the paper's.

    python tools/reproduce.py projects/dsla/tables/table_1.yaml --num-gpus 8
    python tools/reproduce.py projects/dsla/tables/table_1.yaml --quick --seeds 0 1 2
    python tools/reproduce.py projects/oat/tables/table_4.yaml --dry-run

Each row is a run of train_net.py for each seed, in a folder of its own. What is done is not run
again, and what was interrupted is taken up, by the same command; rows that are alike share a run,
also those of different tables. A row whose data are missing says so, and the others are run. After
every run the table is written as Markdown, CSV and picture.

--quick takes the rows' versions for a CPU, on the embedded data: figures to compare with each
other, not with the paper's. The exit status is 0 when all rows are done, 1 if one could not be run,
and 2 for a mistake in the command line.
"""

import argparse
import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import anchorkit  # noqa: F401  first: it hides a warning that importing detectron2 raises

# isort: split
from anchorkit.checkpoint import write_atomically
from anchorkit.errors import UserError, exit_status
from anchorkit.machine import hardware
from anchorkit.reproduction import (
    Run,
    choose_rows,
    compare,
    csv_rows,
    figures_of,
    markdown_rows,
    plan_runs,
    read_results,
    read_table,
)
from anchorkit.visualization import draw_reproduction, save_figure

ROOT = Path(__file__).resolve().parent.parent


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", metavar="TABLE", help="projects/*/tables/*.yaml")
    parser.add_argument("--rows", nargs="+", default=[], metavar="NAME", help="(all)")
    parser.add_argument("--quick", action="store_true", help="on a CPU, on the embedded data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N", help="(0)")
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="of a training (1)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (1)")
    parser.add_argument("--output", default="output/reproduce", metavar="DIR")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be run")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE",
        help="config keys to override in all rows; must come last",
    )  # fmt: skip
    return parser


def command(run: Run, num_gpus: int) -> list[str]:
    """The command line that trains, or evaluates, a run."""
    words = [sys.executable, "-W", "ignore", str(ROOT / "tools" / "train_net.py")]
    words += ["--config-file", run.config]
    words += ["--num-gpus", str(num_gpus)] if num_gpus > 1 else []
    words += ["--resume"] if run.source is None else ["--eval-only"]
    words += [*run.overrides, "SEED", str(run.seed), "OUTPUT_DIR", run.folder]
    if run.source is not None:
        words += ["MODEL.WEIGHTS", os.path.join(run.source.folder, "model_final.pth")]
    return words


class Runner:
    """Runs command lines, several at a time, and keeps a record of each beside its results."""

    def __init__(self, num_gpus: int):
        self.num_gpus = num_gpus
        self.processes: set[subprocess.Popen] = set()
        self.is_stopped = False
        self.facts = {"commit": commit(), **hardware()}
        self._lock = threading.Lock()

    def run(self, run: Run) -> str:
        """Do a run; returns "" or, in one line, why there are no results."""
        if run.results is not None:
            return ""
        if run.source is not None and run.source.results is None:
            return f"needs the weights of the row {run.source.row}"
        os.makedirs(run.folder, exist_ok=True)
        log = os.path.join(run.folder, "console.txt")
        started = time.monotonic()
        with open(log, "w", encoding="utf-8") as stream:
            with self._lock:
                if self.is_stopped:
                    return "interrupted"
                process = subprocess.Popen(
                    command(run, self.num_gpus), stdout=stream, stderr=subprocess.STDOUT
                )
                self.processes.add(process)
            status = process.wait()
        self.processes.discard(process)
        record = run.record()
        record = {
            "row": run.row, "config": os.path.relpath(run.config, ROOT),
            "overrides": run.overrides, "seed": run.seed,
            "seconds": record.get("seconds", 0.0) + time.monotonic() - started, **self.facts,
        }  # fmt: skip
        # A training that was asked to stop ends with 0, too, but not with its last weights.
        is_done = status == 0 and (run.source is not None or is_trained(run))
        if is_done:
            record["results"] = read_results(run.folder)
        path = os.path.join(run.folder, "run.json")
        content = json.dumps(record, indent=1).encode()
        write_atomically(path, lambda file: file.write(content))
        return "" if is_done else failure(log, status)

    def stop(self) -> None:
        """Start nothing more; trainings save what they have."""
        with self._lock:
            self.is_stopped = True
            for process in self.processes:
                process.terminate()


def is_trained(run: Run) -> bool:
    return os.path.isfile(os.path.join(run.folder, "model_final.pth"))


def failure(log: str, status: int) -> str:
    """Why a command that ended with this status gave no results."""
    if status in (0, 130, -signal.SIGINT, -signal.SIGTERM):
        return "interrupted; the same command goes on"
    with open(log, encoding="utf-8", errors="replace") as stream:
        told = re.findall(r"^train_net: (?:error|stopped): (.+)$", stream.read(), re.MULTILINE)
    return told[-1] if told else f"ended with status {status}, see {log}"


def commit() -> str:
    """The commit of this repository, with "+" if files differ from it; "" outside of one."""
    def git(*words: str) -> str:
        result = subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True)
        return result.stdout.strip()

    try:
        name = git("rev-parse", "--short", "HEAD")
        return name + ("+" if name and git("status", "--porcelain", "-uno") else "")
    except FileNotFoundError:
        return ""


def main(args: argparse.Namespace) -> int:
    """Returns 0 if all rows are done, 1 if not."""
    if min(args.jobs, args.num_gpus) < 1 or min(args.seeds) < 0:
        raise UserError("--jobs and --num-gpus must be at least 1, and --seeds at least 0")
    table = read_table(args.table)
    rows = choose_rows(table, args.rows)
    folder = os.path.abspath(os.path.join(args.output, "runs"))
    plan = plan_runs(
        table, rows, root=ROOT, folder=folder, seeds=args.seeds, quick=args.quick,
        overrides=args.opts,
    )  # fmt: skip
    runs = in_order(plan)
    if args.dry_run:
        for run in runs:
            state = "done" if run.results else "begun" if os.path.isdir(run.folder) else "new"
            print(f"# {run.row}, seed {run.seed}: {state}")
            print(shlex.join(command(run, args.num_gpus)))
        for name in [name for name, of_row in plan.items() if not of_row]:
            print(f"# {name}: has no quick version")
        return 0
    os.makedirs(folder, exist_ok=True)
    runner, notes = Runner(args.num_gpus), {}
    page = write(args, table, plan, notes)
    for run, problem in execute(runs, runner, args.jobs):
        print(f"{run.row}, seed {run.seed}: {problem or 'done'}", flush=True)
        if problem:
            notes[run.row] = problem
        write(args, table, plan, notes)
    print(f"\n{Path(page).read_text(encoding='utf-8')}\n{page}")
    return int(bool(notes))


def in_order(plan: dict[str, list[Run]]) -> list[Run]:
    """Each run once, after the one whose weights it needs."""
    runs = {}
    for run in [run for of_row in plan.values() for run in of_row]:
        for one in (run.source, run):
            if one is not None:
                runs.setdefault(one.folder, one)
    return sorted(runs.values(), key=lambda run: run.source is not None)


def execute(runs: Sequence[Run], runner: Runner, jobs: int) -> Iterator[tuple[Run, str]]:
    """Yield each run as it ends, with what :meth:`Runner.run` says of it; evaluations are last."""
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for is_evaluation in (False, True):
                wave = [run for run in runs if (run.source is not None) == is_evaluation]
                futures = {pool.submit(runner.run, run): run for run in wave}
                for future in as_completed(futures):
                    yield futures[future], future.result()
        except KeyboardInterrupt:
            runner.stop()
            raise


def write(args: argparse.Namespace, table: dict, plan: dict[str, list[Run]], notes: dict) -> str:
    """Write the table as it stands; returns the path of the page."""
    path = Path(args.table).resolve()
    stem = f"{path.parent.parent.name}_{path.stem}" + ("_quick" if args.quick else "")
    target = os.path.join(args.output, stem)
    lines, figures = compare(table, plan, notes), figures_of(table)
    page = [f"# {table['title']}", "", about(args, table, plan), "", *markdown_rows(lines, figures)]
    with open(f"{target}.md", "w", encoding="utf-8") as file:
        file.write("\n".join(page) + "\n")
    with open(f"{target}.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(csv_rows(lines, figures))
    picture = draw_reproduction(
        [line.name for line in lines],
        [line.paper.get(figures[0]) for line in lines],
        [line.ours[figures[0]] for line in lines],
        figure_name=figures[0],
    )
    save_figure(picture, f"{target}.png")
    return f"{target}.md"


def about(args: argparse.Namespace, table: dict, plan: dict[str, list[Run]]) -> str:
    """What the figures were measured on and with, in one paragraph."""
    runs = [run for of_row in plan.values() for run in of_row]
    data = ", ".join(dict.fromkeys(run.dataset for run in runs)) or "nothing"
    has_paper = any(row["paper"] for row in table["rows"])
    text = f"The paper's figures are on {table['dataset']}; ours on " if has_paper else "On "
    text += f"{data}, seeds {', '.join(map(str, args.seeds))}"
    text += f", {shlex.join(args.opts)}" if args.opts else ""
    text += ". Differences and gains are of means."
    records = [run.record() for run in runs]
    for key in ("commit", *hardware()):
        values = dict.fromkeys(str(record[key]) for record in records if record.get(key))
        text += f" {key.capitalize()}: {', '.join(values)}." if values else ""
    return text


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = argument_parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return exit_status("reproduce", lambda: main(args))
    except KeyboardInterrupt:
        print("reproduce: interrupted; the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(run())
