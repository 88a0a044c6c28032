"""detectron2's ResNet and FPN with P6 and P7 from a feature map of choice."""

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone, ResNet, build_resnet_backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelP6P7
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem
from torch import Tensor

from ...config import check_choice

# Basic blocks of each stage in the two shallow ResNets.
_BASIC_STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


@BACKBONE_REGISTRY.register()
def build_resnet_fpn_p6p7_backbone(cfg, input_shape: ShapeSpec) -> Backbone:
    """ResNet with FPN levels P3 to P7; ``MODEL.FPN.TOP_BLOCK_IN_FEATURE`` says where P6 starts.

    detectron2's ``build_retinanet_resnet_fpn_backbone`` always starts P6 at res5. With "p5" the
    two top levels are FCOS's, and 4.1 million parameters fewer at 256 channels and ResNet-50. With
    "none" the pyramid ends at P5, for objects of up to 128 pixels.
    """
    depth, width = cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS
    if depth in _BASIC_STAGES and width != 64:
        bottom_up = _build_narrow_resnet(cfg, input_shape)
    else:
        bottom_up = build_resnet_backbone(cfg, input_shape)
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    source = check_choice(
        "MODEL.FPN.TOP_BLOCK_IN_FEATURE", cfg.MODEL.FPN.TOP_BLOCK_IN_FEATURE, ("p5", "res5", "none")
    )
    top_block = None
    if source != "none":
        is_p5 = source == "p5"
        source_channels = channels if is_p5 else bottom_up.output_shape()["res5"].channels
        block = LastLevelP6P7 if cfg.MODEL.FPN.TOP_BLOCK_RELU else _LinearP6P7
        top_block = block(source_channels, channels, in_feature=source)
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=channels,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


class _LinearP6P7(LastLevelP6P7):
    """P6 and P7 without an activation between them."""

    def forward(self, x: Tensor) -> list[Tensor]:
        p6 = self.p6(x)
        return [p6, self.p7(p6)]


def _build_narrow_resnet(cfg, input_shape: ShapeSpec) -> ResNet:
    """ResNet-18 or -34 of any width; detectron2 builds them with 64 channels in res2 only."""
    keys = cfg.MODEL.RESNETS
    stem = BasicStem(input_shape.channels, keys.STEM_OUT_CHANNELS, keys.NORM)
    stages = []
    in_channels, out_channels = keys.STEM_OUT_CHANNELS, keys.RES2_OUT_CHANNELS
    for index, num_blocks in enumerate(_BASIC_STAGES[keys.DEPTH]):
        first_stride = 1 if index == 0 else 2
        stages.append(
            ResNet.make_stage(
                BasicBlock,
                num_blocks,
                stride_per_block=[first_stride] + [1] * (num_blocks - 1),
                in_channels=in_channels,
                out_channels=out_channels,
                norm=keys.NORM,
            )
        )
        in_channels, out_channels = out_channels, 2 * out_channels
    body = ResNet(stem, stages, out_features=keys.OUT_FEATURES)
    return body.freeze(cfg.MODEL.BACKBONE.FREEZE_AT)
