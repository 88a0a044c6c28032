"""Who is positive, and with what label."""

from .base import Assigner, Assignment
from .dsla import DSLAAssigner
from .fcos import FCOSAssigner
from .foveabox import FoveaBoxAssigner
from .points import PointAssigner, level_size_ranges
from .semi_anchored import SemiAnchoredAssigner, SemiAnchoredAssignment
from .ssd import SSDAssigner

__all__ = [
    "Assigner",
    "Assignment",
    "DSLAAssigner",
    "FCOSAssigner",
    "FoveaBoxAssigner",
    "PointAssigner",
    "SSDAssigner",
    "SemiAnchoredAssigner",
    "SemiAnchoredAssignment",
    "level_size_ranges",
]
