"""FoveaBox (Kong et al., 2020), and DSLA on it."""

from functools import partial

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY

from ...assigners import FoveaBoxAssigner, level_size_ranges
from ...config import check_choice, check_count
from ...losses import foveabox_losses
from ..box_codes import FoveaCode
from .point_detector import PointDetector, build_dsla


@META_ARCH_REGISTRY.register()
class FoveaBox(PointDetector):
    """FoveaBox of ``MODEL.FOVEABOX``; ``MODEL.DSLA.ENABLED`` takes DSLA's labels."""

    @configurable
    def __init__(self, **arguments):
        super().__init__(**arguments)

    @classmethod
    def from_config(cls, cfg) -> dict:
        keys, dsla = cfg.MODEL.FOVEABOX, cfg.MODEL.DSLA
        arguments = super().from_config(cfg, keys, centerness_tower=None, level_scales=False)
        num_levels = len(arguments["strides"])
        ranges = check_count("MODEL.FOVEABOX.SIZE_RANGES", keys.SIZE_RANGES, num_levels)
        labels = {
            "num_classes": arguments["num_classes"],
            "size_ranges": ranges,
            "strides": arguments["strides"],
        }
        if dsla.ENABLED:
            size = check_choice(
                "MODEL.DSLA.FOVEABOX_SIZE", dsla.FOVEABOX_SIZE, ("sqrt_area", "max_distance")
            )
            if size == "max_distance":
                ends = cfg.MODEL.FCOS.SIZE_RANGE_ENDS
                ends = check_count("MODEL.FCOS.SIZE_RANGE_ENDS", ends, num_levels - 1)
                labels["size_ranges"] = level_size_ranges(ends)
            assigner, loss_terms = build_dsla(dsla, size=size, **labels)
        else:
            assigner = FoveaBoxAssigner(**labels, sigma=keys.SIGMA)
            loss_terms = partial(
                foveabox_losses, focal_alpha=keys.FOCAL_ALPHA, focal_gamma=keys.FOCAL_GAMMA
            )
        edges = check_count("MODEL.FOVEABOX.BASE_EDGES", keys.BASE_EDGES, num_levels)
        box_code = FoveaCode(base_edges=edges, beta=keys.SMOOTH_L1_BETA)
        return {
            **arguments, "assigner": assigner, "box_code": box_code, "loss_terms": loss_terms
        }  # fmt: skip
