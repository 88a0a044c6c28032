"""FCOS (Tian et al., 2019), FCOSv2 (Tian et al., 2022), and DSLA on both."""

from functools import partial

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY

from ...assigners import FCOSAssigner, level_size_ranges
from ...config import check_choice, check_count
from ...losses import BOX_LOSSES, fcos_losses
from ..box_codes import DistanceCode
from .point_detector import PointDetector, build_dsla


@META_ARCH_REGISTRY.register()
class FCOS(PointDetector):
    """FCOS of ``MODEL.FCOS``; ``MODEL.DSLA.ENABLED`` takes DSLA's labels in place of centerness."""

    @configurable
    def __init__(self, **arguments):
        super().__init__(**arguments)

    @classmethod
    def from_config(cls, cfg) -> dict:
        keys, dsla = cfg.MODEL.FCOS, cfg.MODEL.DSLA
        tower = _choice(cfg, "CENTERNESS_TOWER", ("class", "box"))
        arguments = super().from_config(
            cfg,
            keys,
            centerness_tower=None if dsla.ENABLED else tower,
            level_scales=True,
            conv_bias=keys.CONV_BIAS,
        )
        strides = arguments["strides"]
        ends = check_count("MODEL.FCOS.SIZE_RANGE_ENDS", keys.SIZE_RANGE_ENDS, len(strides) - 1)
        labels = {
            "num_classes": arguments["num_classes"],
            "size_ranges": level_size_ranges(ends),
            "strides": strides,
            "center_sampling_radius": keys.CENTER_SAMPLING_RADIUS,
        }
        if dsla.ENABLED:
            assigner, loss_terms = build_dsla(dsla, size="max_distance", **labels)
        else:
            assigner = FCOSAssigner(**labels)
            loss_terms = partial(
                fcos_losses, focal_alpha=keys.FOCAL_ALPHA, focal_gamma=keys.FOCAL_GAMMA
            )
        in_strides = _choice(cfg, "BOX_UNIT", ("pixel", "stride")) == "stride"
        box_code = DistanceCode(
            units=strides if in_strides else [1.0] * len(strides),
            activation=_choice(cfg, "BOX_ACTIVATION", ("exp", "relu")),
            loss=_choice(cfg, "BOX_LOSS", BOX_LOSSES),
        )
        return {
            **arguments, "assigner": assigner, "box_code": box_code, "loss_terms": loss_terms
        }  # fmt: skip


def _choice(cfg, name: str, choices) -> str:
    return check_choice(f"MODEL.FCOS.{name}", getattr(cfg.MODEL.FCOS, name), choices)
