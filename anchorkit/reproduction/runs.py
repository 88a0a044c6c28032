"""Tables, the runs that their rows are, and what came out of them."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..config import load_config
from ..errors import UserError, quoted

GAIN = "_gain"


@dataclass(frozen=True)
class Run:
    """One training, or one evaluation of another's weights.

    Attributes:
        row: name of the row.
        config: path of its file.
        overrides: keys and values in turn, without seed and folder.
        dataset: that is evaluated.
        seed: of the training.
        folder: OUTPUT_DIR. Its name tells the config and, by a hash, all values in it: rows that
            are alike share a run, also those of different tables, and changed ones do not.
        source: the run whose weights are evaluated; None: this is a training.
    """

    row: str
    config: str
    overrides: tuple[str, ...]
    dataset: str
    seed: int
    folder: str
    source: "Run | None" = None

    @property
    def results(self) -> dict[str, float] | None:
        """Metrics by name, once the run is done."""
        return self.record().get("results")

    def record(self) -> dict:
        """What is known of the run so far: "results", "seconds", "commit", "hardware"."""
        try:
            with open(os.path.join(self.folder, "run.json"), encoding="utf-8") as file:
                return json.load(file)
        except (FileNotFoundError, json.JSONDecodeError):
            return {}


@dataclass(frozen=True)
class Line:
    """A row's figures: the paper's, and those of here by seed.

    Attributes:
        name: of the row.
        paper: figures as printed.
        ours: values by figure, one for each finished seed.
        gains: differences to the row's baseline, by figure, of the seeds that both have; empty for
            a row without one.
        paper_gains: those of the paper.
        seconds: of all finished runs.
        note: why figures lack; "" if none do.
    """

    name: str
    paper: dict[str, float]
    ours: dict[str, list[float]]
    gains: dict[str, list[float]]
    paper_gains: dict[str, float]
    seconds: float
    note: str = ""


def read_table(path: str | Path) -> dict:
    """The content of a table file.

    Raises:
        UserError: there is no such file, or it is no table, names no figures, or a row that it
            lacks.
    """
    try:
        table = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(table, dict) or not isinstance(table.get("rows"), list):
        raise UserError(f"{path}: not a table: it has no rows")
    names = {row["name"] for row in table["rows"]}
    for row in table["rows"]:
        row.setdefault("paper", {})
        for key in ("baseline", "weights_from"):
            if row.get(key) not in {None, *names}:
                raise UserError(f"{path}: {key} of {row['name']!r} is no row: {row[key]!r}")
    if not figures_of(table):
        raise UserError(f"{path}: give the rows the paper's figures, or the table 'figures: [AP]'")
    return table


def choose_rows(table: dict, names: Sequence[str]) -> list[dict]:
    """The rows of these names, in the table's order; all for no names.

    Raises:
        UserError: a name that no row has.
    """
    known = [row["name"] for row in table["rows"]]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"--rows: there is no {quoted(unknown)}; rows are {quoted(known, 99)}")
    return [row for row in table["rows"] if not names or row["name"] in names]


def plan_runs(
    table: dict,
    rows: Sequence[dict],
    *,
    root: Path,
    folder: str,
    seeds: Sequence[int],
    quick: bool = False,
    overrides: Sequence[str] = (),
) -> dict[str, list[Run]]:
    """The runs of each row, by its name; none for a row without a quick version.

    Args:
        root: of the repository, which configs are relative to.
        folder: where the runs' folders are.
        overrides: for all rows alike.

    Raises:
        UserError: a config that cannot be loaded.
    """
    by_name = {row["name"]: row for row in table["rows"]}
    return {
        row["name"]: [
            run for seed in seeds
            if (run := _plan(row, by_name, root, folder, seed, quick, overrides)) is not None
        ]
        for row in rows
    }  # fmt: skip


def _plan(
    row: dict,
    rows: Mapping[str, dict],
    root: Path,
    folder: str,
    seed: int,
    quick: bool,
    overrides: Sequence[str],
) -> Run | None:
    what = row.get("quick") if quick else row
    if what is None:
        return None
    source = None
    if "weights_from" in row:
        source = _plan(rows[row["weights_from"]], rows, root, folder, seed, quick, overrides)
    config = str(root / what["config"])
    changes = (*map(str, what.get("overrides", ())), *overrides)
    cfg = load_config(config, changes)
    digest = hashlib.sha256(cfg.dump().encode()).hexdigest()[:8]
    path = os.path.join(folder, f"{Path(config).stem}_{digest}_seed{seed}")
    return Run(row["name"], config, changes, cfg.DATASETS.TEST[0], seed, path, source)


def read_results(folder: str) -> dict[str, float]:
    """The metrics of an evaluated data set, those of single classes left out.

    Raises:
        UserError: the run left no results.
    """
    path = os.path.join(folder, "results.json")
    try:
        with open(path, encoding="utf-8") as file:
            data_sets = json.load(file)
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: no results ({error})") from error
    return {
        name: value for metrics in next(iter(data_sets.values()), {}).values()
        for name, value in metrics.items()
        if "-" not in name and value is not None
    }  # fmt: skip


def figures_of(table: dict) -> list[str]:
    """The figures that a table names and that its paper prints, gains as what they are of."""
    printed = (name.removesuffix(GAIN) for row in table["rows"] for name in row["paper"])
    return list(dict.fromkeys([*table.get("figures", ()), *printed]))


def compare(
    table: dict, runs: Mapping[str, Sequence[Run]], notes: Mapping[str, str]
) -> list[Line]:
    """Put the rows' figures beside the paper's.

    Args:
        runs: by row, see :func:`plan_runs`.
        notes: by row, why a run gave no results.
    """
    figures, first = figures_of(table), table["rows"][0]["name"]
    baselines = {row.get("baseline") for row in table["rows"]}
    paper = {row["name"]: row["paper"] for row in table["rows"]}
    results = {
        name: {run.seed: run.results for run in of_row if run.results is not None}
        for name, of_row in runs.items()
    }
    lines = []
    for row in table["rows"]:
        name = row["name"]
        if name not in runs:
            continue
        own, base = results[name], row.get("baseline", name if name in baselines else first)
        theirs = results.get(base, {}) if base != name else {}
        lines.append(Line(
            name=name,
            paper={figure: paper[name][figure] for figure in figures if figure in paper[name]},
            ours={figure: [r[figure] for r in own.values() if figure in r] for figure in figures},
            gains={
                figure: [
                    own[seed][figure] - theirs[seed][figure] for seed in own
                    if figure in own[seed] and figure in theirs.get(seed, {})
                ]
                for figure in figures
            },
            paper_gains=_paper_gains(paper, name, base, figures),
            seconds=sum(run.record().get("seconds", 0.0) for run in runs[name]),
            note=notes.get(name, "" if runs[name] else "has no quick version"),
        ))  # fmt: skip
    return lines


def _paper_gains(
    paper: Mapping[str, Mapping[str, float]], name: str, base: str | None, figures: Sequence[str]
) -> dict[str, float]:
    gains = {}
    for figure in figures:
        if figure + GAIN in paper[name]:
            gains[figure] = paper[name][figure + GAIN]
        elif base != name and figure in paper[name] and figure in paper.get(base, {}):
            gains[figure] = paper[name][figure] - paper[base][figure]
    return gains
