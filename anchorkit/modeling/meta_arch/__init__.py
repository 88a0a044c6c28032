"""Detectors, in detectron2's registry of meta-architectures."""

from .retinanet import BaselineRetinaNet
from .semi_anchored import SemiAnchoredDetector
from .semi_anchored_retinanet import SemiAnchoredRetinaNet

__all__ = ["BaselineRetinaNet", "SemiAnchoredDetector", "SemiAnchoredRetinaNet"]
