"""Detectors, in detectron2's registry of meta-architectures."""

from .fcos import FCOS
from .foveabox import FoveaBox
from .point_detector import PointDetector
from .retinanet import BaselineRetinaNet
from .semi_anchored import SemiAnchoredDetector
from .semi_anchored_retinanet import SemiAnchoredRetinaNet

__all__ = [
    "BaselineRetinaNet",
    "FCOS",
    "FoveaBox",
    "PointDetector",
    "SemiAnchoredDetector",
    "SemiAnchoredRetinaNet",
]
