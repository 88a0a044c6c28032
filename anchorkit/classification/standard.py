"""The baselines: cross entropy over the classes, and of each class alone."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import ClassificationMethod


class CrossEntropy(ClassificationMethod):
    """Softmax cross entropy, towards class indices or soft targets.

    Args:
        label_smoothing: share of each target that is spread evenly over all classes.
    """

    def __init__(self, *, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = label_smoothing

    def losses(self, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        outputs = model.head(model.features(images)).float()
        loss = F.cross_entropy(outputs, labels, label_smoothing=self.label_smoothing)
        return {"loss_class": loss}

    def scores(self, outputs: Tensor) -> Tensor:
        return outputs.float().softmax(dim=1)


def binary_losses(outputs: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """(B,) sigmoid cross entropy summed over the classes that are known (INDeeD's eq. 10).

    Args:
        outputs: (B, K) logits.
        labels: (B, K) in [0, 1]; -1 where it is not known.
        label_smoothing: targets lie so much nearer to 0.5, as a share of their distance.
    """
    targets = labels.clamp(min=0)
    if label_smoothing > 0:
        targets = torch.lerp(targets, torch.full_like(targets, 0.5), label_smoothing)
    terms = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
    return (terms * (labels >= 0)).sum(dim=1)


class BinaryCrossEntropy(ClassificationMethod):
    """Sigmoid cross entropy of each class: the multi-label baseline.

    Args:
        label_smoothing: see :func:`binary_losses`.
    """

    is_multi_label = True

    def __init__(self, *, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = label_smoothing

    def losses(self, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        outputs = model.head(model.features(images)).float()
        return {"loss_class": binary_losses(outputs, labels.float(), self.label_smoothing).mean()}

    def scores(self, outputs: Tensor) -> Tensor:
        return outputs.float().sigmoid()
