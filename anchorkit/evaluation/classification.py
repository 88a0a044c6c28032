"""Accuracy of an image classifier."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..classification import ClassificationMethod
from ..data.image_set import ImageBatch
from ..errors import UserError
from .accuracy import accuracies, confusion_counts, highest_class
from .image_outputs import ImageOutputs, ImageOutputsEvaluator
from .predictions import COLUMNS, write_rows


class ClassificationEvaluator(ImageOutputsEvaluator):
    """Top-1 and top-5 accuracy, that of each class, and the files to look into them with.

    A method may decode an image with others of the test set beside it, so it is given all of them,
    ordered by image id. The labels of a batch are class indices; "gt_classes" holds one class.

    Args:
        dataset_name: for messages.
        method: says how raw outputs rank the classes.
        output_folder: where ``predictions.csv``, ``confusion.json``, ``confusion.png`` and
            ``outputs.npz`` go; None writes nothing.
        class_names: of the K classes. Names that are not alone get the class index added.
        draws: whether the picture is drawn, which takes longer than a small test set.
    """

    task = "classification"

    def __init__(
        self,
        dataset_name: str,
        method: ClassificationMethod,
        output_folder: str | None,
        *,
        class_names: Sequence[str],
        draws: bool = True,
    ):
        super().__init__(dataset_name, output_folder, class_names=class_names, draws=draws)
        self.method = method

    def labels_of(self, inputs: ImageBatch | list[dict]) -> Tensor:
        if not isinstance(inputs, ImageBatch):
            return torch.tensor([self._only_class(image) for image in inputs], dtype=torch.int64)
        if inputs.labels.ndim != 1:
            raise UserError(
                f"{self.dataset_name}: an evaluation expects (B,) class indices, got labels of "
                f"shape {tuple(inputs.labels.shape)}; switch mixing of images off in testing"
            )
        return inputs.labels

    def figures(self, test_set: ImageOutputs) -> dict[str, float]:
        """See the base class.

        Returns:
            ``acc1``; ``acc5`` where K > 5; ``acc1_<protocol>`` for each further way to decode, with
            ``_min`` and ``_max`` where it depends on a permutation of the images;
            ``mean_class_acc`` over the classes that have images; and ``acc-<class>``, not a number
            for a class without images. A further decoding that is not a number somewhere has no
            accuracy.
        """
        self._check_labels(test_set)
        # A method's buffers may lie on another device than what was gathered.
        place = next(iter([*self.method.parameters(), *self.method.buffers()]), test_set.outputs)
        outputs = test_set.outputs.to(place.device)
        with torch.no_grad():
            decodings = {k: v.cpu() for k, v in self.method.decodings(outputs).items()}
            scores = self.method.scores(outputs).cpu()
        self._require_finite(decodings[""], test_set.names)
        predictions = highest_class(decodings[""])
        counts = confusion_counts(test_set.labels, predictions, len(self.class_names))
        if self.output_folder is not None:
            probabilities = scores.gather(1, predictions[:, None])[:, 0]
            self._write_predictions(test_set, predictions, probabilities)
            self._write_outputs(test_set)
            self._write_confusion(counts)
        return {**accuracies(decodings, test_set.labels), **self._class_figures(counts)}

    def _only_class(self, image: dict) -> int:
        classes = image.get("gt_classes", ())
        if len(classes) != 1:
            raise UserError(
                f"{self.dataset_name}, image {image['image_id']}: expected one class in "
                f"'gt_classes', got {len(classes)}; classification needs one class an image"
            )
        return int(classes[0])

    def _check_labels(self, test_set: ImageOutputs) -> None:
        is_known = (test_set.labels >= 0) & (test_set.labels < len(self.class_names))
        wrong = (~is_known).nonzero()[:, 0].tolist()
        if wrong:
            raise UserError(
                f"{self.dataset_name}: expected labels from 0 to {len(self.class_names) - 1}, got "
                f"{int(test_set.labels[wrong[0]])} for {test_set.names[wrong[0]]}: name all classes"
            )

    def _class_figures(self, counts: Tensor) -> dict[str, float]:
        totals = counts.sum(dim=1)
        of_class = 100.0 * counts.diagonal().double() / totals  # 0 / 0 where it has no images
        keys = [f"acc-{name}" for name in self.class_names]
        mean = float(of_class[totals > 0].mean())
        return {"mean_class_acc": mean, **dict(zip(keys, of_class.tolist(), strict=True))}

    def _write_predictions(
        self, test_set: ImageOutputs, predictions: Tensor, probabilities: Tensor
    ) -> None:
        labels = test_set.labels.tolist()
        rows = [
            (i, name, self.class_names[y], self.class_names[p], f"{score:.6f}", int(y == p))
            for i, name, y, p, score in zip(
                test_set.image_ids.tolist(), test_set.names, labels, predictions.tolist(),
                probabilities.tolist(), strict=True,
            )
        ]  # fmt: skip
        write_rows(self._path("predictions.csv"), COLUMNS, rows)

    def _write_confusion(self, counts: Tensor) -> None:
        content = {"classes": self.class_names, "counts": counts.tolist()}
        self._write_json("confusion.json", content)
        if self.draws:
            # Imported here: matplotlib takes a second that training does not need to wait for.
            from ..visualization import draw_confusion

            picture = draw_confusion(counts.numpy(), self.class_names)
            self._write_picture("confusion.png", picture)
