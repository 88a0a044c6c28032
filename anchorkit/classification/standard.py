"""The baseline: cross entropy."""

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
