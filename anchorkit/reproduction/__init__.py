"""The papers' tables as trainings of here: rows become runs, and runs figures beside the paper's.

A table file, ``projects/<project>/tables/<table>.yaml``, has "title", "dataset", which the paper's
figures are on, and "rows"; "figures" names those to show before the paper's. A row:

    name: unique in the table
    config: file, relative to the repository
    overrides: [KEY, value, ...] on top of it
    weights_from: name of the row whose checkpoint is evaluated; the row itself is not trained
    baseline: name of the row that gains are relative to, null for none; without it the table's
        first, or none for a row that is another's baseline
    paper: {figure: value} as printed; {AP_gain: 1.2} is a gain without the figures behind it
    quick: {config, overrides} of the same row on a CPU, on the embedded data
"""

from .report import csv_rows, markdown_rows
from .runs import (
    Line,
    Run,
    choose_rows,
    compare,
    figures_of,
    plan_runs,
    read_results,
    read_table,
)

__all__ = [
    "Line",
    "Run",
    "choose_rows",
    "compare",
    "csv_rows",
    "figures_of",
    "markdown_rows",
    "plan_runs",
    "read_results",
    "read_table",
]
