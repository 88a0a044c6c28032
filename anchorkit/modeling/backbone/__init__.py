"""Bodies of the detectors, in detectron2's backbone registry."""

from .resnet_fpn import build_resnet_fpn_p6p7_backbone
from .vgg import SSDVGG, build_ssd_vgg_backbone

__all__ = ["SSDVGG", "build_resnet_fpn_p6p7_backbone", "build_ssd_vgg_backbone"]
