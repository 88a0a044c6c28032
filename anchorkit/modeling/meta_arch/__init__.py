"""Detectors, in detectron2's registry of meta-architectures."""

from .fcos import FCOS
from .foveabox import FoveaBox
from .point_detector import PointDetector
from .retinanet import BaselineRetinaNet
from .semi_anchored import SemiAnchoredDetector
from .semi_anchored_retinanet import SemiAnchoredRetinaNet
from .semi_anchored_ssd import SemiAnchoredSSD
from .ssd import SSD

__all__ = [
    "BaselineRetinaNet",
    "FCOS",
    "FoveaBox",
    "PointDetector",
    "SSD",
    "SemiAnchoredDetector",
    "SemiAnchoredRetinaNet",
    "SemiAnchoredSSD",
]
