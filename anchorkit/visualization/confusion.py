"""What a classifier takes the images of each class for, as a table of colours."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import PowerNorm

from .class_matrix import ClassMatrix, Scale, draw_matrices

# Few errors among many images stay visible: a colour stands for the square root of the share.
_SCALE = Scale(
    norm=PowerNorm(0.5, vmin=0, vmax=1),
    ticks={tick: f"{100 * tick:g} %" for tick in (0, 0.01, 0.05, 0.2, 0.5, 1)},
    rows="truth",
    columns="prediction",
)


def draw_confusion(
    counts: np.ndarray, class_names: Sequence[str], *, title: str = ""
) -> np.ndarray:
    """Draw a confusion matrix: rows are the truth, columns what was predicted.

    A cell's colour is its share of its row; rows without counts are grey.

    Args:
        counts: (K, K) integers.
        class_names: K of them; long ones are shortened in the middle.
        title: "" tells how many images were counted, and how many are on the diagonal.

    Returns:
        uint8 RGB (H, W, 3); wide enough that a label is at least 10 pixels high.
    """
    counts = np.asarray(counts)
    num_classes = len(class_names)
    if counts.shape != (num_classes, num_classes) or num_classes == 0:
        raise ValueError(f"expected ({num_classes}, {num_classes}) counts, got {counts.shape}")
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.where(totals > 0, counts / np.maximum(totals, 1), np.nan)
    texts = [[str(count) if count else "" for count in row] for row in counts.tolist()]
    total, correct = int(counts.sum()), int(counts.trace())
    share = f" ({100 * correct / total:.2f} %)" if total else ""
    title = title or f"{total} images, {correct} correct{share}"
    return draw_matrices([ClassMatrix(title, shares, texts)], class_names, _SCALE)
