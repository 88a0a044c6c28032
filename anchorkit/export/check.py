"""Whether an exported file gives what the model gives."""

from collections.abc import Mapping

import torch
from torch import Tensor

# Boxes may differ by so many pixels, scores and raw outputs by a hundredth of it.
_TOLERANCE = 0.1
_IN_PIXELS = ("boxes", "classes")


def same_share(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> float:
    """Share of the rows of all outputs that two runs have in common; 1 if neither has any.

    Detections, which have "classes", may stand in any order: rounding swaps those whose scores are
    nearly the same. Other rows must stand at the same place.
    """
    rows, others = _rows(expected), _rows(found)
    if len(rows) == 0 or len(others) == 0:
        return float(len(rows) == len(others))
    if "classes" in expected:
        distances = torch.cdist(rows, others, p=float("inf"))
        num_same = (distances.amin(dim=1) <= _TOLERANCE).sum()
    elif rows.shape == others.shape:
        is_close = torch.isclose(rows, others, rtol=1e-3, atol=_TOLERANCE, equal_nan=True)
        num_same = is_close.all(dim=1).sum()
    else:
        return 0.0
    return float(num_same) / max(len(rows), len(others))


def _rows(outputs: Mapping[str, Tensor]) -> Tensor:
    """All outputs side by side, each in its unit of tolerance."""
    columns = []
    for name, one in outputs.items():
        one = one.cpu().float() * (1 if name in _IN_PIXELS else 100)
        columns.append(one if one.dim() == 2 else one[:, None])
    return torch.cat(columns, dim=1)
