"""SSD's anchors, from one table with a row for each feature map."""

import math
from collections.abc import Sequence

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import ANCHOR_GENERATOR_REGISTRY
from detectron2.structures import Boxes
from torch import Tensor, nn

from ..errors import UserError
from ..geometry import grid_points


@ANCHOR_GENERATOR_REGISTRY.register()
class SSDAnchorGenerator(nn.Module):
    """Default boxes of SSD (Liu et al., 2016), section 2.2.

    A location of map l has a square of side ``sizes[l]``, one of the geometric mean of
    ``sizes[l]`` and ``sizes[l + 1]``, and for each ratio r the boxes of the first one's area with
    width : height r and 1 / r, in this order.

    Args:
        sizes: L + 1 sides in pixels.
        aspect_ratios: for each map its ratios above 1.
        strides: for each map the distance of neighbouring centres in pixels. The first centre lies
            half of it from the image's corner.
        largest: upper bound of widths and heights in pixels; infinity for none.

    Attributes:
        num_cell_anchors: anchors at a location of each map.
    """

    @configurable
    def __init__(
        self,
        *,
        sizes: Sequence[float],
        aspect_ratios: Sequence[Sequence[float]],
        strides: Sequence[float],
        largest: float = math.inf,
    ):
        super().__init__()
        if not len(sizes) - 1 == len(aspect_ratios) == len(strides):
            raise UserError(
                "MODEL.SSD: for L feature maps SIZES has L + 1 entries, ASPECT_RATIOS and STRIDES "
                f"have L; they have {len(sizes)}, {len(aspect_ratios)} and {len(strides)}"
            )
        self.strides = list(strides)
        self.num_cell_anchors = [2 + 2 * len(ratios) for ratios in aspect_ratios]
        for level, ratios in enumerate(aspect_ratios):
            row = (sizes[level], sizes[level + 1], ratios)
            shapes = ssd_shapes(*(torch.tensor(part, dtype=torch.float64) for part in row))
            shapes = shapes.float().clamp(max=largest)
            cells = torch.cat([-shapes, shapes], dim=1) / 2
            self.register_buffer(f"cells{level}", cells, persistent=False)

    @classmethod
    def from_config(cls, cfg, input_shape: Sequence[ShapeSpec]) -> dict:
        keys, largest = cfg.MODEL.SSD, math.inf
        if len(input_shape) != len(keys.STRIDES):
            raise UserError(
                f"MODEL.SSD.STRIDES has {len(keys.STRIDES)} entries, but the body has "
                f"{len(input_shape)} feature maps: two, and one for each of MODEL.SSD.EXTRA_LAYERS"
            )
        if keys.CLIP_ANCHORS:
            largest = float(cfg.INPUT.FIXED_SIZE)
            if largest <= 0:
                raise UserError(
                    "MODEL.SSD.CLIP_ANCHORS bounds anchors by the image's side: set "
                    "INPUT.FIXED_SIZE, or MODEL.SSD.CLIP_ANCHORS False"
                )
        return {
            "sizes": keys.SIZES,
            "aspect_ratios": keys.ASPECT_RATIOS,
            "strides": keys.STRIDES,
            "largest": largest,
        }

    def forward(self, features: Sequence[Tensor]) -> list[Boxes]:
        """Anchors of maps (N, D, H, W): for each H W K boxes, those of a location side by side."""
        boxes = []
        for level, (feature, stride) in enumerate(zip(features, self.strides, strict=True)):
            cells = getattr(self, f"cells{level}")
            points = grid_points(*feature.shape[-2:], stride, 0.5, device=cells.device)
            boxes.append(Boxes((points.repeat(1, 2)[:, None] + cells).view(-1, 4)))
        return boxes


def grid_anchors(anchor_generator: nn.Module, features: Sequence[Tensor]) -> list[Tensor]:
    """A generator's anchors of each map (N, D, H, W) as (H, W, K, 4), pixels."""
    return [
        boxes.tensor.view(*feature.shape[-2:], -1, 4)
        for boxes, feature in zip(anchor_generator(features), features, strict=True)
    ]


def ssd_shapes(size: Tensor, next_size: Tensor, ratios: Tensor) -> Tensor:
    """(K, 2) widths and heights of a map's anchors, see :class:`SSDAnchorGenerator`.

    Args:
        size, next_size: scalars, pixels.
        ratios: those above 1.
    """
    sides = torch.stack([size, (size * next_size).sqrt()])
    long, short = size * ratios.sqrt(), size / ratios.sqrt()
    widths = torch.cat([sides, torch.stack([long, short], dim=1).flatten()])
    heights = torch.cat([sides, torch.stack([short, long], dim=1).flatten()])
    return torch.stack([widths, heights], dim=1)
