"""Curves of a metric over a training, smoothed, for one run each or for several."""

from itertools import cycle

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .canvas import INK, NEUTRAL, PALETTE

_STYLES = ("-", (0, (5, 1.5)), (0, (1.5, 1)))


def smooth(values: np.ndarray, smoothing: float) -> np.ndarray:
    """Exponential moving average over the last axis, corrected for its start.

    s_t = (b s_{t-1} + (1 - b) y_t), divided by 1 - b^t: the weights of what came so far sum to 1,
    so that the first value is y_1 and a constant stays the same.

    Args:
        values: (..., T).
        smoothing: b in [0, 1); 0 leaves the values as they are.
    """
    values = np.asarray(values, dtype=float)
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be in [0, 1), got {smoothing}")
    result, mean = np.empty_like(values), np.zeros(values.shape[:-1])
    for step in range(values.shape[-1]):
        mean = smoothing * mean + (1 - smoothing) * values[..., step]
        result[..., step] = mean / (1 - smoothing ** (step + 1))
    return result


def draw_curves(
    curves: dict[str, tuple[np.ndarray, np.ndarray]],
    *,
    xlabel: str,
    ylabel: str,
    smoothing: float = 0.0,
) -> Figure:
    """Draw one curve for each label: the smoothed values, and faintly those they come from.

    Args:
        curves: by label, x (T,) and y (T,); or y (R, T) of R runs, drawn as their mean with a band
            of one (sample) standard deviation to both sides. Both are of the smoothed runs.
        xlabel, ylabel: of the axes.
        smoothing: see :func:`smooth`.

    Returns:
        A figure 5 inches wide, for :func:`save_figure`. Its legend gives the last values, of the
        runs themselves: smoothing leaves them as they are.
    """
    figure = Figure(figsize=(5.0, 3.3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    # Colours begin again where they end, with another style of line.
    looks = cycle([(colour, style) for style in _STYLES for colour in PALETTE])
    for (label, (x, y)), (colour, style) in zip(curves.items(), looks, strict=False):
        x, runs = np.asarray(x), np.atleast_2d(np.asarray(y, dtype=float))
        if runs.shape[1] != len(x) or len(x) == 0:
            raise ValueError(f"curve {label!r}: {len(x)} positions, values {runs.shape}")
        smoothed = smooth(runs, smoothing)
        mean = smoothed.mean(axis=0)
        if smoothing > 0:
            axes.plot(x, runs.mean(axis=0), color=colour, alpha=0.28, linewidth=0.8)
        if len(runs) > 1:
            spread = smoothed.std(axis=0, ddof=1)
            axes.fill_between(
                x, mean - spread, mean + spread, color=colour, alpha=0.16, linewidth=0
            )
        axes.plot(
            x, mean, color=colour, linestyle=style, linewidth=1.6,
            label=_legend(label, runs[:, -1]), marker="o" if len(x) == 1 else None, markersize=4,
        )  # fmt: skip
    axes.set_xlabel(xlabel, fontsize=9, color=INK, parse_math=False)
    axes.set_ylabel(ylabel, fontsize=9, color=INK, parse_math=False)
    axes.tick_params(labelsize=8, color=NEUTRAL, labelcolor=INK)
    axes.grid(color="#E6E6E6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.01)
    if curves:
        for text in axes.legend(fontsize=8, frameon=False).get_texts():
            text.set_parse_math(False)
    return figure


def _legend(label: str, last: np.ndarray) -> str:
    if len(last) == 1:
        return f"{label}: {last[0]:.2f}"
    return f"{label}: {last.mean():.2f} ± {last.std(ddof=1):.2f} ({len(last)} runs)"
