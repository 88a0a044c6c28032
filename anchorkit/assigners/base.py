"""What every assigner takes and returns."""

from collections.abc import Sequence
from dataclasses import dataclass

from detectron2.structures import Instances
from torch import Tensor


@dataclass(frozen=True)
class Assignment:
    """Labels of the R prior positions (locations or anchors) of each of N images.

    Image stands after image, and boxes are counted through over the images.

    Attributes:
        labels: (N R,) int64: class in [0, C - 1]; C is background, -1 is ignored.
        gt_index: (N R,) int64: the matched ground-truth box, -1 for none.
        score: (N R,) float32 in [0, 1]: soft label; 1 on hard positives, 0 on background.
    """

    labels: Tensor
    gt_index: Tensor
    score: Tensor


class Assigner:
    """Labels prior positions, which all images of a batch share."""

    def __call__(self, priors: Sequence[Tensor], gt_instances: Instances) -> Assignment:
        """Label one image."""
        return self.label_images(priors, [gt_instances])

    def label_images(
        self, priors: Sequence[Tensor], gt_instances: Sequence[Instances]
    ) -> Assignment:
        """Label N images at once; no image makes a difference to another's labels.

        Args:
            priors: for each level its anchors or locations, R in all.
            gt_instances: for each image ``gt_boxes`` (M boxes) and ``gt_classes`` (M,).
        """
        raise NotImplementedError
