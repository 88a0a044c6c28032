"""Detectors and the classifier, in detectron2's registry of meta-architectures."""

from .classifier import ImageClassifier
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
    "ImageClassifier",
    "PointDetector",
    "SSD",
    "SemiAnchoredDetector",
    "SemiAnchoredRetinaNet",
    "SemiAnchoredSSD",
]
