"""detectron2's FPN with P6 and P7 from a feature map of choice, under any body."""

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
        block = LastLevelP6P7 if keys.TOP_BLOCK_RELU else _LinearP6P7
        top_block = block(source_channels, channels, in_feature=source)
    return FPN(
        bottom_up=bottom_up,
        in_features=keys.IN_FEATURES,
        out_channels=channels,
        norm=keys.NORM,
        top_block=top_block,
        fuse_type=keys.FUSE_TYPE,
    )


class _LinearP6P7(LastLevelP6P7):
    """P6 and P7 without an activation between them."""

    def forward(self, x: Tensor) -> list[Tensor]:
        p6 = self.p6(x)
        return [p6, self.p7(p6)]
