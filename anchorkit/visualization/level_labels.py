"""Labels of a detector's locations, level by level, in one form for every kind of detector.

To draw another detector's labels, register a function for its class with
``label_levels.register``; without anchors it leaves ``anchor_boxes`` out of :func:`level_labels`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from itertools import chain

import torch
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.structures import Instances
from torch import Tensor, nn

from ..assigners.matching import match_anchors
from ..errors import UserError
from ..geometry import aligned_iou
from ..modeling.anchor_generator import grid_anchors
from ..modeling.meta_arch import SSD, PointDetector, SemiAnchoredDetector

_SHARE = "the share of its anchors that have its class"
_LABEL = "its training label"


@dataclass(frozen=True)
class LevelLabels:
    """Labels of one level's H x W locations; boxes and centres in pixels of the network's input.

    Attributes:
        name: of the feature map, such as "p3".
        stride: distance of neighbouring locations in pixels.
        centers: (H, W, 2), x and y.
        labels: (H, W) int64: class; C is background, -1 is ignored.
        scores: (H, W) in [0, 1], see ``ImageLabels.score_name``; 0 where not positive.
        gt_index: (H, W) int64: the location's box, -1 for none.
        best_boxes: (H, W, 4): of the location's anchors the one with the highest IoU with its box
            before regression; not a number where there is no box or no anchor.
        best_iou: (H, W): that IoU, 0 where there is none.
        num_anchors: anchors of the level.
        num_positive_anchors: how many of them are positive.
    """

    name: str
    stride: float
    centers: Tensor
    labels: Tensor
    scores: Tensor
    gt_index: Tensor
    best_boxes: Tensor
    best_iou: Tensor
    num_anchors: int
    num_positive_anchors: int

    @property
    def is_positive(self) -> Tensor:
        """(H, W) bool."""
        return self.gt_index >= 0


@dataclass(frozen=True)
class ImageLabels:
    """Labels of one image.

    Attributes:
        levels: from fine to coarse.
        gt_boxes: (M, 4), pixels of the network's input.
        gt_classes: (M,) int64.
        best_iou: (M,) the highest IoU of each box with any anchor; not a number without anchors.
        has_location: (M,) bool: some location stands for the box, or some anchor is regressed to
            it.
        score_name: what the locations' scores say.
    """

    levels: list[LevelLabels]
    gt_boxes: Tensor
    gt_classes: Tensor
    best_iou: Tensor
    has_location: Tensor
    score_name: str

    def training_labels(self, level: LevelLabels) -> Tensor:
        """(H, W) what the classifier of a level's locations learns: in [0, 1], 0 if not positive.

        Where scores are shares of anchors, it learns 1 at every positive location.
        """
        return level.scores if self.score_name == _LABEL else level.is_positive.float()


@singledispatch
def label_levels(model: nn.Module, sample: dict) -> ImageLabels:
    """Label one image as ``model`` does in training; weights play no part.

    Args:
        model: a detector of a kind that was registered.
        sample: with "image" (3, H, W) and "instances", as a training loader gives them.

    Raises:
        UserError: the model is of another kind.
    """
    known = [kind.__name__ for kind in label_levels.registry if kind is not object]
    raise UserError(
        f"labels of {type(model).__name__} cannot be drawn; those of {', '.join(known)} and of "
        "classes made from them can"
    )


@label_levels.register
def _(model: SemiAnchoredDetector, sample: dict) -> ImageLabels:
    gt_instances = sample["instances"].to(model.device)
    anchors = model.grid_anchors(feature_maps(model, sample["image"]))
    assignment = model.assigner(anchors, gt_instances)
    locations = assignment.locations
    is_vote = model.assigner.location_labeler is None
    scores = locations.score
    if is_vote:
        scores = _shares(assignment.anchors.labels, locations, assignment.anchor_location)
    levels, first_location, first_anchor = [], 0, 0
    for name, stride, boxes in zip(*_levels_of(model), anchors, strict=True):
        height, width, num_anchors, _ = boxes.shape
        rows = slice(first_location, first_location + height * width)
        end = first_anchor + height * width * num_anchors
        anchor_labels = assignment.anchors.labels[first_anchor:end]
        levels.append(
            level_labels(
                name, stride, _centers(boxes), locations.labels[rows], scores[rows],
                locations.gt_index[rows], gt_instances, anchor_boxes=boxes,
                num_positive_anchors=_count_positive(anchor_labels, model.num_classes),
            )
        )  # fmt: skip
        first_location, first_anchor = rows.stop, end
    served = torch.cat([locations.gt_index, assignment.box_gt_index])
    return _image_labels(
        levels, gt_instances, anchors, served,
        _SHARE if is_vote else _LABEL,
    )  # fmt: skip


@label_levels.register
def _(model: PointDetector, sample: dict) -> ImageLabels:
    """DSLA's labels are those before they are multiplied by the IoU of a prediction."""
    gt_instances = sample["instances"].to(model.device)
    features = feature_maps(model, sample["image"])
    locations = model.grid_locations(features)
    assignment = model.assigner(locations, gt_instances)
    levels, first = [], 0
    for name, stride, points, feature in zip(
        model.head_in_features, model.strides, locations, features, strict=True
    ):
        rows = slice(first, first + len(points))
        levels.append(
            level_labels(
                name, stride, points.view(*feature.shape[-2:], 2), assignment.labels[rows],
                assignment.score[rows], assignment.gt_index[rows], gt_instances,
            )
        )  # fmt: skip
        first = rows.stop
    return _image_labels(levels, gt_instances, [], assignment.gt_index, _LABEL)


@label_levels.register
def _(model: RetinaNet, sample: dict) -> ImageLabels:
    """A location shows its positive anchor with the highest IoU."""
    gt_instances = sample["instances"].to(model.device)
    features = feature_maps(model, sample["image"])
    (labels,), _ = model.label_anchors(model.anchor_generator(features), [gt_instances])
    grids = grid_anchors(model.anchor_generator, features)
    is_positive = (labels >= 0) & (labels < model.num_classes)
    gt_index = match_anchors(grids, gt_instances.gt_boxes.tensor).gt_index
    gt_index = torch.where(is_positive, gt_index, -1)
    return _anchor_labels(model, grids, labels, gt_index, gt_instances)


@label_levels.register
def _(model: SSD, sample: dict) -> ImageLabels:
    """A location shows its positive anchor with the highest IoU."""
    gt_instances = sample["instances"].to(model.device)
    grids = model.grid_anchors(feature_maps(model, sample["image"]))
    assignment = model.assigner(grids, gt_instances)
    return _anchor_labels(model, grids, assignment.labels, assignment.gt_index, gt_instances)


def _anchor_labels(
    model: nn.Module,
    grids: Sequence[Tensor],
    labels: Tensor,
    gt_index: Tensor,
    gt_instances: Instances,
) -> ImageLabels:
    """Locations of a detector that labels anchors: ``labels`` and ``gt_index`` (R,) of all."""
    best_overlap = match_anchors(grids, gt_instances.gt_boxes.tensor).iou
    levels, first = [], 0
    for name, stride, boxes in zip(*_levels_of(model), grids, strict=True):
        num_anchors = boxes.shape[2]
        rows = slice(first, first + boxes.shape[:3].numel())
        table = labels[rows].view(-1, num_anchors)
        has_object = gt_index[rows].view(-1, num_anchors) >= 0
        iou = best_overlap[rows].view(-1, num_anchors)
        best = torch.where(has_object, iou, -1.0).argmax(dim=1, keepdim=True)
        background = torch.where((table == -1).any(1), -1, model.num_classes)
        label = torch.where(has_object.any(1), table.gather(1, best)[:, 0], background)
        share = (table == label[:, None]).float().mean(dim=1) * has_object.any(1)
        levels.append(
            level_labels(
                name, stride, _centers(boxes), label, share,
                gt_index[rows].view(-1, num_anchors).gather(1, best)[:, 0], gt_instances,
                anchor_boxes=boxes, num_positive_anchors=int(has_object.sum()),
            )
        )  # fmt: skip
        first = rows.stop
    return _image_labels(levels, gt_instances, grids, gt_index, _SHARE)


def feature_maps(model: nn.Module, image: Tensor) -> list[Tensor]:
    """Feature maps of an image (3, H, W) without values: shapes on the "meta" device, as fast."""
    images = model.preprocess_image([{"image": image}]).tensor.to("meta")
    state = {
        name: value.to("meta")
        for name, value in chain(model.backbone.named_parameters(), model.backbone.named_buffers())
    }
    features = torch.func.functional_call(model.backbone, state, (images,))
    return [features[name] for name in model.head_in_features]


def level_labels(
    name: str, stride: float, centers: Tensor, labels: Tensor, scores: Tensor, gt_index: Tensor,
    gt_instances: Instances, *, anchor_boxes: Tensor | None = None, num_positive_anchors: int = 0,
) -> LevelLabels:  # fmt: skip
    """Put a level's labels together and look up the best anchor of each positive location.

    Args:
        name, stride, centers: as in :class:`LevelLabels`; centers (H, W, 2).
        labels, scores, gt_index: (H W,), row by row.
        gt_instances: the image's boxes.
        anchor_boxes: (H, W, K, 4), or None for a detector without anchors.
        num_positive_anchors: as in :class:`LevelLabels`.
    """
    shape = centers.shape[:2]
    best_boxes = centers.new_full((len(labels), 4), torch.nan)
    best_iou = centers.new_zeros(len(labels))
    positive = (gt_index >= 0).nonzero()[:, 0]
    num_anchors = 0
    if anchor_boxes is not None:
        num_anchors = anchor_boxes.shape[:3].numel()
        boxes = anchor_boxes.flatten(0, 1)[positive]
        gt_boxes = gt_instances.gt_boxes.tensor[gt_index[positive]]
        best_iou[positive], best = aligned_iou(boxes, gt_boxes[:, None]).max(dim=1)
        best_boxes[positive] = boxes[torch.arange(len(best), device=best.device), best]
    return LevelLabels(
        name, float(stride), centers.cpu(), labels.view(shape).cpu(), scores.view(shape).cpu(),
        gt_index.view(shape).cpu(), best_boxes.view(*shape, 4).cpu(), best_iou.view(shape).cpu(),
        num_anchors, num_positive_anchors,
    )  # fmt: skip


def _image_labels(
    levels: list[LevelLabels],
    gt_instances: Instances,
    anchors: Sequence[Tensor],
    served: Tensor,
    score_name: str,
) -> ImageLabels:
    """``served``: indices of the boxes that some location or anchor stands for, -1 for none."""
    gt_boxes = gt_instances.gt_boxes.tensor
    has_location = torch.zeros(len(gt_boxes), dtype=torch.bool, device=gt_boxes.device)
    has_location[served[served >= 0]] = True
    best_iou = gt_boxes.new_full((len(gt_boxes),), torch.nan)
    if anchors:
        best_iou = match_anchors(anchors, gt_boxes).best_iou
    return ImageLabels(
        levels, gt_boxes.cpu(), gt_instances.gt_classes.cpu(), best_iou.cpu(), has_location.cpu(),
        score_name,
    )  # fmt: skip


def _shares(anchor_labels: Tensor, locations, anchor_location: Tensor) -> Tensor:
    """(P,) s of eq. 1 for each location's own class; 0 where the location is not positive."""
    same = (anchor_labels == locations.labels[anchor_location]).float()
    zeros = torch.zeros_like(locations.score)
    num_same = zeros.index_add(0, anchor_location, same)
    num_anchors = zeros.index_add(0, anchor_location, torch.ones_like(same))
    return torch.where(locations.gt_index >= 0, num_same / num_anchors, 0.0)


def _levels_of(model: nn.Module) -> tuple[list[str], list[float]]:
    return list(model.head_in_features), list(model.anchor_generator.strides)


def _centers(anchors: Tensor) -> Tensor:
    return (anchors[..., 0, :2] + anchors[..., 0, 2:]) / 2


def _count_positive(labels: Tensor, num_classes: int) -> int:
    return int(((labels >= 0) & (labels < num_classes)).sum())
