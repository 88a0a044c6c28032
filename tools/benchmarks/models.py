"""The detectors that are compared: 80 classes, random weights, frozen normalisation in the body."""

from collections.abc import Callable
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, build_model, build_resnet_backbone
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.meta_arch.fcos import FCOS, FCOSHead
from detectron2.structures import Boxes, Instances
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import feature_pyramid_network
from torchvision.ops.misc import FrozenBatchNorm2d

import anchorkit.modeling  # noqa: F401  (registers the meta-architectures)
from anchorkit.config import load_config

ROOT = Path(__file__).resolve().parents[2]
COCO = "configs/COCO-Detection"
SEMI_ANCHORED = "projects/semi_anchored/configs/semi_anchored_retinanet_R_50_FPN_1x"
# Sides of COCO's boxes span about these pixels at a shorter image side of 800.
BOX_SIDES = (16.0, 500.0)
SSD_THRESHOLD = 0.02

CONFIGS = {
    "semi-anchored RetinaNet, 25 anchors": f"{COCO}/semi_anchored_retinanet_R_50_FPN_1x.yaml",
    "semi-anchored RetinaNet, 9 anchors": f"{SEMI_ANCHORED}_3x3.yaml",
    "semi-anchored RetinaNet, 1 anchor": f"{SEMI_ANCHORED}_1x1.yaml",
    "RetinaNet": f"{COCO}/retinanet_R_50_FPN_1x.yaml",
    "DSLA on FCOS": f"{COCO}/dsla_fcos_R_50_FPN_1x.yaml",
    "FCOS": f"{COCO}/fcos_R_50_FPN_1x.yaml",
    "DSLA on FoveaBox": f"{COCO}/dsla_foveabox_R_50_FPN_1x.yaml",
    "FoveaBox": f"{COCO}/foveabox_R_50_FPN_1x.yaml",
    "semi-anchored SSD300": f"{COCO}/semi_anchored_ssd300_VGG_16_120e.yaml",
    "SSD300": f"{COCO}/ssd300_VGG_16_120e.yaml",
}


def read_config(name: str, device: str, depth: int, overrides: list[str] | None = None) -> CfgNode:
    """The config of a detector of :data:`CONFIGS`, its ResNet of the given depth."""
    pairs = ["MODEL.DEVICE", device, "MODEL.NUM_CLASSES", "80", "MODEL.WEIGHTS", ""]
    if depth < 50 and "SSD" not in name:
        pairs += ["MODEL.RESNETS.DEPTH", str(depth), "MODEL.RESNETS.RES2_OUT_CHANNELS", "64"]
    return load_config(str(ROOT / CONFIGS[name]), pairs + (overrides or []))


def detectron2_retinanet(device: str, depth: int) -> nn.Module:
    overrides = ["MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.RETINANET.NORM", ""]
    overrides += ["MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone"]
    return build_model(read_config("RetinaNet", device, depth, overrides))


def detectron2_fcos(device: str, depth: int) -> nn.Module:
    """detectron2's FCOS as its configs have it."""
    cfg = read_config("FCOS", device, depth)
    body = FPN(
        build_resnet_backbone(cfg, ShapeSpec(channels=3)),
        cfg.MODEL.FPN.IN_FEATURES,
        out_channels=256,
        top_block=LastLevelP6P7(256, 256, in_feature="p5"),
    )
    shapes = [ShapeSpec(channels=256)] * 5
    head = FCOSHead(
        input_shape=shapes, num_classes=80, conv_dims=[256] * 4, norm="GN", prior_prob=0.01
    )
    return FCOS(
        backbone=body,
        head=head,
        head_in_features=["p3", "p4", "p5", "p6", "p7"],
        num_classes=80,
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
    ).to(device)


class Torchvision(nn.Module):
    """A detector of torchvision with the inputs and outputs of a detectron2 model."""

    def __init__(self, model: nn.Module, device: str):
        super().__init__()
        self.device = torch.device(device)
        self.model = model.to(self.device)

    def forward(self, data: list[dict]):
        images = [sample["image"].to(self.device) / 255 for sample in data]
        if not self.training:
            return self.model(images)
        instances = [sample["instances"].to(self.device) for sample in data]
        targets = [{"boxes": i.gt_boxes.tensor, "labels": i.gt_classes + 1} for i in instances]
        return self.model(images, targets)


def torchvision_dense(model: Callable, device: str, depth: int) -> nn.Module:
    """torchvision's RetinaNet or FCOS without its resizing, which the others do not do either."""
    body = resnet_fpn_backbone(
        backbone_name=f"resnet{depth}", weights=None, norm_layer=FrozenBatchNorm2d,
        trainable_layers=3, returned_layers=[2, 3, 4],
        extra_blocks=feature_pyramid_network.LastLevelP6P7(256, 256),
    )  # fmt: skip
    detector = model(body, num_classes=81)
    detector.transform.resize = lambda image, target: (image, target)
    # No score of the others exceeds the threshold; these would, as this body's features are large.
    nn.init.zeros_(detector.head.classification_head.cls_logits.weight)
    return Torchvision(detector, device)


def torchvision_ssd300(device: str, depth: int) -> nn.Module:
    model = detection.ssd300_vgg16(
        weights=None, weights_backbone=None, num_classes=81, score_thresh=SSD_THRESHOLD
    )
    return Torchvision(model, device)


PEERS = {
    "detectron2 RetinaNet": detectron2_retinanet,
    "torchvision RetinaNet": lambda *to: torchvision_dense(detection.RetinaNet, *to),
    "detectron2 FCOS": detectron2_fcos,
    "torchvision FCOS": lambda *to: torchvision_dense(detection.FCOS, *to),
    "torchvision SSD300": torchvision_ssd300,
}
# Of each family the baseline, whose ratio is 1, and the others.
FAMILIES = {
    "RetinaNet": (
        "RetinaNet",
        *(name for name in CONFIGS if "RetinaNet," in name),
        "detectron2 RetinaNet",
        "torchvision RetinaNet",
    ),
    "FCOS": (
        "FCOS", "DSLA on FCOS", "FoveaBox", "DSLA on FoveaBox", "detectron2 FCOS",
        "torchvision FCOS",
    ),
    "SSD300": ("SSD300", "semi-anchored SSD300", "torchvision SSD300"),
}  # fmt: skip


def build(name: str, device: str, depth: int, overrides: list[str] | None = None) -> nn.Module:
    """A detector of :data:`FAMILIES`; only ours take overrides of their config."""
    torch.manual_seed(0)
    if name in PEERS:
        return PEERS[name](device, depth)
    cfg = read_config(name, device, depth, overrides)
    model = build_model(cfg)
    return model.to(memory_format=torch.channels_last) if cfg.MODEL.CHANNELS_LAST else model


def random_instances(height: int, width: int, num_boxes: int, seed: int = 0) -> Instances:
    """Boxes with log-uniform sides inside an image."""
    generator = torch.Generator().manual_seed(seed)
    low, high = (torch.tensor(side).log() for side in BOX_SIDES)
    sides = (low + (high - low) * torch.rand(num_boxes, 2, generator=generator)).exp()
    image_size = torch.tensor([width, height], dtype=torch.float32)
    sides = torch.minimum(sides, image_size - 1)
    corner = torch.rand(num_boxes, 2, generator=generator) * (image_size - sides)
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.cat([corner, corner + sides], dim=1))
    instances.gt_classes = torch.randint(80, (num_boxes,), generator=generator)
    return instances


def random_input(height: int, width: int, num_boxes: int = 10) -> dict:
    """One image of noise with boxes, as a data loader gives it."""
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return {"image": image, "instances": random_instances(height, width, num_boxes)}


def feature_maps(height: int, width: int) -> list[torch.Tensor]:
    """Empty maps of the pyramid's five levels for an image."""
    return [torch.zeros(1, 1, -(-height // s), -(-width // s)) for s in (8, 16, 32, 64, 128)]


def grid_of(model: nn.Module, maps: list[torch.Tensor]) -> list[torch.Tensor]:
    """What the assigner of one of our detectors labels: anchors or locations."""
    grid = model.grid_locations if hasattr(model, "grid_locations") else model.grid_anchors
    return grid([level.to(model.device) for level in maps])
