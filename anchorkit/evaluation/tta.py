"""Test-time augmentation of dense detectors: boxes of all views meet in one suppression."""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import Instances
from torch import Tensor, nn

from ..data.views import build_view_mapper
from ..errors import UserError
from ..modeling.postprocess import non_maximum_suppression
from .score_quality import suppression_of, unsuppressed


class DetectorWithTTA(nn.Module):
    """A detector that sees each image in several views.

    Each view gives the detector's own candidates, those above its threshold and among its top-k.
    They are mapped to the pixels of the file, and the detector's suppression and limit of
    detections are applied once, to the candidates of all views.

    Args:
        model: a dense detector.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self._names = suppression_of(model)
        if self._names is None:
            raise UserError(
                f"TEST.AUG: {type(model).__name__} has no suppression that views could share; set "
                "TEST.AUG.ENABLED False"
            )
        self.train(model.training)

    @torch.no_grad()
    def forward(self, images: Sequence[dict]) -> list[dict]:
        """Detections of images with "views", see :class:`anchorkit.data.views.ViewMapper`."""
        iou_threshold, max_detections = (getattr(self.model, name) for name in self._names)
        candidates = [[] for _ in images]
        with unsuppressed(self.model, self._names):
            # View by view: the images of a batch have about the same size then.
            for batch in zip(*(image["views"] for image in images), strict=True):
                outputs = self.model(list(batch))
                for parts, view, output in zip(candidates, batch, outputs, strict=True):
                    parts.append(_in_file(output["instances"], view))
        return [
            {
                "instances": non_maximum_suppression(
                    parts,
                    (image["height"], image["width"]),
                    iou_threshold=iou_threshold,
                    max_detections=max_detections,
                )
            }
            for parts, image in zip(candidates, images, strict=True)
        ]


def check_test_augmentation(cfg: CfgNode) -> None:
    """Raise a :class:`UserError` if ``TEST.AUG`` is on and does not fit the model."""
    if not cfg.TEST.AUG.ENABLED:
        return
    name = cfg.MODEL.META_ARCHITECTURE
    kind = META_ARCH_REGISTRY.get(name)
    if not (isinstance(kind, type) and issubclass(kind, DenseDetector)):
        raise UserError(f"TEST.AUG.ENABLED is for dense detectors, not for {name}; set it False")
    build_view_mapper(cfg)


def _in_file(found: Instances, view: dict) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores and classes; boxes in pixels of the file, from left to right."""
    boxes = found.pred_boxes.tensor
    if view["is_flipped"]:
        boxes = torch.cat([view["width"] - boxes[:, 2:3], boxes[:, 1:2],
                           view["width"] - boxes[:, 0:1], boxes[:, 3:]], dim=1)  # fmt: skip
    return boxes, found.scores, found.pred_classes
