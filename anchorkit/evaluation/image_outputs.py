"""What a classifier says about a test set, whatever the loader's order, batches and processes."""

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
from ..data.image_set import ImageBatch
from ..errors import UserError
from .pictures import show_picture, write_picture
from .predictions import distinct_names

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Part:
    """What one call brought: outputs (B, K) on the device, and of B images the rest."""

    outputs: Tensor
    labels: Tensor
    image_ids: Tensor | list
    names: Sequence[str]
    # The names are those of the whole set, to be looked up by image id.
    is_whole_set: bool


@dataclass(frozen=True)
class ImageOutputs:
    """All images of a test set once, ordered by id.

    Attributes:
        image_ids: (N,).
        outputs: (N, K) float32, raw.
        labels: (N,) int64 class indices; of a multi-label set (N, K) int8.
        names: N of them.
    """

    image_ids: np.ndarray
    outputs: Tensor
    labels: Tensor
    names: list[str]


class ImageOutputsEvaluator(DatasetEvaluator):
    """Collects outputs and labels; a subclass says what labels are and makes figures of all.

    Nothing is made of the outputs until those of all images are there, ordered by image id: the
    loader's order, its batches and the number of processes play no part.

    Args:
        dataset_name: for messages.
        output_folder: where files go; None writes nothing.
        class_names: of the K classes. Names that are not alone get the class index added.
        draws: whether a picture is drawn, which takes longer than a small test set.

    Attributes:
        task: what the figures are called in the results.
    """

    task = ""

    def __init__(
        self,
        dataset_name: str,
        output_folder: str | None,
        *,
        class_names: Sequence[str],
        draws: bool = True,
    ):
        self.dataset_name = dataset_name
        self.output_folder = output_folder
        self.class_names = distinct_names(class_names)
        self.draws = draws
        self.reset()

    def labels_of(self, inputs: ImageBatch | list[dict]) -> Tensor:
        """The labels of a batch, as in :class:`ImageOutputs`; of [] with a length of 0.

        Raises:
            UserError: they are not what this task needs.
        """
        raise NotImplementedError

    def figures(self, test_set: ImageOutputs) -> dict[str, float]:
        """The figures of at least one image, with finite outputs; also writes the files."""
        raise NotImplementedError

    def reset(self):
        self._parts: list[_Part] = []

    def process(self, inputs: ImageBatch | list[dict], outputs: Tensor | list[dict]) -> None:
        """Keep the outputs of a batch; nothing waits for the device.

        Args:
            inputs: a batch whose ``image_names`` are those of the whole set; or dicts with
                "image_id", "gt_classes" and, for messages and dumps, "file_name".
            outputs: (B, K) raw outputs; or dicts with "outputs", (K,).
        """
        labels = self.labels_of(inputs)
        if isinstance(inputs, ImageBatch):
            image_ids, names, is_whole_set = inputs.indices.clone(), inputs.image_names, True
        else:
            outputs = torch.stack([output["outputs"] for output in outputs])
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
        # Copied, since a model may write its next outputs where these are, a loader its labels.
        outputs = outputs.detach().to(torch.float32, copy=True)
        self._parts.append(_Part(outputs, labels.clone(), image_ids, names, is_whole_set))

    def evaluate(self) -> dict | None:
        """Figures in per cent on the main process, None elsewhere; all ranks must call it.

        Returns:
            ``{task: {...}}`` as :meth:`figures` makes them. No images: no figures.

        Raises:
            UserError: outputs are not finite, or labels do not fit the data set's classes.
        """
        ranks = comm.gather(self._of_this_rank(), dst=0)
        if not comm.is_main_process():
            return None
        test_set = self._merge(ranks)
        if len(test_set.labels) == 0:
            logger.warning("%s: no images were evaluated", self.dataset_name)
            return {self.task: {}}
        self._require_finite(test_set.outputs, test_set.names)
        return {self.task: self.figures(test_set)}

    def _of_this_rank(self) -> tuple[np.ndarray, np.ndarray, list, list[str]]:
        """Outputs (n, K), labels, n ids and n names, of the images in order of processing."""
        no_labels = self.labels_of([])
        outputs = [part.outputs.cpu() for part in self._parts]
        labels = [part.labels.to("cpu", no_labels.dtype) for part in self._parts]
        image_ids, names = [], []
        for part in self._parts:
            ids = part.image_ids.tolist() if isinstance(part.image_ids, Tensor) else part.image_ids
            image_ids += ids
            names += [str(part.names[i]) for i in ids] if part.is_whole_set else part.names
        empty = torch.zeros(0, len(self.class_names))
        return (
            torch.cat([empty, *outputs]).numpy(),
            torch.cat([no_labels, *labels]).numpy(),
            image_ids,
            names,
        )

    def _merge(self, ranks: list[tuple]) -> ImageOutputs:
        """Each image once, ordered by id; the same on all ranks' images in whatever order."""
        outputs, labels = (np.concatenate([rank[i] for rank in ranks]) for i in (0, 1))
        image_ids, names = ([x for rank in ranks for x in rank[i]] for i in (2, 3))
        # Of images that padding gave to several ranks, the first is kept.
        ids, first, group = np.unique(image_ids, return_index=True, return_inverse=True)
        kept = labels[first][group]
        differing = np.argwhere(labels != kept)
        if len(differing):
            place = tuple(differing[0])
            of_class = "".join(f" of class {self.class_names[index]!r}" for index in place[1:])
            raise UserError(
                f"{self.dataset_name}: image id {image_ids[place[0]]} came with the labels "
                f"{kept[place]} and {labels[place]}{of_class}; ids must be unique"
            )
        return ImageOutputs(
            ids,
            torch.from_numpy(outputs[first]),
            torch.from_numpy(labels[first]),
            [names[i] for i in first],
        )

    def _require_finite(self, outputs: Tensor, names: list[str]) -> None:
        wrong = (~outputs.isfinite().all(dim=1)).nonzero()[:, 0].tolist()
        if wrong:
            raise UserError(
                f"{self.dataset_name}: the outputs of {len(wrong)} of {len(names)} images are not "
                f"finite, first those of {names[wrong[0]]}: the training diverged (lower "
                "SOLVER.BASE_LR), or the weights are damaged"
            )

    def _path(self, name: str) -> str:
        """Of a file in the output folder, which is there from then on."""
        os.makedirs(self.output_folder, exist_ok=True)
        return os.path.join(self.output_folder, name)

    def _write_outputs(self, test_set: ImageOutputs) -> None:
        """``outputs.npz``: all that figures are made of."""
        write_atomically(
            self._path("outputs.npz"),
            lambda file: np.savez(
                file, image_ids=test_set.image_ids, labels=test_set.labels.numpy(),
                outputs=test_set.outputs.numpy(),
            ),
        )  # fmt: skip

    def _write_json(self, name: str, content: dict) -> None:
        text = json.dumps(content) + "\n"
        write_atomically(self._path(name), lambda file: file.write(text.encode()))

    def _write_picture(self, name: str, pixels: np.ndarray) -> None:
        write_picture(self._path(name), pixels)
        show_picture(f"{self.dataset_name}/{os.path.splitext(name)[0]}", pixels)
