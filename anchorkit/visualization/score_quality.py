"""Plot of scores against localisation, and of what the suppression loses."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from .canvas import NEUTRAL, PALETTE, WRONG

_BINS = 25


def draw_score_quality(score: np.ndarray, iou: np.ndarray, gain: np.ndarray | None) -> Figure:
    """Density of (score, IoU) with the mean score of each IoU, and survivors that were not best.

    Args:
        score, iou: (Q,) of the detections that match a ground-truth box.
        gain: (Q,) how much better the best box is that a detection suppressed; None leaves the
            second panel out.

    Returns:
        A figure 7 inches wide, for :func:`save_figure`.
    """
    panels = 1 if gain is None else 2
    figure = Figure(figsize=(3.5 * panels, 2.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    _draw_density(axes[0], score, iou)
    if gain is not None:
        _draw_gain(axes[1], gain)
    for axis in axes:
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_density(axis: Axes, score: np.ndarray, iou: np.ndarray) -> None:
    axis.set(xlim=(0, 1), ylim=(0, 1))
    axis.set_xlabel("IoU with the ground truth", fontsize=8)
    axis.set_ylabel("score", fontsize=8)
    axis.set_title(f"{len(score)} detections", fontsize=8, loc="left")
    if len(score) == 0:
        return
    edges = np.linspace(0, 1, _BINS + 1)
    *_, mesh = axis.hist2d(iou, score, bins=[edges, edges], cmap="Blues", norm=LogNorm(vmin=1))
    axis.figure.colorbar(mesh, ax=axis, pad=0.02).ax.tick_params(labelsize=6)
    bins = np.minimum((iou * _BINS).astype(int), _BINS - 1)
    counts = np.bincount(bins, minlength=_BINS)
    means = np.bincount(bins, score, minlength=_BINS)[counts > 0] / counts[counts > 0]
    middles = ((edges[:-1] + edges[1:]) / 2)[counts > 0]
    axis.plot(middles, means, color=PALETTE[1], linewidth=1.6, label="mean score")
    axis.legend(fontsize=7, loc="upper left", frameon=False)


def _draw_gain(axis: Axes, gain: np.ndarray) -> None:
    thresholds = np.linspace(0, 0.3, 61)
    axis.set(xlim=(0, 0.3))
    axis.set_xlabel("IoU by which a suppressed box was better", fontsize=8)
    axis.set_ylabel("detections, %", fontsize=8)
    axis.set_title("survivors that were not the best", fontsize=8, loc="left")
    if len(gain) == 0:
        return
    shares = 100 * (gain[:, None] > thresholds).mean(axis=0)
    axis.fill_between(thresholds, shares, color=WRONG, alpha=0.15, linewidth=0)
    axis.plot(thresholds, shares, color=WRONG, linewidth=1.6)
    axis.axvline(0.01, color=NEUTRAL, linewidth=0.7, linestyle=(0, (3, 2)))
    axis.set_ylim(bottom=0)
