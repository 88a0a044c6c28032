"""Prediction heads of the dense detectors."""

from .fcos import FCOSHead, FCOSPredictions
from .retinanet import RetinaNetHead
from .semi_anchored import SemiAnchoredHead, SemiAnchoredPredictions
from .ssd import SemiAnchoredSSDHead, SSDHead, SSDPredictions

__all__ = [
    "FCOSHead",
    "FCOSPredictions",
    "RetinaNetHead",
    "SSDHead",
    "SSDPredictions",
    "SemiAnchoredHead",
    "SemiAnchoredPredictions",
    "SemiAnchoredSSDHead",
]
