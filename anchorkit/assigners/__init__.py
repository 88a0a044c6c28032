"""Who is positive, and with what label."""

from .base import Assignment
from .fcos import FCOSAssigner
from .semi_anchored import SemiAnchoredAssigner, SemiAnchoredAssignment

__all__ = ["Assignment", "FCOSAssigner", "SemiAnchoredAssigner", "SemiAnchoredAssignment"]
