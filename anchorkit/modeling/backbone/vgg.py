"""VGG-16 as SSD's body (Liu et al., 2016): dilated conv6, conv7 and the extra layers."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UserError
from ...layers import evaluation_order

_STAGE_CHANNELS = (64, 128, 256, 512, 512)
_CONV6_CHANNELS = 1024


class L2Norm(nn.Module):
    """Divide each location's features by their Euclidean length and scale every channel.

    Args:
        channels: of the map.
        scale: initial value of the learned scales.
    """

    def __init__(self, channels: int, scale: float = 20.0):
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor) -> Tensor:
        # Squares of half precision overflow at 256.
        return F.normalize(x.float()) * self.scale[:, None, None]


class SSDVGG(Backbone):
    """SSD's feature maps: normalised conv4, conv7, and the end of each extra layer.

    The maps are named after the convolutions they come from, in VGG-16 "conv4_3", "conv7",
    "conv8_2", "conv9_2" and so on.

    Args:
        in_channels: of the images.
        convs_per_stage: convolutions in each of the five stages; (2, 2, 3, 3, 3) is VGG-16.
        width_divisor: all widths of the paper are divided by it.
        dilation: of conv6.
        extra_layers: for each extra layer the channels of its 1x1 convolution, and channels,
            kernel, stride and padding of its second one.
        norm: normalisation after every convolution, "" for none.
        freeze_at: this many of the first stages are not trained.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        convs_per_stage: Sequence[int] = (2, 2, 3, 3, 3),
        width_divisor: int = 1,
        dilation: int = 6,
        extra_layers: Sequence[Sequence[int]],
        norm: str = "",
        freeze_at: int = 0,
    ):
        super().__init__()
        self.stages = nn.ModuleList()
        channels = in_channels
        for stage, (num_convs, width) in enumerate(
            zip(convs_per_stage, _STAGE_CHANNELS, strict=True), start=1
        ):
            convs = OrderedDict()
            for index in range(1, num_convs + 1):
                # Where nothing else reads the map, ReLU comes after the pooling, with a quarter of
                # the work: both are monotonic, so that their order does not matter.
                is_only_pooled = index == num_convs and stage < 4
                convs[f"conv{stage}_{index}"] = _conv(
                    channels, width // width_divisor, 3, padding=1, norm=norm,
                    activation=None if is_only_pooled else F.relu_,
                )  # fmt: skip
                channels = width // width_divisor
            self.stages.append(nn.Sequential(convs))
        self.l2_norm = L2Norm(_STAGE_CHANNELS[3] // width_divisor)
        width = _CONV6_CHANNELS // width_divisor
        self.conv6 = _conv(channels, width, 3, padding=dilation, dilation=dilation, norm=norm)
        self.conv7 = _conv(width, width, 1, norm=norm)
        shapes = {
            f"conv4_{convs_per_stage[3]}": ShapeSpec(channels=len(self.l2_norm.scale), stride=8),
            "conv7": ShapeSpec(channels=width, stride=16),
        }
        self.extras = nn.ModuleList()
        stride = 16
        for index, (narrow, wide, kernel, step, padding) in enumerate(extra_layers, start=8):
            narrow, wide, stride = narrow // width_divisor, wide // width_divisor, stride * step
            first = _conv(width, narrow, 1, norm=norm)
            second = _conv(narrow, wide, kernel, stride=step, padding=padding, norm=norm)
            layer = OrderedDict({f"conv{index}_1": first, f"conv{index}_2": second})
            self.extras.append(nn.Sequential(layer))
            shapes[f"conv{index}_2"] = ShapeSpec(channels=wide, stride=stride)
            width = wide
        self._shapes = shapes
        self._out_features = list(shapes)
        self._initialize()
        for stage in self.stages[:freeze_at]:
            stage.requires_grad_(False)
            FrozenBatchNorm2d.convert_frozen_batchnorm(stage)

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels of each map; strides are those of the convolutions, not the anchors'."""
        return dict(self._shapes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps by name for images (N, 3, H, W).

        Raises:
            ValueError: the image is too small for the last of the extra layers.
        """
        height, width = x.shape[-2:]
        x, maps = evaluation_order(x), []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index == 3:
                maps.append(self.l2_norm(x))
            if index < 4:
                x = F.relu_(F.max_pool2d(x, kernel_size=2, stride=2, ceil_mode=True))
        x = F.max_pool2d(x, kernel_size=3, stride=1, padding=1)
        x = self.conv7(self.conv6(x))
        maps.append(x)
        for name, layer in zip(self._out_features[2:], self.extras, strict=True):
            kernel, padding = layer[1].kernel_size[0], layer[1].padding[0]
            if min(x.shape[-2:]) + 2 * padding < kernel:
                raise ValueError(
                    f"an image of {height} x {width} pixels leaves {name} a map of "
                    f"{x.shape[-2]} x {x.shape[-1]}, too small for its {kernel} x {kernel} kernel; "
                    "use larger images (INPUT.FIXED_SIZE) or fewer MODEL.SSD.EXTRA_LAYERS"
                )
            x = layer(x)
            maps.append(x)
        return dict(zip(self._out_features, maps, strict=True))

    def _initialize(self) -> None:
        """VGG's stages as VGG is, the new layers as SSD's."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.stages.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


@BACKBONE_REGISTRY.register()
def build_ssd_vgg_backbone(cfg, input_shape: ShapeSpec) -> SSDVGG:
    """SSD's body of ``MODEL.SSD``; ``MODEL.BACKBONE.FREEZE_AT`` stages are not trained."""
    keys = cfg.MODEL.SSD
    if len(keys.CONVS_PER_STAGE) != len(_STAGE_CHANNELS):
        raise UserError(
            f"MODEL.SSD.CONVS_PER_STAGE has {len(keys.CONVS_PER_STAGE)} entries; VGG has five "
            "stages"
        )
    return SSDVGG(
        in_channels=input_shape.channels,
        convs_per_stage=keys.CONVS_PER_STAGE,
        width_divisor=keys.WIDTH_DIVISOR,
        dilation=keys.DILATION,
        extra_layers=keys.EXTRA_LAYERS,
        norm=keys.NORM,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )


def _conv(
    in_channels: int, out_channels: int, kernel: int, *, norm: str, activation=F.relu_, **options
) -> Conv2d:
    return Conv2d(
        in_channels,
        out_channels,
        kernel,
        bias=not norm,
        norm=get_norm(norm, out_channels),
        activation=activation,
        **options,
    )
