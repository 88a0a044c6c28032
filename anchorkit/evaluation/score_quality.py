"""How well a detector's scores tell which of its boxes are well localised (DSLA, figure 1)."""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Boxes, BoxMode, Instances, pairwise_iou
from detectron2.utils import comm
from torch import Tensor, nn

from ..data import load_dataset
from ..errors import UserError

logger = logging.getLogger(__name__)

# A detection stands for the ground-truth box of its class that it overlaps most, from this IoU on.
MIN_IOU = 0.1
# IoU by which another box of a cluster must be better before the survivor counts as the wrong one.
MARGIN = 0.01
# Names of the suppression's threshold and of the limit that follows it, in the detectors there are.
_SUPPRESSION = (
    ("nms_threshold", "max_detections"),
    ("test_nms_thresh", "max_detections_per_image"),
)
_NO_LIMIT = 1_000_000


class ScoreQuality(DatasetEvaluator):
    """Rank correlation, survivors of the suppression, and smoothness of the labels.

    Detections are matched with the ground-truth box of their class that they overlap most; those
    with an IoU below 0.1, and crowd boxes, are left out. Every image passes the model twice, with
    and without suppression. The figures, in percent but for the IoU:

    - ``rank_correlation``: Spearman's, of score and IoU over all detections of the data set;
      ``rank_correlation_50`` of those with an IoU of 0.5 or more.
    - ``wrong_survivors``: share of detections that suppressed a box with an IoU higher by more
      than 0.01 with the same ground truth.
    - ``iou_lost``: mean IoU, in hundredths, by which the best suppressed box is better.
    - ``label_step``: mean difference, in hundredths, of the training labels of two neighbouring
      locations of a level of which one at least is positive, if the detector's kind has labels in
      :func:`anchorkit.visualization.label_levels`. Neighbours of two objects do not count.

    A figure that nothing contributes to is not a number. ``score_quality.png`` and ``.pdf`` show
    the first two.

    Args:
        dataset_name: a registered data set with boxes.
        model: the detector that is evaluated.
        folder: where the plot is written.
    """

    def __init__(self, dataset_name: str, model: nn.Module, folder: str):
        self.model = getattr(model, "module", model)
        self.folder = folder
        images, _ = load_dataset(dataset_name)
        self._ground_truth = {image["image_id"]: _ground_truth(image) for image in images}
        self._names = suppression_of(self.model)
        if self._names is None:
            logger.warning(
                "%s has no suppression that can be switched off: of its scores only the rank "
                "correlation is reported", type(self.model).__name__,
            )  # fmt: skip
        self.reset()

    def reset(self):
        self._detections: list[np.ndarray] = []
        self._steps: list[np.ndarray] = []
        self._has_labels = True

    def process(self, inputs, outputs):
        everything: Sequence[dict | None] = [None] * len(inputs)
        if self._names is not None:
            with unsuppressed(self.model, self._names), torch.no_grad():
                everything = self.model(inputs)
        for image, output, candidates in zip(inputs, outputs, everything, strict=True):
            gt_boxes, gt_classes = self._ground_truth[image["image_id"]]
            rows = survivor_table(
                output["instances"].to("cpu"),
                None if candidates is None else candidates["instances"].to("cpu"),
                gt_boxes,
                gt_classes,
                getattr(self.model, self._names[0]) if self._names else 1.0,
            )
            self._detections.append(rows.numpy())
            if self._has_labels and len(gt_boxes):
                self._add_label_steps(image, gt_boxes, gt_classes)

    def evaluate(self) -> dict | None:
        parts = comm.gather((self._detections, self._steps), dst=0)
        if not comm.is_main_process():
            return None
        detections = np.concatenate([np.zeros((0, 3)), *(d for part in parts for d in part[0])])
        steps = np.concatenate([np.zeros(0), *(s for part in parts for s in part[1])])
        score, iou, gain = detections.T
        good = iou >= 0.5
        figures = {
            "rank_correlation": 100 * _spearman(score, iou),
            "rank_correlation_50": 100 * _spearman(score[good], iou[good]),
        }
        if self._names is not None:
            figures["wrong_survivors"] = 100 * _mean(gain > MARGIN)
            figures["iou_lost"] = 100 * _mean(gain)
        if self._has_labels:
            figures["label_step"] = 100 * _mean(steps)
        for name, value in figures.items():
            logger.info("score quality: %s %.2f", name, value)
        self._draw(score, iou, gain if self._names else None)
        return {"score_quality": figures}

    def _add_label_steps(self, image: dict, gt_boxes: Tensor, gt_classes: Tensor) -> None:
        # Imported here: matplotlib takes a second that training does not need to wait for.
        from ..visualization import label_levels

        height, width = image["image"].shape[-2:]
        instances = Instances((height, width), gt_classes=gt_classes)
        instances.gt_boxes = Boxes(gt_boxes.clone())
        instances.gt_boxes.scale(width / image["width"], height / image["height"])
        try:
            labels = label_levels(self.model, {**image, "instances": instances})
        except UserError as error:
            self._has_labels = False
            logger.info("score quality without label_step: %s", error)
            return
        for level in labels.levels:
            steps = label_steps(level.gt_index, labels.training_labels(level))
            self._steps.append(steps.numpy())

    def _draw(self, score: np.ndarray, iou: np.ndarray, gain: np.ndarray | None) -> None:
        from ..visualization import draw_score_quality, save_figure

        os.makedirs(self.folder, exist_ok=True)
        figure = draw_score_quality(score, iou, gain)
        for ending in ("png", "pdf"):
            save_figure(figure, os.path.join(self.folder, f"score_quality.{ending}"))


def suppression_of(model: nn.Module) -> tuple[str, str] | None:
    """Names of the attributes that hold the model's NMS threshold and its limit of detections."""
    return next((names for names in _SUPPRESSION if all(hasattr(model, n) for n in names)), None)


@contextlib.contextmanager
def unsuppressed(model: nn.Module, names: tuple[str, str]) -> Iterator[None]:
    """Within the block the model returns all candidates: no IoU is above 1."""
    before = [getattr(model, name) for name in names]
    for name, value in zip(names, (1.0, _NO_LIMIT), strict=True):
        setattr(model, name, value)
    try:
        yield
    finally:
        for name, value in zip(names, before, strict=True):
            setattr(model, name, value)


def survivor_table(
    survivors: Instances,
    candidates: Instances | None,
    gt_boxes: Tensor,
    gt_classes: Tensor,
    nms_threshold: float,
) -> Tensor:
    """Score, IoU and gain of the detections of one image that match a ground-truth box.

    A survivor's cluster are the candidates of its class that no survivor with a higher score
    suppressed and that overlap it by more than the threshold.

    Args:
        survivors: the detections, with ``pred_boxes``, ``scores`` and ``pred_classes``.
        candidates: the same before suppression, or None if they are not known.
        gt_boxes, gt_classes: (M, 4) and (M,), in the pixels of the detections.
        nms_threshold: of the suppression.

    Returns:
        (Q, 3) float64: the score; the IoU with the matched box; and how much higher the IoU of the
        best suppressed box of its cluster is, 0 if none is.
    """
    overlap = _same_class_iou(survivors, gt_boxes, gt_classes)
    if overlap.numel() == 0:
        return torch.zeros(0, 3, dtype=torch.float64)
    iou, matched = overlap.max(dim=1)
    best = iou.clone()
    if candidates is not None and len(candidates):
        order = survivors.scores.argsort(descending=True, stable=True)
        suppresses = pairwise_iou(survivors.pred_boxes, candidates.pred_boxes) > nms_threshold
        suppresses &= survivors.pred_classes[:, None] == candidates.pred_classes
        # The survivor with the highest score that overlaps a candidate suppressed it.
        owner = order[suppresses[order].float().argmax(dim=0)]
        is_owned = suppresses.any(dim=0)
        owner, owned = owner[is_owned], is_owned.nonzero()[:, 0]
        candidate_iou = _same_class_iou(candidates, gt_boxes, gt_classes)[owned, matched[owner]]
        best = best.scatter_reduce(0, owner, candidate_iou, "amax")
    keep = iou >= MIN_IOU
    return torch.stack([survivors.scores, iou, best - iou], dim=1)[keep].double()


def label_steps(gt_index: Tensor, labels: Tensor) -> Tensor:
    """Differences of the labels of neighbouring locations of a level, one at least positive.

    Args:
        gt_index: (H, W) the locations' ground-truth box, -1 where not positive. Neighbours of two
            boxes are left out.
        labels: (H, W) their training label, 0 where not positive.

    Returns:
        (S,) float32 in [0, 1].
    """
    steps = []
    for dim in (0, 1):
        size = max(gt_index.shape[dim] - 1, 0)
        first, second = gt_index.narrow(dim, 0, size), gt_index.narrow(dim, -size or 0, size)
        is_step = (torch.maximum(first, second) >= 0) & (
            (first == second) | (torch.minimum(first, second) < 0)
        )
        steps.append(labels.float().diff(dim=dim).abs()[is_step])
    return torch.cat(steps)


def _ground_truth(image: dict) -> tuple[Tensor, Tensor]:
    """Boxes (M, 4) in pixels of the image file and classes (M,), without crowds."""
    annotations = [a for a in image.get("annotations", ()) if not a.get("iscrowd", 0)]
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    classes = [a["category_id"] for a in annotations]
    return (
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(classes, dtype=torch.int64),
    )


def _same_class_iou(instances: Instances, gt_boxes: Tensor, gt_classes: Tensor) -> Tensor:
    iou = pairwise_iou(instances.pred_boxes, Boxes(gt_boxes))
    return iou * (instances.pred_classes[:, None] == gt_classes)


def _spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation with mean ranks for ties; not a number where one side does not vary."""
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    from scipy.stats import spearmanr  # takes a second to import

    return float(spearmanr(first, second).statistic)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
