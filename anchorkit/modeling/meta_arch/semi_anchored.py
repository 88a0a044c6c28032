"""The Semi-Anchored Detector (Chen et al., 2020) for any host: losses and inference."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ...assigners import (
    FCOSAssigner,
    SemiAnchoredAssigner,
    SemiAnchoredAssignment,
    level_size_ranges,
)
from ...config import check_choice, check_count, num_classes
from ...geometry import aligned_iou
from ...layers import flatten_levels
from ...losses import (
    ANCHOR_LOSSES,
    BOX_LOSSES,
    anchor_loss,
    box_iou_loss,
    location_loss,
    mined_cross_entropy,
    refined_labels,
)
from ..anchor_generator import grid_anchors
from ..heads import SemiAnchoredPredictions
from ..normalizer import log_counts, mean_over_ranks
from ..postprocess import (
    ANCHOR_SELECTIONS,
    level_candidates,
    non_maximum_suppression,
    select_anchors,
)

# Entries of the table of refined boxes against ground truth that is held at a time.
_IOU_ENTRIES = 1 << 21


class SemiAnchoredDetector(DenseDetector):
    """Classify locations, regress several anchors at the positive ones, then pick the anchor.

    The host supplies the body, the head (its output is :class:`SemiAnchoredPredictions`) and the
    anchors; their number at a location may differ between levels.

    Args:
        backbone, head, head_in_features, pixel_mean, pixel_std: as in detectron2's DenseDetector.
        anchor_generator: makes the anchors of each level, those of a location side by side.
        box2box_transform: codes a box relative to its anchor.
        assigner: labels locations and anchors.
        num_classes: C.
        location_loss: of the location classifier, "focal" or "softmax"; with the latter the head
            has a logit more, background's, and ``location_negative_ratio`` background locations
            are learned for each positive one of an image.
        location_focal: alpha and beta of the focal loss.
        box_loss, box_loss_weight: kind (see :func:`box_iou_loss`; or "smooth_l1" of the box code)
            and weight of the regression.
        anchor_loss, anchor_loss_weight: "smoothed_focal", "focal" or "quality_focal", and weight.
        anchor_focal: alpha and beta of the anchor classifier's loss.
        sigma: exponent of eq. 2.
        refined_match: a refined anchor is matched with all boxes of its location's class
            ("class") or with the location's box alone ("location").
        refined_iou_threshold: IoU from which on a refined anchor is positive.
        force_best_refined: where none is, the best one becomes positive.
        anchor_selection, anchor_topk, anchor_threshold: see :func:`select_anchors`.
        threshold_on, score_threshold, topk_candidates: see :func:`level_candidates`.
        nms_threshold: IoU above which the lower of two detections of a class is suppressed.
        max_detections: per image.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        head: nn.Module,
        head_in_features: Sequence[str],
        anchor_generator: nn.Module,
        box2box_transform: Box2BoxTransform,
        assigner: SemiAnchoredAssigner,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        location_loss: str = "focal",
        location_negative_ratio: float = 3.0,
        location_focal: tuple[float, float] = (0.25, 1.0),
        box_loss: str = "iou_log",
        box_loss_weight: float = 2.0,
        anchor_loss: str = "smoothed_focal",
        anchor_loss_weight: float = 1.0,
        anchor_focal: tuple[float, float] = (0.25, 2.0),
        sigma: float = 0.9,
        refined_match: str = "class",
        refined_iou_threshold: float = 0.5,
        force_best_refined: bool = False,
        anchor_selection: str = "top",
        anchor_topk: int = 1,
        anchor_threshold: float = 0.1,
        threshold_on: str = "location",
        score_threshold: float = 0.05,
        topk_candidates: int = 1000,
        nms_threshold: float = 0.5,
        max_detections: int = 100,
    ):
        super().__init__(
            backbone, head, list(head_in_features), pixel_mean=pixel_mean, pixel_std=pixel_std
        )
        self.anchor_generator = anchor_generator
        self.box2box_transform = box2box_transform
        self.assigner = assigner
        self.num_classes = num_classes
        self.location_loss = location_loss
        self.num_location_logits = num_classes + (location_loss == "softmax")
        self.location_negative_ratio = location_negative_ratio
        self.location_focal = location_focal
        self.box_loss, self.box_loss_weight = box_loss, box_loss_weight
        self.anchor_loss, self.anchor_loss_weight = anchor_loss, anchor_loss_weight
        self.anchor_focal = anchor_focal
        self.sigma = sigma
        self.refined_match = refined_match
        self.refined_iou_threshold = refined_iou_threshold
        self.force_best_refined = force_best_refined
        self.anchor_selection = anchor_selection
        self.anchor_topk = anchor_topk
        self.anchor_threshold = anchor_threshold
        self.threshold_on = threshold_on
        self.score_threshold = score_threshold
        self.topk_candidates = topk_candidates
        self.nms_threshold = nms_threshold
        self.max_detections = max_detections

    @classmethod
    def from_config(cls, cfg, num_levels: int) -> dict:
        """What every host of the method reads from its config; hosts add network and anchors.

        "head_arguments" is for the host's head.
        """
        keys = cfg.MODEL.SEMI_ANCHORED
        location_loss = _choice(cfg, "LOCATION_LOSS", ("focal", "softmax"))
        has_background = location_loss == "softmax"
        return {
            "head_arguments": {
                "num_classes": num_classes(cfg) + has_background,
                "num_convs": keys.NUM_CONVS,
                "norm": keys.NORM,
                "prior_prob": 0.5 if has_background else keys.PRIOR_PROB,
                "anchor_prior_prob": keys.ANCHOR_PRIOR_PROB,
            },
            "box2box_transform": Box2BoxTransform(weights=tuple(keys.BBOX_REG_WEIGHTS)),
            "assigner": _build_assigner(cfg, num_levels),
            "num_classes": num_classes(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "location_loss": location_loss,
            "location_negative_ratio": keys.LOCATION_NEGATIVE_RATIO,
            "location_focal": (keys.LOCATION_FOCAL_ALPHA, keys.LOCATION_FOCAL_BETA),
            "box_loss": _choice(cfg, "BOX_LOSS", (*BOX_LOSSES, "smooth_l1")),
            "box_loss_weight": keys.BOX_LOSS_WEIGHT,
            "anchor_loss": _choice(cfg, "ANCHOR_LOSS", ANCHOR_LOSSES),
            "anchor_loss_weight": keys.ANCHOR_LOSS_WEIGHT,
            "anchor_focal": (keys.ANCHOR_FOCAL_ALPHA, keys.ANCHOR_FOCAL_BETA),
            "sigma": keys.SIGMA,
            "refined_match": _choice(cfg, "REFINED_MATCH", ("class", "location")),
            "refined_iou_threshold": keys.REFINED_IOU_THRESHOLD,
            "force_best_refined": keys.FORCE_BEST_REFINED,
            "anchor_selection": _choice(cfg, "ANCHOR_SELECTION", ANCHOR_SELECTIONS),
            "anchor_topk": keys.ANCHOR_TOPK,
            "anchor_threshold": keys.ANCHOR_THRESH_TEST,
            "threshold_on": _choice(cfg, "THRESHOLD_ON", ("location", "product")),
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
        """Anchors of each level, (H, W, K, 4) in pixels, for feature maps (N, D, H, W)."""
        return grid_anchors(self.anchor_generator, features)

    def losses(
        self,
        anchors: Sequence[Tensor],
        predictions: SemiAnchoredPredictions,
        gt_instances: Sequence[Instances],
    ) -> dict[str, Tensor]:
        """The three losses, each divided by its own count over all processes.

        Args:
            anchors: for each level (H, W, K, 4).
            predictions: the head's output for N images.
            gt_instances: N Instances with ``gt_boxes`` and ``gt_classes``.

        Returns:
            "loss_location", "loss_box" and "loss_anchor", float32 scalars.
        """
        location_logits = flatten_levels(predictions.location_logits, self.num_location_logits)
        box_deltas = flatten_levels(predictions.box_deltas, 4).flatten(0, 1)
        anchor_logits = flatten_levels(predictions.anchor_logits, 1).flatten()
        assignment = self.assigner.label_images(anchors, gt_instances)
        flat_anchors = torch.cat([level.flatten(0, 2) for level in anchors])
        loss_location, num_locations = self._location_loss(
            location_logits.float(), assignment.locations.labels
        )
        loss_box, num_boxes = self._box_loss(box_deltas, flat_anchors, assignment, gt_instances)
        loss_anchor, num_refined = self._anchor_loss(
            anchor_logits, box_deltas.detach(), flat_anchors, assignment, gt_instances
        )
        counts = torch.stack([num_locations, num_boxes, num_refined])
        log_counts(("locations", "regressed_anchors", "refined_anchors"), counts, len(gt_instances))
        normalizers = mean_over_ranks(counts)
        return {
            "loss_location": loss_location / normalizers[0],
            "loss_box": self.box_loss_weight * loss_box / normalizers[1],
            "loss_anchor": self.anchor_loss_weight * loss_anchor / normalizers[2],
        }

    def _location_loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the location classifier's loss, and the number of positive locations.

        Args:
            logits: (N, P, C), with background's (N, P, C + 1).
            labels: (N P,).
        """
        if self.location_loss == "softmax":
            num_positive = ((labels >= 0) & (labels < self.num_classes)).sum()
            labels = labels.view(logits.shape[:2])
            return mined_cross_entropy(logits, labels, self.location_negative_ratio), num_positive
        alpha, beta = self.location_focal
        return location_loss(logits.flatten(0, 1), labels, alpha=alpha, beta=beta)

    def _box_loss(
        self,
        deltas: Tensor,
        anchors: Tensor,
        assignment: SemiAnchoredAssignment,
        gt_instances: Sequence[Instances],
    ) -> tuple[Tensor, Tensor]:
        """Sum of the IoU loss of the regressed anchors, and their number."""
        chosen = (assignment.box_gt_index >= 0).nonzero()[:, 0]
        deltas, anchors = deltas[chosen], anchors[chosen % len(anchors)]
        gt_boxes = torch.cat([instances.gt_boxes.tensor for instances in gt_instances])
        targets = gt_boxes[assignment.box_gt_index[chosen]]
        if self.box_loss == "smooth_l1":
            targets = self.box2box_transform.get_deltas(anchors, targets)
            loss = F.smooth_l1_loss(deltas.float(), targets, reduction="sum")
        else:
            boxes = self.box2box_transform.apply_deltas(deltas, anchors)
            loss = box_iou_loss(boxes, targets, self.box_loss).sum()
        return loss, chosen.new_tensor(len(chosen))

    def _anchor_loss(
        self,
        logits: Tensor,
        deltas: Tensor,
        anchors: Tensor,
        assignment: SemiAnchoredAssignment,
        gt_instances: Sequence[Instances],
    ) -> tuple[Tensor, Tensor]:
        """Sum of the anchor classifier's loss, and the number of refined positive anchors."""
        location_gt = assignment.locations.gt_index[assignment.anchor_location]
        chosen = (location_gt >= 0).nonzero()[:, 0]
        boxes = self.box2box_transform.apply_deltas(deltas[chosen], anchors[chosen % len(anchors)])
        is_positive, soft_targets = refined_labels(
            self._refined_iou(boxes, location_gt[chosen], chosen // len(anchors), gt_instances),
            assignment.anchor_location[chosen],
            max(self.anchor_generator.num_cell_anchors),
            threshold=self.refined_iou_threshold,
            sigma=self.sigma,
            force_best=self.force_best_refined,
        )
        alpha, beta = self.anchor_focal
        loss = anchor_loss(
            logits[chosen], soft_targets, is_positive, self.anchor_loss, alpha=alpha, beta=beta
        )
        return loss, is_positive.sum()

    @torch.no_grad()
    def _refined_iou(
        self, boxes: Tensor, location_gt: Tensor, image: Tensor, gt_instances: Sequence[Instances]
    ) -> Tensor:
        """IoU of refined boxes (Q, 4) with the boxes they may stand for, at locations of a box.

        Args:
            location_gt: (Q,) the box of each one's location, counted through over the images.
            image: (Q,) the image of each one.
        """
        gt_boxes = [instances.gt_boxes.tensor for instances in gt_instances]
        if self.refined_match == "location" or len(boxes) == 0:
            return aligned_iou(boxes, torch.cat(gt_boxes)[location_gt])
        gt_classes = [instances.gt_classes for instances in gt_instances]
        location_class = torch.cat(gt_classes)[location_gt]
        # One row an image; what fills it up has no class.
        gt_boxes = pad_sequence(gt_boxes, batch_first=True)
        gt_classes = pad_sequence(gt_classes, batch_first=True, padding_value=-1)
        best = []
        for rows in torch.arange(len(boxes), device=boxes.device).split(
            max(1, _IOU_ENTRIES // gt_boxes.shape[1])
        ):
            same_class = gt_classes[image[rows]] == location_class[rows, None]
            iou = aligned_iou(boxes[rows, None], gt_boxes[image[rows]])
            best.append((iou * same_class).amax(dim=1))
        return torch.cat(best)

    @torch.no_grad()
    def inference(
        self,
        anchors: Sequence[Tensor],
        predictions: SemiAnchoredPredictions,
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Instances]:
        """Detections of N images; shapes as in :meth:`losses`.

        Args:
            image_sizes: height and width of each image in pixels, without padding.
        """
        levels = self._levels(anchors, predictions)
        # A new generator for each call keeps a random choice of anchors repeatable.
        generator = torch.Generator().manual_seed(0)
        results = []
        for index, image_size in enumerate(image_sizes):
            candidates = [
                self._level_candidates(level[0], *(part[index] for part in level[1:]), generator)
                for level in levels
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
        self, features: Sequence[Tensor], predictions: SemiAnchoredPredictions
    ) -> tuple[Tensor, Tensor]:
        """Boxes (N, P k, 4), pixels, and class scores (N, P k, C) of all locations' chosen anchors.

        ``features`` are maps (N, D, H, W), ``predictions`` the head's output for them; k anchors
        are chosen at each location, see :func:`select_anchors`.
        """
        levels = self._levels(self.grid_anchors(features), predictions)
        generator = torch.Generator().manual_seed(0)
        boxes, scores = [], []
        for index in range(len(features[0])):
            parts = [
                self._dense_level(level[0], *(part[index] for part in level[1:]), generator)
                for level in levels
            ]
            boxes.append(torch.cat([level_boxes for level_boxes, _ in parts]))
            scores.append(torch.cat([level_scores for _, level_scores in parts]))
        return torch.stack(boxes), torch.stack(scores)

    def _levels(
        self, anchors: Sequence[Tensor], predictions: SemiAnchoredPredictions
    ) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Of each level anchors (P, K, 4), logits (N, P, C), deltas (N, P, K, 4), (N, P, K)."""
        return [
            (
                level.flatten(0, 1),
                self._class_logits(location_logits),
                flatten_levels([box_deltas], 4).view(len(box_deltas), -1, level.shape[2], 4),
                anchor_logits.flatten(2).transpose(1, 2),
            )
            for level, location_logits, box_deltas, anchor_logits in zip(
                anchors, *predictions, strict=True
            )
        ]

    def _class_logits(self, location_logits: Tensor) -> Tensor:
        """(N, P, C), whose sigmoids are the classes' probabilities, for one level's maps."""
        logits = flatten_levels([location_logits], self.num_location_logits)
        if self.location_loss == "focal":
            return logits
        return logits.float().softmax(dim=2)[..., : self.num_classes].logit(eps=1e-6)

    def _level_candidates(
        self,
        anchors: Tensor,
        location_logits: Tensor,
        deltas: Tensor,
        anchor_logits: Tensor,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and classes of one level: (P, K, 4), (P, C), (P, K, 4), (P, K)."""
        anchor_scores, anchor_index = self._select_anchors(anchor_logits, generator)
        scores, classes, location, chosen = level_candidates(
            location_logits,
            anchor_scores,
            score_threshold=self.score_threshold,
            threshold_on=self.threshold_on,
            topk=self.topk_candidates,
        )
        anchor = anchor_index[location, chosen]
        boxes = self.box2box_transform.apply_deltas(
            deltas[location, anchor], anchors[location, anchor]
        )
        return boxes, scores, classes

    def _dense_level(
        self,
        anchors: Tensor,
        location_logits: Tensor,
        deltas: Tensor,
        anchor_logits: Tensor,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Boxes (P k, 4) and scores (P k, C) of one level; as :meth:`_level_candidates`."""
        anchor_scores, index = self._select_anchors(anchor_logits, generator)
        index = index[..., None].expand(-1, -1, 4)
        boxes = self.box2box_transform.apply_deltas(
            deltas.gather(1, index).flatten(0, 1), anchors.gather(1, index).flatten(0, 1)
        )
        scores = location_logits.float().sigmoid()[:, None] * anchor_scores[..., None]
        return boxes, scores.flatten(0, 1)

    def _select_anchors(
        self, anchor_logits: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        return select_anchors(
            anchor_logits,
            selection=self.anchor_selection,
            topk=self.anchor_topk,
            threshold=self.anchor_threshold,
            generator=generator,
        )


def _build_assigner(cfg, num_levels: int) -> SemiAnchoredAssigner:
    keys = cfg.MODEL.SEMI_ANCHORED
    labeling = _choice(cfg, "LABELING", ("anchors", "fcos", "fcos_shrink"))
    labeler = None
    if labeling != "anchors":
        ends = check_count("MODEL.SEMI_ANCHORED.FCOS_RANGES", keys.FCOS_RANGES, num_levels - 1)
        labeler = FCOSAssigner(
            num_classes=num_classes(cfg),
            size_ranges=level_size_ranges(ends),
            shrink=keys.SHRINK if labeling == "fcos_shrink" else 1.0,
        )
    return SemiAnchoredAssigner(
        num_classes=num_classes(cfg),
        iou_thresholds=keys.IOU_THRESHOLDS,
        low_quality_matches=keys.LOW_QUALITY_MATCHES,
        ignore_locations=keys.IGNORE_LOCATIONS,
        gamma=keys.GAMMA,
        regressed_anchors=_choice(cfg, "REGRESSED_ANCHORS", ("positive", "all", "best")),
        regression_target=_choice(cfg, "REGRESSION_TARGET", ("anchor", "location")),
        location_labeler=labeler,
    )


def _choice(cfg, name: str, choices: Sequence[str]) -> str:
    return check_choice(
        f"MODEL.SEMI_ANCHORED.{name}", getattr(cfg.MODEL.SEMI_ANCHORED, name), choices
    )
