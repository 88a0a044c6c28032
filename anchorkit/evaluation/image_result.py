"""Detections of one image, matched with its objects."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from pycocotools.cocoeval import COCOeval

from ..visualization.detections import GroundTruth, match_objects


@dataclass(frozen=True)
class ImageResult:
    """Detections of one image and its objects, matched at IoU 0.5.

    Attributes:
        image_id: in the data set.
        boxes, scores, classes: (Q, 4) XYXY pixels, (Q,) falling, (Q,).
        truth: the objects.
        partners: (Q,) index of the object of the same class, -1 for a false detection.
    """

    image_id: int | str
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    truth: GroundTruth
    partners: np.ndarray

    @property
    def is_counted(self) -> np.ndarray:
        """(Q,) detections of crowds are neither correct nor false."""
        return (self.partners < 0) | ~self._is_crowd_of_partner()

    @property
    def found(self) -> np.ndarray:
        """Indices of the objects, without crowds, that a detection of their class stands for."""
        return self.partners[(self.partners >= 0) & self.is_counted]

    @property
    def num_objects(self) -> int:
        return int((~self.truth.is_crowd).sum())

    @property
    def num_false(self) -> int:
        return int((self.partners < 0).sum())

    @property
    def num_missed(self) -> int:
        return self.num_objects - len(self.found)

    @property
    def num_errors(self) -> int:
        """False detections and missed objects; a wrong class is one of each."""
        return self.num_false + self.num_missed

    def above(self, thresholds: np.ndarray) -> "ImageResult":
        """The detections whose score is at least the threshold (C,) of their class.

        Their partners stay: detections with higher scores have taken their objects first.
        """
        kept = self.scores >= thresholds[self.classes]
        names = ("boxes", "scores", "classes", "partners")
        return replace(self, **{name: getattr(self, name)[kept] for name in names})

    def instances(self, height: int, width: int) -> Instances:
        """The detections as detectron2 has them, of an image of this size."""
        return Instances(
            (height, width), pred_boxes=Boxes(self.boxes), scores=torch.from_numpy(self.scores),
            pred_classes=torch.from_numpy(self.classes),
        )  # fmt: skip

    def _is_crowd_of_partner(self) -> np.ndarray:
        """(Q,) False where there is no partner."""
        return np.append(self.truth.is_crowd, False)[self.partners]


def image_results(coco_eval: COCOeval) -> Iterator[ImageResult]:
    """All detections of each image that COCO's evaluation was given, whatever their scores.

    Classes are numbered in the order of the category ids.
    """
    number = {category: index for index, category in enumerate(coco_eval.params.catIds)}
    for image_id in coco_eval.cocoGt.getImgIds():
        found = coco_eval.cocoDt.imgToAnns.get(image_id, [])
        objects = coco_eval.cocoGt.imgToAnns.get(image_id, [])
        scores = np.array([entry["score"] for entry in found], dtype=np.float64)
        order = np.argsort(-scores, kind="stable")
        boxes, classes = _boxes(found)[order], _classes(found, number)[order]
        is_crowd = np.array([entry["iscrowd"] for entry in objects], dtype=bool)
        truth = GroundTruth(_boxes(objects), _classes(objects, number), is_crowd)
        partners = match_objects(boxes, classes, truth)
        yield ImageResult(image_id, boxes, scores[order], classes, truth, partners)


def _boxes(entries: Sequence[Mapping]) -> np.ndarray:
    """(Q, 4) XYXY."""
    boxes = np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])


def _classes(entries: Sequence[Mapping], number: Mapping[int, int]) -> np.ndarray:
    return np.array([number[entry["category_id"]] for entry in entries], dtype=np.int64)
