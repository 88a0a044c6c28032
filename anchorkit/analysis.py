"""What a model costs: parameters and multiply-accumulates, counted without weights or data."""

import math
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from .config import check_choice
from .errors import UserError
from .modeling.meta_arch import ImageClassifier

# Images of this ratio fill 800 x 1333, the test size of most detectors.
_WIDTH_TO_HEIGHT = 5 / 3


class Network(nn.Module):
    """The part of a model whose cost does not depend on what is in the image.

    That is body, neck and head of a detector, or body and last layer of a classifier, without
    normalising pixels before and choosing boxes behind.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, batch: list[dict]):
        """Raw outputs for detectron2's list of dicts with "image" (C, H, W), all of one size."""
        images = torch.stack([sample["image"] for sample in batch])
        if isinstance(self.model, ImageClassifier):
            return self.model.head(self.model.features(images))
        divisor = self.model.backbone.size_divisibility or 1
        height, width = images.shape[-2:]
        images = F.pad(images, (0, -width % divisor, 0, -height % divisor))
        features = self.model.backbone(images)
        return self.model.head([features[name] for name in self.model.head_in_features])


def build_meta_model(cfg: CfgNode) -> nn.Module:
    """The config's model in evaluation mode on the meta device: with shapes, without memory.

    Raises:
        UserError: an unknown body, or a model that is neither a dense detector nor a classifier.
    """
    kinds = (DenseDetector, ImageClassifier)
    known = [name for name, kind in META_ARCH_REGISTRY if issubclass(kind, kinds)]
    check_choice("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, known)
    bodies = [name for name, _ in BACKBONE_REGISTRY]
    check_choice("MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME, bodies)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg).eval()


def build_input(
    cfg: CfgNode, size: Sequence[int] | None = None, device: str = "meta"
) -> list[dict]:
    """A batch of one empty image, as :class:`Network` takes it.

    Args:
        cfg: gives the channels and, where ``size`` does not, the size: ``INPUT.FIXED_SIZE``, or
            ``INPUT.MIN_SIZE_TEST`` high and 5/3 as wide, at most ``INPUT.MAX_SIZE_TEST``.
        size: height and width in pixels.
        device: of the image.

    Raises:
        UserError: a classifier whose images keep their size, and no ``size``.
    """
    if size is None:
        size = (cfg.INPUT.FIXED_SIZE, cfg.INPUT.FIXED_SIZE)
        if not cfg.INPUT.FIXED_SIZE:
            if cfg.MODEL.META_ARCHITECTURE == ImageClassifier.__name__:
                raise UserError(
                    "INPUT.FIXED_SIZE is 0, so that images keep the size they have; tell it with "
                    "--size, or as the data set's in anchorkit/model_zoo.yaml"
                )
            height = cfg.INPUT.MIN_SIZE_TEST
            size = (height, min(round(height * _WIDTH_TO_HEIGHT), cfg.INPUT.MAX_SIZE_TEST))
    return [{"image": torch.zeros(len(cfg.MODEL.PIXEL_MEAN), *size, device=device)}]


def count_parameters(model: nn.Module) -> int:
    """Parameters, with the scale and shift that frozen normalisation has as buffers."""
    frozen = [module for module in model.modules() if isinstance(module, FrozenBatchNorm2d)]
    return sum(tensor.numel() for tensor in model.parameters()) + sum(
        module.weight.numel() + module.bias.numel() for module in frozen
    )


def count_macs(model: nn.Module, batch: list[dict]) -> dict[str, int]:
    """Multiply-accumulates of convolutions, linear layers and attention, by module.

    Normalisation, activations and interpolation do not count. torch counts, and on the meta device
    nothing is computed.

    Args:
        model: a detector or a classifier.
        batch: see :func:`build_input`; on the model's device.

    Returns:
        {"backbone": ..., "backbone.bottom_up": ..., ...}; "" is the whole model.
    """
    formulas = {torch.ops.torchvision.deform_conv2d: _deformable_flops}
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    # With gradients, since without them torch computes attention in one call that it cannot count.
    with torch.enable_grad(), counter:
        Network(model)(batch)
    counts = {name: sum(flops.values()) // 2 for name, flops in counter.get_flop_counts().items()}
    prefix = f"{Network.__name__}.model."
    parts = {name.removeprefix(prefix): n for name, n in counts.items() if name.startswith(prefix)}
    return {"": counts["Global"]} | parts


def _deformable_flops(images: Sequence[int], weight: Sequence[int], *_, out_shape, **__) -> int:
    """Those of a convolution, two for each multiply-accumulate; sampling does not count."""
    return 2 * math.prod(out_shape) * math.prod(weight[1:])
