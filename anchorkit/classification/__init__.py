"""Methods that an image classifier can be trained with: tensors in, losses and scores out."""

from .base import ClassificationMethod
from .indeed import INDeeD
from .oat import OAT
from .standard import BinaryCrossEntropy, CrossEntropy

__all__ = ["INDeeD", "OAT", "BinaryCrossEntropy", "ClassificationMethod", "CrossEntropy"]
