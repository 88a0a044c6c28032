"""A trained model on images of one's own: files, arrays, or lists of them."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from detectron2.structures import Instances
from PIL import Image
from torch import nn

from . import model_zoo
from .checkpoint import Checkpointer
from .config import num_classes
from .data import register_datasets
from .data.image_files import describe_error, read_image
from .data.mapper import resize_augmentations
from .errors import UserError

ImageSource = str | os.PathLike | np.ndarray


class Predictor:
    """Predicts what an evaluation would: the same resizing, thresholds and suppression.

    Example:
        >>> predict = Predictor.from_zoo("semi_anchored_retinanet_digit_scenes")
        >>> instances = predict("datasets/digit_scenes/val/000000.png")

    Args:
        cfg: of the model.
        model: with its weights, in evaluation mode; None builds the config's and loads
            ``MODEL.WEIGHTS``, the averaged ones under ``SOLVER.EMA.ENABLED``.
        batch_size: images of a list that are predicted at once.

    Attributes:
        class_names: of the config's data set; numbers where that is not known.

    Raises:
        UserError: the config names no weights, or such that are missing, damaged or do not fit.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module | None = None, *, batch_size: int = 1):
        register_datasets(cfg)
        self.model = _load_model(cfg) if model is None else model
        self.batch_size = batch_size
        self.class_names = _class_names(cfg)
        # A classifier resizes by itself, and takes RGB, or grey for one channel.
        is_classifier = cfg.MODEL.META_ARCHITECTURE == "ImageClassifier"
        self._resize = T.AugmentationList([] if is_classifier else resize_augmentations(cfg))
        self.input_format = "RGB" if is_classifier else cfg.INPUT.FORMAT
        if len(cfg.MODEL.PIXEL_MEAN) == 1:
            self.input_format = "L"

    @classmethod
    def from_zoo(cls, name: str, *, device: str | None = None, batch_size: int = 1) -> "Predictor":
        """The predictor of a trained model of the zoo, see :func:`anchorkit.model_zoo.get`."""
        model = model_zoo.get(name, pretrained=True, device=device)
        return cls(model_zoo.get_config(name), model, batch_size=batch_size)

    def __call__(self, images: ImageSource | Sequence[ImageSource]):
        """Predict one image, or each of a list.

        Args:
            images: paths, or uint8 arrays (H, W, 3) in BGR order as cv2 reads them, or (H, W).

        Returns:
            For one image, or in a list for each: of a detector Instances with ``pred_boxes``
            (XYXY, pixels of the image as given), ``scores`` and ``pred_classes``; of a classifier
            ``{"outputs": (K,), "scores": (K,)}``. All tensors are on the CPU.

        Raises:
            UserError: a file that cannot be read, with its name; an array of another kind.
        """
        if isinstance(images, ImageSource):
            return self([images])[0]
        return [result for _, result in self.stream(images)]

    def stream(
        self, images: Iterable[ImageSource], on_fault: Callable[[UserError], None] | None = None
    ) -> Iterator[tuple[ImageSource, Instances | dict]]:
        """Each image and its prediction, as soon as its batch is done; ``images`` may be endless.

        Args:
            on_fault: is told of an image that cannot be read, which is then left out; None: the
                error is raised.
        """
        samples = self._samples(images, on_fault)
        while batch := list(islice(samples, self.batch_size)):
            with torch.inference_mode():
                outputs = self.model([sample for _, sample in batch])
            for (source, _), output in zip(batch, outputs, strict=True):
                yield source, _on_cpu(output)

    def _samples(self, images, on_fault) -> Iterator[tuple[ImageSource, dict]]:
        for source in images:
            try:
                image = self._read(source)
            except UserError as error:
                if on_fault is None:
                    raise
                on_fault(error)
                continue
            height, width = image.shape[:2]
            augmented = T.AugInput(image)
            self._resize(augmented)
            pixels = augmented.image.transpose(2, 0, 1).copy()
            yield source, {"image": torch.as_tensor(pixels), "height": height, "width": width}

    def _read(self, source: ImageSource) -> np.ndarray:
        """(H, W, C) uint8 in the model's format."""
        if not isinstance(source, np.ndarray):
            path = os.fspath(source)
            try:
                return read_image(path, self.input_format)
            except Exception as error:
                raise UserError(f"image {path}: {describe_error(error, path)}") from error
        if source.dtype != np.uint8 or source.shape[2:] not in ((), (3,)) or source.ndim < 2:
            raise UserError(
                "an image array must be uint8 of shape (H, W, 3), BGR, or (H, W); got "
                f"{source.dtype} of shape {source.shape}"
            )
        rgb = source if source.ndim == 2 else np.ascontiguousarray(source[..., ::-1])
        return utils.convert_PIL_to_numpy(Image.fromarray(rgb), self.input_format)


def confident(instances: Instances, thresholds: float | Sequence[float]) -> Instances:
    """The detections whose score is at least the threshold, one for all classes or one for each."""
    of_class = torch.as_tensor(thresholds, dtype=torch.float32)
    if of_class.dim() == 1:
        of_class = of_class[instances.pred_classes]
    return instances[instances.scores >= of_class]


def _on_cpu(output: dict) -> Instances | dict:
    if "instances" in output:
        return output["instances"].to("cpu")
    return {name: value.cpu() for name, value in output.items()}


def _load_model(cfg: CfgNode) -> nn.Module:
    if not cfg.MODEL.WEIGHTS:
        raise UserError("MODEL.WEIGHTS is empty; name the checkpoint to predict with")
    cfg = cfg.clone()
    cfg.defrost()
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg).eval()
    Checkpointer(model, cfg.OUTPUT_DIR).load_weights(
        cfg.MODEL.WEIGHTS, use_average=cfg.SOLVER.EMA.ENABLED
    )
    return model


def _class_names(cfg: CfgNode) -> list[str]:
    number = num_classes(cfg)
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        names = MetadataCatalog.get(name).get("thing_classes", ())
        if len(names) == number:
            return list(names)
    return [str(index) for index in range(number)]
