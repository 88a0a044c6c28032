"""The results of an evaluation as files: a table to read and the figures to compute with."""

import json
import math
import os


def write_tables(results: dict[str, dict], output_dir: str) -> str:
    """Write ``results.md`` and ``results.json`` into ``output_dir``.

    Args:
        results: ``{data set: {task: {metric: value}}}``; a metric that could not be computed is
            not a number: ``—`` in the table, ``null`` in the JSON file.

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
            main = {key: value for key, value in metrics.items() if not key.startswith("AP-")}
            classes = {key[3:]: value for key, value in metrics.items() if key.startswith("AP-")}
            yield f"| {task} | " + " | ".join(main) + " |"
            yield "|---" * (len(main) + 1) + "|"
            yield f"| {name} | " + " | ".join(map(_figure, main.values())) + " |\n"
            if classes:
                yield "| class | AP |\n|---|---|"
                yield from (f"| {key} | {_figure(value)} |" for key, value in classes.items())
                yield ""


def _finite(value) -> float | None:
    value = float(value)
    return value if math.isfinite(value) else None


def _figure(value: float | None) -> str:
    return "—" if value is None else f"{value:.2f}"
