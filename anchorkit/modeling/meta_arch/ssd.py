"""SSD (Liu et al., 2016): losses and inference."""

from collections.abc import Sequence

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_anchor_generator, build_backbone
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional as F

from ...assigners import Assigner, SSDAssigner
from ...config import num_classes
from ...layers import flatten_levels
from ...losses import mined_cross_entropy
from ..anchor_generator import grid_anchors
from ..heads import SSDHead, SSDPredictions
from ..normalizer import log_counts, mean_over_ranks
from ..postprocess import class_candidates, non_maximum_suppression


@META_ARCH_REGISTRY.register()
class SSD(DenseDetector):
    """Softmax over classes and background for every anchor, with hard negative mining.

    Args:
        backbone, head, head_in_features, pixel_mean, pixel_std: as in detectron2's DenseDetector;
            the head's output is :class:`SSDPredictions`.
        anchor_generator: makes the anchors of each map, those of a location side by side.
        box2box_transform: codes a box relative to its anchor.
        assigner: labels the anchors.
        num_classes: C; the class C is background.
        negative_ratio: background anchors learned for each positive one of an image.
        smooth_l1_beta, box_loss_weight: of the box loss.
        score_threshold, topk_candidates: see :func:`class_candidates`.
        nms_threshold: IoU above which the lower of two detections of a class is suppressed.
        max_detections: per image.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        head: nn.Module,
        head_in_features: Sequence[str],
        anchor_generator: nn.Module,
        box2box_transform: Box2BoxTransform,
        assigner: Assigner,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        negative_ratio: float = 3.0,
        smooth_l1_beta: float = 1.0,
        box_loss_weight: float = 1.0,
        score_threshold: float = 0.02,
        topk_candidates: int = 400,
        nms_threshold: float = 0.45,
        max_detections: int = 200,
    ):
        super().__init__(
            backbone, head, list(head_in_features), pixel_mean=pixel_mean, pixel_std=pixel_std
        )
        self.anchor_generator = anchor_generator
        self.box2box_transform = box2box_transform
        self.assigner = assigner
        self.num_classes = num_classes
        self.negative_ratio = negative_ratio
        self.smooth_l1_beta = smooth_l1_beta
        self.box_loss_weight = box_loss_weight
        self.score_threshold = score_threshold
        self.topk_candidates = topk_candidates
        self.nms_threshold = nms_threshold
        self.max_detections = max_detections

    @classmethod
    def from_config(cls, cfg) -> dict:
        keys = cfg.MODEL.SSD
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        anchor_generator = build_anchor_generator(cfg, list(shapes.values()))
        head = SSDHead(
            in_channels=[shape.channels for shape in shapes.values()],
            num_anchors=anchor_generator.num_cell_anchors,
            num_classes=num_classes(cfg),
        )
        return {
            "backbone": backbone,
            "head": head,
            "head_in_features": list(shapes),
            "anchor_generator": anchor_generator,
            "box2box_transform": Box2BoxTransform(weights=tuple(keys.BBOX_REG_WEIGHTS)),
            "assigner": SSDAssigner(num_classes=num_classes(cfg), iou_threshold=keys.IOU_THRESHOLD),
            "num_classes": num_classes(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "negative_ratio": keys.NEGATIVE_RATIO,
            "smooth_l1_beta": keys.SMOOTH_L1_BETA,
            "box_loss_weight": keys.BOX_LOSS_WEIGHT,
            "score_threshold": keys.SCORE_THRESH_TEST,
            "topk_candidates": keys.TOPK_CANDIDATES_TEST,
            "nms_threshold": keys.NMS_THRESH_TEST,
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
        }

    def forward_training(self, images, features, predictions, gt_instances) -> dict[str, Tensor]:
        return self.losses(self.grid_anchors(features), predictions, gt_instances)

    def forward_inference(self, images, features, predictions) -> list[Instances]:
        return self.inference(self.grid_anchors(features), predictions, images.image_sizes)

    def grid_anchors(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Anchors of each level, (H, W, A, 4) in pixels, for feature maps (N, D, H, W)."""
        return grid_anchors(self.anchor_generator, features)

    def losses(
        self,
        anchors: Sequence[Tensor],
        predictions: SSDPredictions,
        gt_instances: Sequence[Instances],
    ) -> dict[str, Tensor]:
        """Both losses, divided by the number of positive anchors over all processes.

        Args:
            anchors: for each level (H, W, A, 4).
            predictions: the head's output for N images.
            gt_instances: N Instances with ``gt_boxes`` and ``gt_classes``.

        Returns:
            "loss_class" and "loss_box", float32 scalars.
        """
        class_logits = flatten_levels(predictions.class_logits, self.num_classes + 1).float()
        box_deltas = flatten_levels(predictions.box_deltas, 4)
        assignment = self.assigner.label_images(anchors, gt_instances)
        labels = assignment.labels.view(len(gt_instances), -1)
        is_positive = (assignment.gt_index >= 0).view_as(labels)
        num_positive = is_positive.sum()
        log_counts(("anchors",), num_positive[None], len(gt_instances))
        normalizer = mean_over_ranks(num_positive)

        image, anchor = is_positive.nonzero().unbind(1)
        gt_boxes = torch.cat([instances.gt_boxes.tensor for instances in gt_instances])
        gt_boxes = gt_boxes[assignment.gt_index[assignment.gt_index >= 0]]
        positive_anchors = torch.cat([level.flatten(0, 2) for level in anchors])[anchor]
        targets = self.box2box_transform.get_deltas(positive_anchors, gt_boxes)
        loss_box = F.smooth_l1_loss(
            box_deltas[image, anchor].float(), targets, beta=self.smooth_l1_beta, reduction="sum"
        )
        loss_class = mined_cross_entropy(class_logits, labels, self.negative_ratio)
        return {
            "loss_class": loss_class / normalizer,
            "loss_box": self.box_loss_weight * loss_box / normalizer,
        }

    @torch.no_grad()
    def inference(
        self,
        anchors: Sequence[Tensor],
        predictions: SSDPredictions,
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Instances]:
        """Detections of N images; shapes as in :meth:`losses`.

        Args:
            image_sizes: height and width of each image in pixels, without padding.
        """
        scores = self._class_scores(predictions)
        deltas = flatten_levels(predictions.box_deltas, 4)
        flat_anchors = torch.cat([level.flatten(0, 2) for level in anchors])
        results = []
        for index, image_size in enumerate(image_sizes):
            chosen, classes, anchor = class_candidates(
                scores[index], score_threshold=self.score_threshold, topk=self.topk_candidates
            )
            boxes = self.box2box_transform.apply_deltas(
                deltas[index, anchor].float(), flat_anchors[anchor]
            )
            results.append(
                non_maximum_suppression(
                    [(boxes, chosen, classes)],
                    image_size,
                    iou_threshold=self.nms_threshold,
                    max_detections=self.max_detections,
                )
            )
        return results

    @torch.no_grad()
    def dense_detections(
        self, features: Sequence[Tensor], predictions: SSDPredictions
    ) -> tuple[Tensor, Tensor]:
        """Boxes (N, R, 4) in pixels and class scores (N, R, C) of all anchors.

        ``features`` are maps (N, D, H, W), ``predictions`` the head's output for them.
        """
        anchors = torch.cat([level.flatten(0, 2) for level in self.grid_anchors(features)])
        deltas = flatten_levels(predictions.box_deltas, 4)
        boxes = [self.box2box_transform.apply_deltas(one.float(), anchors) for one in deltas]
        return torch.stack(boxes), self._class_scores(predictions)

    def _class_scores(self, predictions: SSDPredictions) -> Tensor:
        """(N, R, C)."""
        logits = flatten_levels(predictions.class_logits, self.num_classes + 1).float()
        return logits.softmax(dim=2)[..., : self.num_classes]
