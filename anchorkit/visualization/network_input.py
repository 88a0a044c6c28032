"""What a network is fed, as images with boxes or class names."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from tabulate import tabulate
from torch import Tensor

from ..data import ImageBatch
from .canvas import class_color, class_name
from .detections import ground_truth
from .image_grid import LabelledBox


@dataclass(frozen=True)
class NetworkInput:
    """One image as it leaves the loader.

    Attributes:
        pixels: (H, W, C) from 0 to 255, in the channels of the config; whole numbers or, of mixed
            images, any.
        caption: what it is.
        boxes: of its objects.
    """

    pixels: np.ndarray
    caption: str
    boxes: list[LabelledBox] = field(default_factory=list)


def network_inputs(
    batch: list[dict] | ImageBatch, names: Sequence[str], records: dict | None = None
) -> list[NetworkInput]:
    """The images of a batch of a training or test loader.

    Args:
        batch: of a detector or of a classifier.
        names: of the classes.
        records: images of the data set by id, whose objects are shown where samples have none
            themselves, as in testing; they are only resized then.
    """
    if isinstance(batch, ImageBatch):
        shown = zip(batch.images, batch.labels, batch.namer()(), strict=True)
        return [
            NetworkInput(_pixels(image), f"{label_text(label, names)} ({_base(name)})")
            for image, label, name in shown
        ]
    return [_of_detector(sample, names, records or {}) for sample in batch]


def label_text(label: Tensor, names: Sequence[str]) -> str:
    """A classifier's label: a class index (), or (K,) of 1, 0 and -1 (not known) or of shares."""
    if label.dim() == 0:
        return class_name(names, int(label))
    if label.is_floating_point():
        shares = ((class_name(names, i), label[i]) for i in label.argsort(descending=True).tolist())
        return ", ".join(f"{name} {share:.2f}" for name, share in shares if share > 0) or "no class"
    there, not_known = (
        ", ".join(class_name(names, i) for i in (label == value).nonzero()[:, 0].tolist())
        for value in (1, -1)
    )
    return (there or "no class") + (f"; not known: {not_known}" if not_known else "")


def normalization_table(
    inputs: Sequence[NetworkInput], image_format: str, mean: Sequence[float], std: Sequence[float]
) -> str:
    """How the pixels are distributed once the model has normalised them, channel by channel.

    Args:
        inputs: images whose values are counted.
        image_format: begins with a letter for each channel, unless the images are grey.
        mean, std: subtracted, and divided by.
    """
    values = np.concatenate([one.pixels.reshape(-1, one.pixels.shape[2]) for one in inputs])
    values = (values - np.asarray(mean)) / np.asarray(std)
    mean, std = (np.broadcast_to(of, values.shape[1]) for of in (mean, std))
    letters = image_format.partition("-")[0]
    channels = letters if len(letters) == len(mean) else ["grey"] * len(mean)
    rows = [
        [name, *map("{:.4g}".format, (m, s, of.mean(), of.std(), of.min(), of.max()))]
        for name, m, s, of in zip(channels, mean, std, values.T, strict=True)
    ]
    return tabulate(rows, ["channel", "PIXEL_MEAN", "PIXEL_STD", "mean", "std", "min", "max"])


def _of_detector(sample: dict, names: Sequence[str], records: dict) -> NetworkInput:
    pixels = _pixels(sample["image"])
    if "instances" in sample:
        boxes = sample["instances"].gt_boxes.tensor.tolist()
        classes = sample["instances"].gt_classes.tolist()
    else:
        record = records.get(sample["image_id"], {})
        truth = ground_truth({"annotations": [], **record})
        scale = np.array([pixels.shape[1] / sample["width"], pixels.shape[0] / sample["height"]])
        boxes, classes = (truth.boxes * np.tile(scale, 2)).tolist(), truth.classes.tolist()
    objects = "1 object" if len(boxes) == 1 else f"{len(boxes)} objects"
    return NetworkInput(
        pixels,
        f"{_base(sample['file_name'])}, {pixels.shape[1]} × {pixels.shape[0]} px, {objects}",
        [
            (box, class_name(names, index), class_color(index))
            for box, index in zip(boxes, classes, strict=True)
        ],
    )


def _pixels(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).cpu().numpy()


def _base(path: str) -> str:
    return os.path.basename(path)
