"""The benchmarks' page and the plot of how a training step grows."""

from collections.abc import Iterable
from itertools import groupby

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from anchorkit.visualization.canvas import INK, NEUTRAL, PALETTE

INTRODUCTION = """# Benchmarks

Made by `make bench`. The rows of a table of times are measured in one process in alternating turns,
after one turn to warm up. A ratio is the median over the turns of a row's time to the reference's
in the same turn: `/ FCOS` is to the row FCOS. Peaks of memory are measured in a process each.
Weights are random. [docs/speed.md](docs/speed.md) says what the figures mean.
"""


def markdown(sections: dict[str, dict], plot: str | None = None) -> str:
    """The page of all sections; ``plot`` is the name of the file of :func:`draw_scaling`."""
    lines = [INTRODUCTION]
    for machine, names in groupby(sections, lambda name: sections[name]["hardware"]):
        facts = ", ".join(f"{key} {value}" for key, value in machine.items())
        names = list(names)
        lines += [f"Measured on: {facts} ({', '.join(names)}).", ""]
    for section in sections.values():
        for title, table in section["tables"].items():
            lines += [f"## {title}", ""]
            lines += [table["note"], ""] if table["note"] else []
            lines += _rows([table["columns"], ["---"] * len(table["columns"]), *table["rows"]])
            lines.append("")
    if plot:
        lines += [f"![Time and memory of a training step]({plot})", ""]
    return "\n".join(lines)


def _rows(rows: Iterable[list]) -> list[str]:
    return ["| " + " | ".join(map(str, row)) + " |" for row in rows]


def draw_scaling(tables: dict[str, dict]) -> Figure:
    """A column of panels for each axis: milliseconds above, megabytes below, both logarithmic."""
    drawn = list(tables.values())
    axes_names = list(dict.fromkeys(table["plot"]["axis"] for table in drawn))
    figure = Figure(figsize=(2.4 * len(axes_names), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, len(axes_names), squeeze=False, sharex="col", sharey="row")
    models = list(dict.fromkeys(table["plot"]["model"] for table in drawn))
    for table in drawn:
        model = table["plot"]["model"]
        column = axes_names.index(table["plot"]["axis"])
        for panel, place in zip(panels[:, column], (1, 2), strict=True):
            panel.plot(
                table["plot"]["amounts"], [row[place] for row in table["rows"]], "o-",
                markersize=4, color=PALETTE[models.index(model)], label=model,
            )  # fmt: skip
        # sharex: the ticks of the lower panel are those of both.
        names = [row[0] for row in table["rows"]]
        panels[1, column].set_xscale("log")
        panels[1, column].set_xticks(table["plot"]["amounts"], labels=names)
        panels[1, column].minorticks_off()
    for column, name in enumerate(axes_names):
        panels[1, column].set_xlabel(name, fontsize=9, color=INK)
    for panel, label in zip(panels[:, 0], ("training step, ms", "memory, MB"), strict=True):
        panel.set_ylabel(label, fontsize=9, color=INK)
    for panel in panels.flat:
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter("{x:,.0f}")
        panel.yaxis.set_minor_locator(NullLocator())
        panel.tick_params(labelsize=8, color=NEUTRAL, labelcolor=INK)
        panel.tick_params("x", labelsize=7, labelrotation=60)
        panel.grid(color="#E6E6E6", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    return figure
