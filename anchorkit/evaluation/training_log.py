"""Metrics over a training, read from the metrics.json that it leaves in its output folder."""

import difflib
import json
import math
import os

import numpy as np

from ..errors import UserError


def read_metric(folder: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """The iterations (T,) and values (T,) of the lines that hold a metric, by iteration.

    Of an iteration that a resumed training came to again, the last line counts. Values that are
    not finite are left out.

    Args:
        folder: OUTPUT_DIR of a training.
        metric: such as "classification/acc1".

    Raises:
        UserError: there is no such file or metric, or the file is damaged.
    """
    path = os.path.join(folder, "metrics.json")
    values, names = {}, set()
    for line in _lines(path):
        names |= set(line)
        value = line.get(metric)
        if isinstance(value, int | float) and "iteration" in line and math.isfinite(value):
            values[line["iteration"]] = float(value)
    if not values:
        raise UserError(f"{path}: {_absence(metric, names)}")
    iterations = sorted(values)
    return np.array(iterations), np.array([values[i] for i in iterations])


def average_runs(runs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The iterations (T,) that R runs have in common, and their values there (R, T).

    Raises:
        UserError: there is none.
    """
    common = set.intersection(*(set(iterations.tolist()) for iterations, _ in runs))
    if not common:
        raise UserError(
            "runs with the same label are averaged, but they were not evaluated at the same "
            "iterations; give each its own --labels"
        )
    keep = sorted(common)
    values = [dict(zip(x.tolist(), y.tolist(), strict=True)) for x, y in runs]
    return np.array(keep), np.array([[run[i] for i in keep] for run in values])


def _lines(path: str) -> list[dict]:
    try:
        with open(path, encoding="utf-8") as file:
            texts = file.read().split("\n")
    except OSError as error:
        raise UserError(
            f"{path}: expected the metrics of a training, name its OUTPUT_DIR: {error.strerror}"
        ) from error
    lines = []
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except json.JSONDecodeError as error:
            if number == len(texts):
                break  # a training that is running, or was stopped, is in the middle of this line
            raise UserError(
                f"{path}, line {number}: expected one JSON object a line: {error}; remove the line"
            ) from error
        if not isinstance(line, dict):
            raise UserError(f"{path}, line {number}: expected a JSON object; remove the line")
        lines.append(line)
    return lines


def _absence(metric: str, names: set[str]) -> str:
    if metric in names:
        return f"metric {metric!r} is there, but never as a finite number; choose another --metric"
    known = sorted(names - {"iteration"})
    match = difflib.get_close_matches(metric, known, n=1, cutoff=0.0)
    if not match:
        return f"no metric {metric!r}: nothing has been logged yet; train on"
    return f"no metric {metric!r}; did you mean {match[0]!r}? (--metric)"
