"""The results of an evaluation as files: a table to read and the figures to compute with."""

import json
import math
import os


def write_tables(results: dict[str, dict], output_dir: str) -> str:
    """Write ``results.md`` and ``results.json`` into ``output_dir``.

    Args:
        results: ``{data set: {task: {metric: value}}}``; a metric that could not be computed is
            not a number: ``—`` in the table, ``null`` in the JSON file. Metrics of single classes
            are called ``<metric>-<class>``, such as ``AP-dog``; no other has a "-" in its name.

    Returns:
        The path of ``results.md``.
    """
    plain = {
        name: {
            task: {metric: _finite(value) for metric, value in metrics.items()}
            for task, metrics in tasks.items()
        }
        for name, tasks in results.items()
    }
    with open(os.path.join(output_dir, "results.json"), "w") as file:
        json.dump(plain, file, indent=1)
        file.write("\n")
    path = os.path.join(output_dir, "results.md")
    with open(path, "w") as file:
        file.write("\n".join(_sections(plain)))
    return path


def _sections(results: dict[str, dict]):
    for name, tasks in results.items():
        yield f"## {name}\n"
        if not tasks:
            yield "No metrics: the data set has no annotations.\n"
        for task, metrics in tasks.items():
            main = {key: value for key, value in metrics.items() if "-" not in key}
            yield f"| {task} | " + " | ".join(main) + " |"
            yield "|---" * (len(main) + 1) + "|"
            digits = 4 if task == "validation" else 2  # losses are small
            cells = [_figure(value, digits) for value in main.values()]
            yield f"| {name} | {' | '.join(cells)} |\n"
            yield from _class_table(metrics)


def _class_table(metrics: dict[str, float | None]):
    """A row for each class, a column for each metric that single classes have."""
    classes: dict[str, dict[str, float | None]] = {}
    columns: dict[str, None] = {}
    for key, value in metrics.items():
        metric, dash, name = key.partition("-")
        if dash:
            classes.setdefault(name, {})[metric] = value
            columns[metric] = None
    if not classes:
        return
    yield "| class | " + " | ".join(columns) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for name, of_class in classes.items():
        yield f"| {name} | " + " | ".join(_figure(of_class.get(c)) for c in columns) + " |"
    yield ""


def _finite(value) -> float | None:
    value = float(value)
    return value if math.isfinite(value) else None


def _figure(value: float | None, digits: int = 2) -> str:
    return "—" if value is None else f"{value:.{digits}f}"
