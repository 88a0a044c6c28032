"""Pages as their readers use them: the files they show and the commands they give.

A block of code that follows a line such as "`mine/rule.py`:" is that file. The lines of blocks
marked ``sh`` are commands, which :func:`run_commands` runs in one process: detectron2 takes longer
to import than a tiny model to train.
"""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def shown_files(page: Path) -> dict[str, str]:
    """Name and text of each file that a page shows."""
    shown = re.findall(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```", page.read_text(), re.M | re.S)
    return dict(shown)


def write_files(page: Path, folder: Path) -> None:
    """Write the files that a page shows below ``folder``, beside the repository's own folders."""
    for name in ("configs", "tools"):
        (folder / name).symlink_to(ROOT / name)
    for name, text in shown_files(page).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def commands_of(page: Path) -> list[str]:
    """The lines of a page's ``sh`` blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.M | re.S)
    return [line for block in blocks for line in block.splitlines()]


def run_commands(
    commands: Sequence[str], folder: Path, overrides: Callable[[list[str]], list[str]]
) -> str:
    """Run commands in turn in ``folder``, and return what they print.

    Args:
        commands: ``python FILE ...``, and ``export NAME=VALUE``, which holds for all of them.
        overrides: of a command's words, the config keys and values that are appended to it.

    Raises:
        AssertionError: a command that ends with another status than 0, with all that was printed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["DETECTRON2_DATASETS"] = str(folder / "datasets")
    lines = []
    for command in commands:
        program, *words = shlex.split(command)
        if program == "export":
            name, _, value = words[0].partition("=")
            environment[name] = value
            continue
        assert program == "python", command
        more = overrides(words)
        if more and "--opts" not in words and words[0] != "tools/train_net.py":
            more = ["--opts", *more]
        lines.append(words + more)
    path = (environment.get("PYTHONPATH"), os.environ.get("PYTHONPATH"), str(ROOT))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    done = subprocess.run(
        [sys.executable, "-m", "tests.pages"], input=json.dumps(lines), cwd=folder,
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def _run(words: list[str]) -> None:
    print("$", shlex.join(words), flush=True)
    sys.argv = words
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise


if __name__ == "__main__":
    for line in json.load(sys.stdin):
        _run(line)
