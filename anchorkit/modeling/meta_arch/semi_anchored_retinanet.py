"""The Semi-Anchored Detector on RetinaNet's body, neck and towers."""

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_anchor_generator, build_backbone

from ..heads import SemiAnchoredHead
from .semi_anchored import SemiAnchoredDetector


@META_ARCH_REGISTRY.register()
class SemiAnchoredRetinaNet(SemiAnchoredDetector):
    """Semi-anchored RetinaNet: every level has the same number of anchors and shares the head."""

    @configurable
    def __init__(self, **arguments):
        super().__init__(**arguments)

    @classmethod
    def from_config(cls, cfg) -> dict:
        keys = cfg.MODEL.SEMI_ANCHORED
        arguments = super().from_config(cfg, len(keys.IN_FEATURES))
        backbone = build_backbone(cfg)
        shapes = [backbone.output_shape()[name] for name in keys.IN_FEATURES]
        anchor_generator = build_anchor_generator(cfg, shapes)
        head = SemiAnchoredHead(
            in_channels=shapes[0].channels,
            num_anchors=anchor_generator.num_cell_anchors[0],
            **arguments.pop("head_arguments"),
        )
        return {
            **arguments,
            "backbone": backbone,
            "head": head,
            "head_in_features": keys.IN_FEATURES,
            "anchor_generator": anchor_generator,
        }
