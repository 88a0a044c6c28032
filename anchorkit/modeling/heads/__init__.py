"""Prediction heads of the dense detectors."""

from .retinanet import RetinaNetHead
from .semi_anchored import SemiAnchoredHead, SemiAnchoredPredictions

__all__ = ["RetinaNetHead", "SemiAnchoredHead", "SemiAnchoredPredictions"]
