"""The baseline that the semi-anchored detector is compared with."""

from collections.abc import Sequence

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_anchor_generator
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.structures import Boxes
from torch import Tensor

from ...config import num_classes
from ...layers import flatten_levels
from ..heads import RetinaNetHead
from ..normalizer import mean_over_ranks


@META_ARCH_REGISTRY.register()
class BaselineRetinaNet(RetinaNet):
    """detectron2's RetinaNet on anchorkit's towers, so that only the method differs.

    Labels, losses and inference are detectron2's. The towers are those of
    :class:`SemiAnchoredHead` (``MODEL.RETINANET.NUM_CONVS`` and ``NORM``), and the losses are
    divided by the number of positive anchors averaged over processes: detectron2 keeps a running
    mean for each process, which a checkpoint does not hold.
    """

    @configurable
    def __init__(self, **arguments):
        super().__init__(**arguments)

    @classmethod
    def from_config(cls, cfg):
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.RETINANET.NUM_CLASSES = num_classes(cfg)
        norm, cfg.MODEL.RETINANET.NORM = cfg.MODEL.RETINANET.NORM, ""
        arguments = super().from_config(cfg)
        shapes = arguments["backbone"].output_shape()
        feature_shapes = [shapes[name] for name in cfg.MODEL.RETINANET.IN_FEATURES]
        arguments["head"] = RetinaNetHead(
            in_channels=feature_shapes[0].channels,
            num_classes=cfg.MODEL.RETINANET.NUM_CLASSES,
            num_anchors=build_anchor_generator(cfg, feature_shapes).num_cell_anchors[0],
            num_convs=cfg.MODEL.RETINANET.NUM_CONVS,
            norm=norm,
            prior_prob=cfg.MODEL.RETINANET.PRIOR_PROB,
        )
        return arguments

    @property
    def score_threshold(self) -> float:
        return self.test_score_thresh

    def forward_inference(self, images, features, predictions):
        # Under autocast scores of half precision would tie, and boxes be rounded to pixels.
        predictions = [[level.float() for level in levels] for levels in predictions]
        return super().forward_inference(images, features, predictions)

    @torch.no_grad()
    def dense_detections(
        self, features: Sequence[Tensor], predictions: Sequence[Sequence[Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Boxes (N, R, 4) in pixels and class scores (N, R, C) of all anchors.

        ``features`` are maps (N, D, H, W), ``predictions`` the head's output for them.
        """
        logits, deltas = predictions
        anchors = Boxes.cat(self.anchor_generator(features)).tensor
        deltas = flatten_levels(deltas, 4)
        boxes = [self.box2box_transform.apply_deltas(one, anchors) for one in deltas]
        return torch.stack(boxes), flatten_levels(logits, self.num_classes).float().sigmoid()

    def losses(self, anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes):
        # detectron2 hands over a count that is raised to 1, which a process without a box has not.
        labels = torch.stack(gt_labels)
        self._num_positive = ((labels >= 0) & (labels != self.num_classes)).sum()
        return super().losses(anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes)

    def _ema_update(self, name, value, initial_value, momentum=0.9):
        return mean_over_ranks(self._num_positive).item()
