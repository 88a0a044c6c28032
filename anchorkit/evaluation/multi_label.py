"""Average precision, precision, recall and confidence of a multi-label classifier."""

import logging
import math
from itertools import compress

import torch
from torch import Tensor

from ..data.image_set import ImageBatch
from ..errors import UserError, quoted
from .accuracy import highest_class
from .average_precision import average_precisions, highest_classes, precision_recall
from .confidence import caption, confidence_map, map_content, mean_confidences, single_label
from .image_outputs import ImageOutputs, ImageOutputsEvaluator
from .predictions import write_rows

logger = logging.getLogger(__name__)

TOP = 3


class MultiLabelEvaluator(ImageOutputsEvaluator):
    """How well logits rank and tell classes, over all images and over those of a single class.

    The labels of a batch are (B, K): 1, 0, or -1 where it is not known whether a class is there,
    which counts nowhere: neither in a ranking nor among the highest classes. "gt_classes" holds
    any number of classes. An image is *single* if exactly one of its labels is 1.

    Writes ``outputs.npz``, ``predictions.csv`` with the sigmoid of each class and, if there are
    single images, ``confidence.json`` and ``confidence.png``. Arguments as in the base class.
    """

    task = "multi_label"

    def labels_of(self, inputs: ImageBatch | list[dict]) -> Tensor:
        if not isinstance(inputs, ImageBatch):
            labels = torch.zeros(len(inputs), len(self.class_names), dtype=torch.int8)
            for row, image in zip(labels, inputs, strict=True):
                row[self._classes(image)] = 1
            return labels
        shape = (len(inputs), len(self.class_names))
        if inputs.labels.shape != shape or inputs.labels.dtype != torch.int8:
            raise UserError(
                f"{self.dataset_name}: an evaluation expects torch.int8 labels of shape {shape}, "
                f"got {inputs.labels.dtype} of shape {tuple(inputs.labels.shape)}; name all "
                "classes, and switch mixing of images off in testing"
            )
        return inputs.labels

    def figures(self, test_set: ImageOutputs) -> dict[str, float]:
        """See the base class.

        Returns:
            ``mAP`` and ``mAP_11point`` (VOC 2007's), and ``mAP_single`` where some images are
            single and others not; ``num_classes_ranked`` (``_single``) where classes without
            positives were left out of it; ``CP`` to ``OF1`` of the classes with a sigmoid above
            0.5, and ``_top3`` of the 3 highest where K > 3. Of single images: ``acc1_single``, the
            share whose class is the highest; ``diagonal_confidence`` and
            ``off_diagonal_confidence``, means of the confidence map. ``AP-<class>`` and
            ``AP_single-<class>`` are not a number for a class without positives. What cannot be
            computed is left out.
        """
        self._check_labels(test_set)
        outputs, labels = test_set.outputs, test_set.labels
        is_single = single_label(labels)
        figures = self._ranking(outputs, labels, "")
        if is_single.any() and not is_single.all():
            figures |= self._ranking(outputs[is_single], labels[is_single], "_single")
        figures |= precision_recall(outputs > 0, labels)
        if len(self.class_names) > TOP:
            top = precision_recall(highest_classes(outputs, labels, TOP), labels)
            figures |= {f"{name}_top{TOP}": value for name, value in top.items()}
        scores = outputs.sigmoid()
        confidence = confidence_map(scores, labels)
        if is_single.any():
            figures |= _single_figures(outputs[is_single], labels[is_single], confidence)
        if self.output_folder is not None:
            self._write_predictions(test_set, scores)
            self._write_outputs(test_set)
            if is_single.any():
                self._write_confidence(confidence)
        return figures

    def _ranking(self, outputs: Tensor, labels: Tensor, suffix: str) -> dict[str, float]:
        area, voc = average_precisions(outputs, labels)
        is_ranked = area.isfinite()
        figures = {}
        if is_ranked.any():
            figures[f"mAP{suffix}"] = 100 * float(area[is_ranked].mean())
            if not suffix:
                figures["mAP_11point"] = 100 * float(voc[is_ranked].mean())
        if not is_ranked.all():
            figures[f"num_classes_ranked{suffix}"] = int(is_ranked.sum())
            left_out = [self.class_names[index] for index in (~is_ranked).nonzero()[:, 0]]
            logger.warning(
                "%s: no %simage has %s; mAP%s is the mean over the other %d of %d classes",
                self.dataset_name, "single-label " if suffix else "", quoted(left_out), suffix,
                int(is_ranked.sum()), len(self.class_names),
            )  # fmt: skip
        keys = [f"AP{suffix}-{name}" for name in self.class_names]
        return {**figures, **dict(zip(keys, (100 * area).tolist(), strict=True))}

    def _classes(self, image: dict) -> list[int]:
        number = len(self.class_names)
        if "gt_classes" not in image:
            raise UserError(
                f"{self.dataset_name}, image {image['image_id']}: no 'gt_classes'; a multi-label "
                "evaluation needs the list of an image's classes, which may be empty"
            )
        classes = [int(index) for index in image["gt_classes"]]
        wrong = [index for index in classes if not 0 <= index < number]
        if wrong:
            raise UserError(
                f"{self.dataset_name}, image {image['image_id']}: expected 'gt_classes' from 0 to "
                f"{number - 1}, got {wrong[0]}: name all classes"
            )
        return classes

    def _check_labels(self, test_set: ImageOutputs) -> None:
        wrong = ((test_set.labels < -1) | (test_set.labels > 1)).nonzero().tolist()
        if wrong:
            image, index = wrong[0]
            raise UserError(
                f"{self.dataset_name}: expected labels 1, 0 or -1, got "
                f"{int(test_set.labels[image, index])} for class {self.class_names[index]!r} of "
                f"{test_set.names[image]}: a multi-label set says of each class whether it is there"
            )

    def _write_predictions(self, test_set: ImageOutputs, scores: Tensor) -> None:
        header = ("image_id", "name", "labels", "not_known", "predictions", *self.class_names)
        columns = [
            ["; ".join(compress(self.class_names, row)) for row in table.tolist()]
            for table in (test_set.labels == 1, test_set.labels < 0, test_set.outputs > 0)
        ]
        rows = [
            (image_id, name, *sets, *(f"{score:.4f}" for score in row))
            for image_id, name, *sets, row in zip(
                test_set.image_ids.tolist(), test_set.names, *columns, scores.tolist(), strict=True
            )
        ]
        write_rows(self._path("predictions.csv"), header, rows)

    def _write_confidence(self, confidence: Tensor) -> None:
        self._write_json("confidence.json", map_content(confidence, self.class_names))
        if self.draws:
            # Imported here: matplotlib takes a second that training does not need to wait for.
            from ..visualization import draw_confidence

            picture = draw_confidence(confidence.numpy(), self.class_names, caption(confidence))
            self._write_picture("confidence.png", picture)


def _single_figures(outputs: Tensor, labels: Tensor, confidence: Tensor) -> dict[str, float]:
    """Of images with one class each: (M, K) outputs and labels, and their confidence map."""
    predictions = highest_class(outputs.masked_fill(labels < 0, -torch.inf))
    is_right = labels.gather(1, predictions[:, None]) == 1
    own, others = mean_confidences(confidence)
    figures = {
        "acc1_single": 100 * float(is_right.double().mean()),
        "diagonal_confidence": 100 * own,
        "off_diagonal_confidence": 100 * others,
    }
    return {name: value for name, value in figures.items() if math.isfinite(value)}
