"""The Semi-Anchored Detector on SSD's body and anchors (the paper's Table 8)."""

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_anchor_generator, build_backbone

from ..heads import SemiAnchoredSSDHead
from .semi_anchored import SemiAnchoredDetector


@META_ARCH_REGISTRY.register()
class SemiAnchoredSSD(SemiAnchoredDetector):
    """Semi-anchored SSD: the number of anchors differs between levels, and so do the heads."""

    @configurable
    def __init__(self, **arguments):
        super().__init__(**arguments)

    @classmethod
    def from_config(cls, cfg) -> dict:
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        arguments = super().from_config(cfg, len(shapes))
        anchor_generator = build_anchor_generator(cfg, list(shapes.values()))
        head = SemiAnchoredSSDHead(
            in_channels=[shape.channels for shape in shapes.values()],
            num_anchors=anchor_generator.num_cell_anchors,
            **arguments.pop("head_arguments"),
        )
        return {
            **arguments,
            "backbone": backbone,
            "head": head,
            "head_in_features": list(shapes),
            "anchor_generator": anchor_generator,
        }
