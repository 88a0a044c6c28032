"""How sure a classifier is of each class on the images of one class, as tables of colours."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import Normalize

from .class_matrix import ClassMatrix, Scale, draw_matrices

# Fixed, so that pictures of two models can be compared.
_SCALE = Scale(
    norm=Normalize(vmin=0, vmax=1),
    ticks={tick: f"{tick:g}" for tick in (0, 0.25, 0.5, 0.75, 1)},
    rows="class of the image",
    columns="class asked about",
)


def draw_confidence(
    confidence: np.ndarray, class_names: Sequence[str], title: str = ""
) -> np.ndarray:
    """Draw one map; see :func:`draw_confidences`."""
    return draw_confidences([confidence], [title], class_names)


def draw_confidences(
    maps: Sequence[np.ndarray], titles: Sequence[str], class_names: Sequence[str]
) -> np.ndarray:
    """Draw maps of mean confidence side by side: a perfect one is 1 on the diagonal, else 0.

    The colours are the same in all pictures. Cells of up to 20 classes hold their value, unless
    it rounds to 0.00.

    Args:
        maps: each (K, K) in [0, 1]: on images of class i (row), the confidence in class j (column).
            What is not a number, such as the row of a class without images, is grey.
        titles: one for each.
        class_names: K of them; long ones are shortened in the middle.

    Returns:
        uint8 RGB (H, W, 3).
    """
    shape = (len(class_names), len(class_names))
    shapes = [np.shape(confidence) for confidence in maps]
    if not class_names or not shapes or any(other != shape for other in shapes):
        raise ValueError(f"expected maps of shape {shape}, got {shapes}")
    matrices = [
        ClassMatrix(title, np.asarray(confidence), [list(map(_text, row)) for row in confidence])
        for confidence, title in zip(maps, titles, strict=True)
    ]
    return draw_matrices(matrices, class_names, _SCALE)


def _text(value: float) -> str:
    return f"{value:.2f}" if value >= 0.005 else ""
