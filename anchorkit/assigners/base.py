"""What every assigner returns."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Assignment:
    """Labels of the R prior positions (locations or anchors) of one image.

    Attributes:
        labels: (R,) int64: class in [0, C - 1]; C is background, -1 is ignored.
        gt_index: (R,) int64: the matched ground-truth box, -1 for none.
        score: (R,) float32 in [0, 1]: soft label; 1 on hard positives, 0 on background.
    """

    labels: Tensor
    gt_index: Tensor
    score: Tensor
