"""What a classifier asks of the method that trains it."""

from torch import Tensor, nn


class ClassificationMethod(nn.Module):
    """Training objective of a classifier, and how its raw outputs become scores.

    A module, so that what it must remember (a phase, a running mean) is a buffer and lies in the
    checkpoint. The network without the method is what runs at inference.

    Attributes:
        is_multi_label: whether an image may have any number of classes.
    """

    is_multi_label = False

    def losses(self, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The losses of a batch; their sum is minimised.

        Args:
            model: has ``features(images)``, (B, D), and ``head(features)``, (B, K).
            images: (B, C, H, W) float, normalised.
            labels: (B,) class indices, or (B, K) float targets (mixup). Multi-label: (B, K), 1
                for a class that is there, 0 for one that is not, -1 where it is not known.

        Returns:
            float32 scalars by name.
        """
        raise NotImplementedError

    def scores(self, outputs: Tensor) -> Tensor:
        """(B, K) estimated probabilities for raw outputs (B, K) of images taken one by one."""
        raise NotImplementedError

    def decodings(self, outputs: Tensor) -> dict[str, Tensor]:
        """Ways to rank the classes for a whole test set.

        Args:
            outputs: (N, K) raw outputs of all images, ordered by image id.

        Returns:
            (N, K) figures by the name of the protocol; the class with the highest one is the
            prediction. "" is the protocol that a single image can be classified with, and the
            others, if there are any, are reported beside it.
        """
        return {"": outputs}
