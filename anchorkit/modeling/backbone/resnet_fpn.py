"""detectron2's ResNets, narrow and deformable ones too, under an FPN."""

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone, ResNet, build_resnet_backbone
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem

from ...errors import UserError
from .deformable import deform
from .folding import fold_norms
from .fpn import build_fpn

# Basic blocks of each stage in the two shallow ResNets.
_BASIC_STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


@BACKBONE_REGISTRY.register()
def build_resnet_fpn_p6p7_backbone(cfg, input_shape: ShapeSpec) -> Backbone:
    """ResNet with FPN levels P3 to P7; see :func:`.fpn.build_fpn` for the upper ones."""
    depth, width = cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS
    if any(cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE):
        bottom_up = _build_deformable_resnet(cfg, input_shape)
    elif depth in _BASIC_STAGES and width != 64:
        bottom_up = _build_narrow_resnet(cfg, input_shape)
    else:
        bottom_up = build_resnet_backbone(cfg, input_shape)
    fold_norms(bottom_up)
    return build_fpn(cfg.MODEL.FPN, bottom_up)


def _build_deformable_resnet(cfg, input_shape: ShapeSpec) -> ResNet:
    """With deformable convolution in the stages of ``MODEL.RESNETS.DEFORM_ON_PER_STAGE``."""
    cfg = cfg.clone()
    cfg.defrost()
    keys = cfg.MODEL.RESNETS
    if keys.DEPTH in _BASIC_STAGES:
        raise UserError(
            f"MODEL.RESNETS.DEFORM_ON_PER_STAGE is {keys.DEFORM_ON_PER_STAGE}, but ResNet-"
            f"{keys.DEPTH} has no bottleneck blocks; set MODEL.RESNETS.DEPTH to 50, 101 or 152"
        )
    stages, keys.DEFORM_ON_PER_STAGE = keys.DEFORM_ON_PER_STAGE, [False] * 4
    body = build_resnet_backbone(cfg, input_shape)
    deform(body, stages, modulated=keys.DEFORM_MODULATED, num_groups=keys.DEFORM_NUM_GROUPS)
    return body.freeze(cfg.MODEL.BACKBONE.FREEZE_AT)


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
