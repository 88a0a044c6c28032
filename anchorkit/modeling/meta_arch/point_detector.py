"""Anchor-free dense detectors: a location predicts the distances to the sides of its box."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import Instances
from torch import Tensor, nn

from ...assigners import Assigner, DSLAAssigner
from ...config import check_choice, num_classes
from ...geometry import grid_points, ltrb_distances
from ...layers import flatten_levels
from ...losses import BOX_WEIGHTS, CLASS_NORMALIZERS, PositiveLocations, dsla_losses
from ..box_codes import DistanceCode
from ..heads import FCOSHead, FCOSPredictions
from ..normalizer import log_counts, mean_over_ranks
from ..postprocess import level_candidates, non_maximum_suppression


class PointDetector(DenseDetector):
    """The FCOS family: assigner, box code and losses are parts that can be exchanged.

    Args:
        backbone, head, head_in_features, pixel_mean, pixel_std: as in detectron2's DenseDetector;
            the head's output is :class:`FCOSPredictions`.
        strides: of the levels, pixels.
        point_offset: of the first location from the image's corner, in strides.
        num_classes: C.
        assigner: labels the locations.
        box_code: turns outputs into boxes, and gives their losses.
        loss_terms: one of the functions in :mod:`anchorkit.losses.points` with its options.
        box_loss_weight: factor of "loss_box".
        score_threshold: a location's class score must exceed it.
        topk_candidates: (location, class) pairs kept on each level.
        nms_threshold: IoU above which the lower of two detections of a class is suppressed.
        max_detections: per image.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        head: nn.Module,
        head_in_features: Sequence[str],
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        strides: Sequence[float],
        num_classes: int,
        assigner: Assigner,
        box_code: DistanceCode,
        loss_terms: Callable,
        point_offset: float = 0.5,
        box_loss_weight: float = 1.0,
        score_threshold: float = 0.05,
        topk_candidates: int = 1000,
        nms_threshold: float = 0.6,
        max_detections: int = 100,
    ):
        super().__init__(
            backbone, head, list(head_in_features), pixel_mean=pixel_mean, pixel_std=pixel_std
        )
        self.strides = tuple(strides)
        self.point_offset = point_offset
        self.num_classes = num_classes
        self.assigner = assigner
        self.box_code = box_code
        self.loss_terms = loss_terms
        self.box_loss_weight = box_loss_weight
        self.score_threshold = score_threshold
        self.topk_candidates = topk_candidates
        self.nms_threshold = nms_threshold
        self.max_detections = max_detections

    @classmethod
    def from_config(
        cls,
        cfg,
        keys: CfgNode,
        *,
        centerness_tower: str | None,
        level_scales: bool,
        conv_bias: bool = False,
    ) -> dict:
        """What every member of the family reads from its own ``keys`` in the same way.

        Args:
            centerness_tower, level_scales, conv_bias: see :class:`FCOSHead`.
        """
        backbone = build_backbone(cfg)
        shapes = [backbone.output_shape()[name] for name in keys.IN_FEATURES]
        return {
            "backbone": backbone,
            "head": FCOSHead(
                in_channels=shapes[0].channels,
                num_classes=num_classes(cfg),
                num_levels=len(shapes),
                num_convs=keys.NUM_CONVS,
                norm=keys.NORM,
                conv_bias=conv_bias,
                prior_prob=keys.PRIOR_PROB,
                centerness_tower=centerness_tower,
                level_scales=level_scales,
                deformable_tower=keys.DEFORMABLE_TOWER,
            ),
            "head_in_features": keys.IN_FEATURES,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "strides": [shape.stride for shape in shapes],
            "point_offset": keys.POINT_OFFSET,
            "num_classes": num_classes(cfg),
            "box_loss_weight": keys.BOX_LOSS_WEIGHT,
            "score_threshold": keys.SCORE_THRESH_TEST,
            "topk_candidates": keys.TOPK_CANDIDATES_TEST,
            "nms_threshold": keys.NMS_THRESH_TEST,
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
        }

    def forward_training(self, images, features, predictions, gt_instances) -> dict[str, Tensor]:
        return self.losses(self.grid_locations(features), predictions, gt_instances)

    def forward_inference(self, images, features, predictions) -> list[Instances]:
        return self.inference(self.grid_locations(features), predictions, images.image_sizes)

    def grid_locations(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Locations of each level, (H W, 2) in pixels, for feature maps (N, D, H, W)."""
        return [
            grid_points(*feature.shape[-2:], stride, self.point_offset, device=self.device)
            for feature, stride in zip(features, self.strides, strict=True)
        ]

    def losses(
        self,
        locations: Sequence[Tensor],
        predictions: FCOSPredictions,
        gt_instances: Sequence[Instances],
    ) -> dict[str, Tensor]:
        """The losses, each divided by its own count over all processes.

        Args:
            locations: for each level (H W, 2).
            predictions: the head's output for N images.
            gt_instances: N Instances with ``gt_boxes`` and ``gt_classes``.

        Returns:
            "loss_class", "loss_box" and, with a centerness branch, "loss_centerness": float32
            scalars.
        """
        class_logits = flatten_levels(predictions.class_logits, self.num_classes).float()
        positives = self._positives(locations, predictions, gt_instances)
        terms = self.loss_terms(class_logits.flatten(0, 1), positives, len(gt_instances))
        counts = mean_over_ranks(torch.stack([count for _, count in terms.values()]))
        num_positives = counts.new_tensor([len(positives.labels)])
        log_counts(["locations"], num_positives, len(gt_instances))
        totals = zip(terms, counts, strict=True)
        losses = {name: terms[name][0] / count for name, count in totals}
        losses["loss_box"] = self.box_loss_weight * losses["loss_box"]
        return losses

    def _positives(
        self,
        locations: Sequence[Tensor],
        predictions: FCOSPredictions,
        gt_instances: Sequence[Instances],
    ) -> PositiveLocations:
        assignment = self.assigner.label_images(locations, gt_instances)
        index = (assignment.gt_index >= 0).nonzero()[:, 0]
        gt_boxes = torch.cat([instances.gt_boxes.tensor for instances in gt_instances])
        gt_boxes = gt_boxes[assignment.gt_index[index]]
        points, units = torch.cat(list(locations)), self._units(locations)
        points, units = points[index % len(points)], units[index % len(points)]
        outputs = flatten_levels(predictions.box_outputs, 4).flatten(0, 1)[index]
        centerness_logits = None
        if predictions.centerness_logits:
            centerness_logits = flatten_levels(predictions.centerness_logits, 1)
            centerness_logits = centerness_logits.flatten()[index]
        return PositiveLocations(
            index=index,
            classes=assignment.labels[index],
            labels=assignment.score[index],
            target_ltrb=ltrb_distances(points, gt_boxes),
            gt_boxes=gt_boxes,
            pred_boxes=self.box_code.decode(outputs.detach(), points, units),
            box_losses=self.box_code.losses(outputs, points, units, gt_boxes),
            centerness_logits=centerness_logits,
        )

    def _units(self, locations: Sequence[Tensor]) -> Tensor:
        """(P,) the box code's unit of length at each location, pixels."""
        return torch.cat(
            [
                level.new_full(level.shape[:1], unit)
                for level, unit in zip(locations, self.box_code.units, strict=True)
            ]
        )

    @torch.no_grad()
    def inference(
        self,
        locations: Sequence[Tensor],
        predictions: FCOSPredictions,
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Instances]:
        """Detections of N images; shapes as in :meth:`losses`.

        Args:
            image_sizes: height and width of each image in pixels, without padding.
        """
        class_logits = [
            flatten_levels([level], self.num_classes) for level in predictions.class_logits
        ]
        outputs = [flatten_levels([level], 4) for level in predictions.box_outputs]
        centerness = [
            level.float().sigmoid().flatten(1)[..., None] for level in predictions.centerness_logits
        ] or [logits.new_ones(*logits.shape[:2], 1) for logits in class_logits]
        results = []
        for index, image_size in enumerate(image_sizes):
            candidates = [
                self._level_candidates(
                    points, unit, logits[index], level_outputs[index], scores[index]
                )
                for points, unit, logits, level_outputs, scores in zip(
                    locations, self.box_code.units, class_logits, outputs, centerness, strict=True
                )
            ]
            results.append(
                non_maximum_suppression(
                    candidates,
                    image_size,
                    iou_threshold=self.nms_threshold,
                    max_detections=self.max_detections,
                )
            )
        return results

    @torch.no_grad()
    def dense_detections(
        self, features: Sequence[Tensor], predictions: FCOSPredictions
    ) -> tuple[Tensor, Tensor]:
        """Boxes (N, P, 4) in pixels and class scores (N, P, C) of all locations.

        ``features`` are maps (N, D, H, W), ``predictions`` the head's output for them.
        """
        locations = self.grid_locations(features)
        outputs = flatten_levels(predictions.box_outputs, 4)
        boxes = self.box_code.decode(outputs, torch.cat(locations), self._units(locations))
        scores = flatten_levels(predictions.class_logits, self.num_classes).float().sigmoid()
        if predictions.centerness_logits:
            scores = scores * flatten_levels(predictions.centerness_logits, 1).float().sigmoid()
        return boxes, scores

    def _level_candidates(
        self, points: Tensor, unit: float, class_logits: Tensor, outputs: Tensor, scores: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and classes of one level: (P, 2), (P, C), (P, 4), (P, 1)."""
        scores, classes, location, _ = level_candidates(
            class_logits,
            scores,
            score_threshold=self.score_threshold,
            threshold_on="location",
            topk=self.topk_candidates,
        )
        units = points.new_full(location.shape, unit)
        return self.box_code.decode(outputs[location], points[location], units), scores, classes


def build_dsla(
    keys: CfgNode, *, size: str, size_ranges: Sequence[tuple[float, float]],
    strides: Sequence[float], num_classes: int, center_sampling_radius: float = 0.0,
) -> tuple[DSLAAssigner, Callable]:  # fmt: skip
    """The assigner and the losses of ``MODEL.DSLA``; arguments as in :class:`DSLAAssigner`."""
    assigner = DSLAAssigner(
        num_classes=num_classes,
        size_ranges=size_ranges,
        strides=strides,
        center_sampling_radius=center_sampling_radius,
        kappa=keys.KAPPA if keys.INTERVAL_RELAXATION else 0.0,
        core_zone=keys.CORE_ZONE,
        size=size,
    )
    loss_terms = partial(
        dsla_losses,
        iou_coupling=keys.IOU_COUPLING,
        iou_only=keys.IOU_ONLY,
        quality_focal_beta=keys.QUALITY_FOCAL_BETA,
        class_loss_weight=keys.CLASS_LOSS_WEIGHT,
        class_normalizer=check_choice(
            "MODEL.DSLA.CLASS_NORMALIZER", keys.CLASS_NORMALIZER, CLASS_NORMALIZERS
        ),
        box_weight=check_choice("MODEL.DSLA.BOX_WEIGHT", keys.BOX_WEIGHT, BOX_WEIGHTS),
    )
    return assigner, loss_terms
