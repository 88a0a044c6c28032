"""Accuracy of an image classifier, whatever the loader's order, batches and processes are."""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import Tensor

from ..checkpoint import write_atomically
from ..classification import ClassificationMethod
from ..data.image_set import ImageBatch
from ..errors import UserError
from .accuracy import accuracies, confusion_counts, highest_class
from .predictions import COLUMNS, distinct_names, write_rows

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Part:
    """What one call brought: outputs (B, K) on the device, and of B images the rest."""

    outputs: Tensor
    labels: Tensor | list[int]
    image_ids: Tensor | list
    names: Sequence[str]
    # The names are those of the whole set, to be looked up by image id.
    is_whole_set: bool


@dataclass(frozen=True)
class _TestSet:
    """All images once, ordered by id: ids (N,), outputs (N, K), labels (N,) and N names."""

    image_ids: np.ndarray
    outputs: Tensor
    labels: Tensor
    names: list[str]


class ClassificationEvaluator(DatasetEvaluator):
    """Top-1 and top-5 accuracy, that of each class, and the files to look into them with.

    A method may decode an image with others of the test set beside it. So nothing is decoded until
    the outputs of all images are there, ordered by image id: the loader's order, its batches and
    the number of processes play no part.

    Args:
        dataset_name: for messages.
        method: says how raw outputs rank the classes.
        output_folder: where ``predictions.csv``, ``confusion.json``, ``confusion.png`` and
            ``outputs.npz`` go; None writes nothing.
        class_names: of the K classes. Names that are not alone get the class index added.
        draws: whether the picture is drawn, which takes longer than a small test set.
    """

    def __init__(
        self,
        dataset_name: str,
        method: ClassificationMethod,
        output_folder: str | None,
        *,
        class_names: Sequence[str],
        draws: bool = True,
    ):
        self.dataset_name = dataset_name
        self.method = method
        self.output_folder = output_folder
        self.class_names = distinct_names(class_names)
        self.draws = draws
        self.reset()

    def reset(self):
        self._parts: list[_Part] = []

    def process(self, inputs: ImageBatch | list[dict], outputs: Tensor | list[dict]) -> None:
        """Keep the outputs of a batch; nothing waits for the device.

        Args:
            inputs: a batch whose ``labels`` are class indices and whose ``image_names`` are those
                of the whole set; or dicts with "image_id", "gt_classes" (one class) and, for
                messages and dumps, "file_name".
            outputs: (B, K) raw outputs; or dicts with "outputs", (K,).
        """
        if isinstance(inputs, ImageBatch):
            if inputs.labels.ndim != 1:
                raise UserError(
                    f"{self.dataset_name}: an evaluation expects (B,) class indices, got labels of "
                    f"shape {tuple(inputs.labels.shape)}; switch mixing of images off in testing"
                )
            labels, image_ids = inputs.labels.clone(), inputs.indices.clone()
            names, is_whole_set = inputs.image_names, True
        else:
            outputs = torch.stack([output["outputs"] for output in outputs])
            labels = [self._only_class(image) for image in inputs]
            image_ids = [image["image_id"] for image in inputs]
            names = [str(image.get("file_name", image["image_id"])) for image in inputs]
            is_whole_set = False
        if len(outputs) != len(inputs) or outputs.shape[1:] != (len(self.class_names),):
            raise UserError(
                f"{self.dataset_name}: expected outputs of shape {len(inputs)} x "
                f"{len(self.class_names)} for {len(inputs)} images of {len(self.class_names)} "
                f"classes, got {' x '.join(map(str, outputs.shape))}: set the number of classes "
                "of the model to that of the data set"
            )
        # Copied, since a model may write its next outputs where these are.
        outputs = outputs.detach().to(torch.float32, copy=True)
        self._parts.append(_Part(outputs, labels, image_ids, names, is_whole_set))

    def evaluate(self) -> dict | None:
        """Figures in per cent on the main process, None elsewhere; all ranks must call it.

        Returns:
            ``{"classification": {...}}`` with ``acc1``; ``acc5`` where K > 5; ``acc1_<protocol>``
            for each further way to decode, with ``_min`` and ``_max`` where it depends on a
            permutation of the images; ``mean_class_acc`` over the classes that have images; and
            ``acc-<class>``, not a number for a class without images. A further decoding that is
            not a number somewhere has no accuracy. No images: no figures.

        Raises:
            UserError: outputs are not finite, or labels do not fit the data set's classes.
        """
        ranks = comm.gather(self._of_this_rank(), dst=0)
        if not comm.is_main_process():
            return None
        test_set = self._merge(ranks)
        if len(test_set.labels) == 0:
            logger.warning("%s: no images were evaluated", self.dataset_name)
            return {"classification": {}}
        self._check(test_set)
        # A method's buffers may lie on another device than what was gathered.
        place = next(iter([*self.method.parameters(), *self.method.buffers()]), test_set.outputs)
        outputs = test_set.outputs.to(place.device)
        with torch.no_grad():
            decodings = {k: v.cpu() for k, v in self.method.decodings(outputs).items()}
            scores = self.method.scores(outputs).cpu()
        self._require_finite(decodings[""], test_set.names)
        predictions = highest_class(decodings[""])
        counts = confusion_counts(test_set.labels, predictions, len(self.class_names))
        figures = {**accuracies(decodings, test_set.labels), **self._class_figures(counts)}
        if self.output_folder is not None:
            os.makedirs(self.output_folder, exist_ok=True)
            probabilities = scores.gather(1, predictions[:, None])[:, 0]
            self._write_predictions(test_set, predictions, probabilities)
            self._write_confusion(counts)
        return {"classification": figures}

    def _only_class(self, image: dict) -> int:
        classes = image.get("gt_classes", ())
        if len(classes) != 1:
            raise UserError(
                f"{self.dataset_name}, image {image['image_id']}: expected one class in "
                f"'gt_classes', got {len(classes)}; classification needs one class an image"
            )
        return int(classes[0])

    def _of_this_rank(self) -> tuple[np.ndarray, np.ndarray, list, list[str]]:
        """Outputs (n, K), labels (n,), n ids and n names, of the images in order of processing."""
        outputs = [part.outputs.cpu() for part in self._parts]
        labels = [np.asarray(_listed(part.labels), dtype=np.int64) for part in self._parts]
        image_ids, names = [], []
        for part in self._parts:
            ids = _listed(part.image_ids)
            image_ids += ids
            names += [str(part.names[i]) for i in ids] if part.is_whole_set else part.names
        empty = torch.zeros(0, len(self.class_names))
        return (
            torch.cat([empty, *outputs]).numpy(),
            np.concatenate([np.zeros(0, dtype=np.int64), *labels]),
            image_ids,
            names,
        )

    def _merge(self, ranks: list[tuple]) -> _TestSet:
        """Each image once, ordered by id; the same on all ranks' images in whatever order."""
        outputs, labels = (np.concatenate([rank[i] for rank in ranks]) for i in (0, 1))
        image_ids, names = ([x for rank in ranks for x in rank[i]] for i in (2, 3))
        # Of images that padding gave to several ranks, the first is kept.
        ids, first, group = np.unique(image_ids, return_index=True, return_inverse=True)
        differs = np.flatnonzero(labels != labels[first][group])
        if len(differs):
            raise UserError(
                f"{self.dataset_name}: image id {image_ids[differs[0]]} came with the labels "
                f"{labels[first][group][differs[0]]} and {labels[differs[0]]}; ids must be unique"
            )
        return _TestSet(
            ids,
            torch.from_numpy(outputs[first]),
            torch.from_numpy(labels[first]),
            [names[i] for i in first],
        )

    def _check(self, test_set: _TestSet) -> None:
        self._require_finite(test_set.outputs, test_set.names)
        is_known = (test_set.labels >= 0) & (test_set.labels < len(self.class_names))
        wrong = (~is_known).nonzero()[:, 0].tolist()
        if wrong:
            raise UserError(
                f"{self.dataset_name}: expected labels from 0 to {len(self.class_names) - 1}, got "
                f"{int(test_set.labels[wrong[0]])} for {test_set.names[wrong[0]]}: name all classes"
            )

    def _require_finite(self, outputs: Tensor, names: list[str]) -> None:
        wrong = (~outputs.isfinite().all(dim=1)).nonzero()[:, 0].tolist()
        if wrong:
            raise UserError(
                f"{self.dataset_name}: the outputs of {len(wrong)} of {len(names)} images are not "
                f"finite, first those of {names[wrong[0]]}: the training diverged (lower "
                "SOLVER.BASE_LR), or the weights are damaged"
            )

    def _class_figures(self, counts: Tensor) -> dict[str, float]:
        totals = counts.sum(dim=1)
        of_class = 100.0 * counts.diagonal().double() / totals  # 0 / 0 where it has no images
        keys = [f"acc-{name}" for name in self.class_names]
        mean = float(of_class[totals > 0].mean())
        return {"mean_class_acc": mean, **dict(zip(keys, of_class.tolist(), strict=True))}

    def _write_predictions(
        self, test_set: _TestSet, predictions: Tensor, probabilities: Tensor
    ) -> None:
        labels = test_set.labels.tolist()
        rows = [
            (i, name, self.class_names[y], self.class_names[p], f"{score:.6f}", int(y == p))
            for i, name, y, p, score in zip(
                test_set.image_ids.tolist(), test_set.names, labels, predictions.tolist(),
                probabilities.tolist(), strict=True,
            )
        ]  # fmt: skip
        write_rows(os.path.join(self.output_folder, "predictions.csv"), COLUMNS, rows)
        write_atomically(
            os.path.join(self.output_folder, "outputs.npz"),
            lambda file: np.savez(
                file, image_ids=test_set.image_ids, labels=test_set.labels.numpy(),
                outputs=test_set.outputs.numpy(),
            ),
        )  # fmt: skip

    def _write_confusion(self, counts: Tensor) -> None:
        content = json.dumps({"classes": self.class_names, "counts": counts.tolist()}) + "\n"
        path = os.path.join(self.output_folder, "confusion")
        write_atomically(f"{path}.json", lambda file: file.write(content.encode()))
        if not self.draws:
            return
        # Imported here: matplotlib takes a second that training does not need to wait for.
        from PIL import Image

        from ..visualization import draw_confusion

        picture = Image.fromarray(draw_confusion(counts.numpy(), self.class_names))
        write_atomically(f"{path}.png", lambda file: picture.save(file, format="png"))


def _listed(values: Tensor | list) -> list:
    return values.tolist() if isinstance(values, Tensor) else values
