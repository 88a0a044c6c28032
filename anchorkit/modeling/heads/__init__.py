"""Prediction heads of the dense detectors."""

from .fcos import FCOSHead, FCOSPredictions
from .retinanet import RetinaNetHead
from .semi_anchored import SemiAnchoredHead, SemiAnchoredPredictions

__all__ = [
    "FCOSHead",
    "FCOSPredictions",
    "RetinaNetHead",
    "SemiAnchoredHead",
    "SemiAnchoredPredictions",
]
