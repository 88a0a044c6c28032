"""Bodies of the detectors and of the classifier, in detectron2's backbone registry."""

from .deformable import DeformBottleneckBlock
from .library import LibraryBody, build_timm_body, build_torchvision_body
from .library_fpn import LibraryMaps, build_library_fpn_backbone
from .lightweight_cnn import LightweightCNN, build_lightweight_cnn
from .resnet_fpn import build_resnet_fpn_p6p7_backbone
from .simple_cnn import SimpleCNN, build_simple_cnn
from .vgg import SSDVGG, build_ssd_vgg_backbone
from .wide_resnet import WideResNet, build_wide_resnet

__all__ = [
    "DeformBottleneckBlock",
    "LibraryBody",
    "LibraryMaps",
    "LightweightCNN",
    "SSDVGG",
    "SimpleCNN",
    "WideResNet",
    "build_library_fpn_backbone",
    "build_lightweight_cnn",
    "build_resnet_fpn_p6p7_backbone",
    "build_simple_cnn",
    "build_ssd_vgg_backbone",
    "build_timm_body",
    "build_torchvision_body",
    "build_wide_resnet",
]
