"""Bodies of the detectors, in detectron2's backbone registry."""

from .resnet_fpn import build_resnet_fpn_p6p7_backbone

__all__ = ["build_resnet_fpn_p6p7_backbone"]
