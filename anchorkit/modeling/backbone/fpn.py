"""detectron2's FPN with P6 and P7 from a feature map of choice, under any body."""

import torch
from detectron2.config import CfgNode
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelP6P7
from torch import Tensor

from ...config import check_choice


def build_fpn(keys: CfgNode, bottom_up: Backbone) -> FPN:
    """The levels of ``MODEL.FPN``'s ``IN_FEATURES``; ``TOP_BLOCK_IN_FEATURE`` says where P6 starts.

    detectron2's ``build_retinanet_resnet_fpn_backbone`` always starts P6 at res5. With "p5" the
    two top levels are FCOS's, and 4.1 million parameters fewer at 256 channels and ResNet-50. With
    "none" the pyramid ends at P5, for objects of up to 128 pixels.
    """
    channels = keys.OUT_CHANNELS
    source = check_choice(
        "MODEL.FPN.TOP_BLOCK_IN_FEATURE", keys.TOP_BLOCK_IN_FEATURE, ("p5", "res5", "none")
    )
    top_block = None
    if source != "none":
        is_p5 = source == "p5"
        source_channels = channels if is_p5 else bottom_up.output_shape()["res5"].channels
        top_block = _P6P7(
            source_channels, channels, in_feature=source, has_relu=keys.TOP_BLOCK_RELU
        )
    return FPN(
        bottom_up=bottom_up,
        in_features=keys.IN_FEATURES,
        out_channels=channels,
        norm=keys.NORM,
        top_block=top_block,
        fuse_type=keys.FUSE_TYPE,
    )


class _P6P7(LastLevelP6P7):
    """P6 and P7, a convolution of ReLU(P6) or of P6 itself.

    On a CPU autocast leaves them float32. A pyramid ends in maps that are one location wide, and
    there oneDNN's bfloat16 gradient of such a convolution reads memory that nobody has written
    (seen with AVX512-BF16, torch 2.14).
    """

    def __init__(self, in_channels: int, out_channels: int, in_feature: str, *, has_relu: bool):
        super().__init__(in_channels, out_channels, in_feature=in_feature)
        self.has_relu = has_relu

    def forward(self, x: Tensor) -> list[Tensor]:
        with torch.autocast("cpu", enabled=False):
            p6 = self.p6(x.float() if x.device.type == "cpu" else x)
            return [p6, self.p7(p6.relu() if self.has_relu else p6)]
