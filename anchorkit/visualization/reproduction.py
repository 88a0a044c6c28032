"""Figures of the rows of a table, the paper's and those of here, as points on one axis."""

from collections.abc import Sequence
from statistics import mean, stdev

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .canvas import INK, NEUTRAL, PALETTE


def draw_reproduction(
    names: Sequence[str],
    paper: Sequence[float | None],
    ours: Sequence[Sequence[float]],
    *,
    figure_name: str,
) -> Figure:
    """Draw one line for each row: a ring for the paper's figure, a dot for the mean of ours.

    Args:
        names: of the rows, from top to bottom.
        paper: figures as printed; None: not printed.
        ours: values of all seeds; none: not measured. Several get a bar of one (sample) standard
            deviation to both sides.
        figure_name: title of the axis, such as "AP".

    Returns:
        A figure for :func:`save_figure`.
    """
    figure = Figure(figsize=(5.0, 0.9 + 0.27 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for place, (theirs, values) in enumerate(zip(paper, ours, strict=True)):
        if theirs is not None:
            axes.plot(theirs, place, "o", markersize=6, fillstyle="none", color=NEUTRAL)
        if values:
            error = stdev(values) if len(values) > 1 else None
            axes.errorbar(
                mean(values), place, xerr=error, fmt="o", markersize=5, color=PALETTE[0],
                elinewidth=1.6,
            )  # fmt: skip
    # One of each, off the axes, for the legend.
    axes.plot([], [], "o", markersize=6, fillstyle="none", color=NEUTRAL, label="paper")
    axes.plot([], [], "o", markersize=5, color=PALETTE[0], label="ours")
    axes.set_yticks(range(len(names)), labels=names, parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(figure_name, fontsize=9, color=INK, parse_math=False)
    axes.tick_params(labelsize=8, color=NEUTRAL, labelcolor=INK)
    axes.grid(color="#E6E6E6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper right", ncols=2, fontsize=8, frameon=False)
    return figure
