"""SSD's augmentation (Liu et al., 2016, section 2.2), as detectron2 Augmentations.

Sizes are drawn from numpy's global generator, which the training loader seeds for each image.
"""

from collections.abc import Sequence
from functools import partial

import cv2
import numpy as np
from detectron2.data import transforms as T
from fvcore.transforms.transform import Transform

# Shares of the paper and ranges of its code.
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = 32.0, (0.5, 1.5), (0.5, 1.5), 18.0
_LARGEST_EXPANSION = 4.0
_CROP_SCALES, _CROP_RATIOS = (0.3, 1.0), (0.5, 2.0)
# None is the whole image, 0 any crop that holds the centre of a box.
_CROP_IOUS = (None, 0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
_CROP_TRIALS = 50


def ssd_augmentations(
    *, size: int, image_format: str, fill: Sequence[float], flip_probability: float = 0.5
) -> list[T.Augmentation]:
    """Distortion of colours, expansion, crop, flip and resize, in the paper's order.

    Args:
        size: side of the square that images become, pixels.
        image_format: "RGB" or "BGR".
        fill: colour around expanded images, in this format.
        flip_probability: of a horizontal flip.
    """
    flips = [T.RandomFlip(flip_probability)] if flip_probability > 0 else []
    return [
        PhotometricDistortion(image_format),
        RandomExpansion(fill),
        RandomIoUCrop(),
        *flips,
        T.Resize((size, size)),
    ]


class PhotometricDistortion(T.Augmentation):
    """Brightness, contrast, saturation, hue and the order of channels, each in half of all cases.

    Args:
        image_format: "RGB" or "BGR".
    """

    def __init__(self, image_format: str):
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        return T.ColorTransform(
            partial(
                distort_colors,
                brightness=self._maybe(-_BRIGHTNESS, _BRIGHTNESS, 0.0),
                contrast=self._maybe(*_CONTRAST, 1.0),
                contrast_last=np.random.rand() < 0.5,
                saturation=self._maybe(*_SATURATION, 1.0),
                hue=self._maybe(-_HUE, _HUE, 0.0),
                channels=np.random.permutation(3) if np.random.rand() < 0.5 else np.arange(3),
                image_format=self.image_format,
            )
        )

    def _maybe(self, low: float, high: float, otherwise: float) -> float:
        return self._rand_range(low, high) if np.random.rand() < 0.5 else otherwise


def distort_colors(
    image: np.ndarray,
    *,
    brightness: float = 0.0,
    contrast: float = 1.0,
    contrast_last: bool = False,
    saturation: float = 1.0,
    hue: float = 0.0,
    channels: Sequence[int] = (0, 1, 2),
    image_format: str = "RGB",
) -> np.ndarray:
    """Change the colours of an image.

    Args:
        image: (H, W, 3) uint8.
        brightness: added, of 255.
        contrast: factor; applied after the colours with ``contrast_last``, else before them.
        saturation: factor of the saturation in HSV.
        hue: added in HSV, degrees.
        channels: their order in the result.
        image_format: "RGB" or "BGR".

    Returns:
        (H, W, 3) uint8.
    """
    to_hsv, from_hsv = (
        getattr(cv2, name) for name in (f"COLOR_{image_format}2HSV", f"COLOR_HSV2{image_format}")
    )
    pixels = image.astype(np.float32) + np.float32(brightness)
    if not contrast_last:
        pixels *= np.float32(contrast)
    pixels = pixels.clip(0, 255)
    if saturation != 1 or hue:
        hsv = cv2.cvtColor(pixels, to_hsv)
        hsv[..., 0] = (hsv[..., 0] + np.float32(hue)) % 360
        hsv[..., 1] = np.minimum(hsv[..., 1] * np.float32(saturation), 1)
        pixels = cv2.cvtColor(hsv, from_hsv)
    if contrast_last:
        pixels *= np.float32(contrast)
    return (pixels[..., list(channels)] + 0.5).clip(0, 255).astype(np.uint8)


class RandomExpansion(T.Augmentation):
    """Put the image on a canvas of up to four times its sides, in half of all cases.

    Args:
        fill: colour of the canvas, in the format of the images.
        probability: of an expansion.
    """

    def __init__(self, fill: Sequence[float], probability: float = 0.5):
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        if np.random.rand() >= self.probability:
            return T.NoOpTransform()
        height, width = image.shape[:2]
        factor = self._rand_range(1.0, _LARGEST_EXPANSION)
        canvas_width, canvas_height = int(width * factor), int(height * factor)
        left = np.random.randint(canvas_width - width + 1)
        top = np.random.randint(canvas_height - height + 1)
        return ExpansionTransform(
            left, top, width, height, canvas_width, canvas_height, tuple(self.fill)
        )


class ExpansionTransform(Transform):
    """Put an image on a larger canvas.

    Args:
        left, top: place of the image on the canvas, pixels.
        width, height: of the image.
        canvas_width, canvas_height: of the canvas.
        fill: its colour.
    """

    def __init__(
        self,
        left: int,
        top: int,
        width: int,
        height: int,
        canvas_width: int,
        canvas_height: int,
        fill: Sequence[float],
    ):
        super().__init__()
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        canvas = np.empty((self.canvas_height, self.canvas_width, *img.shape[2:]), img.dtype)
        canvas[...] = np.asarray(self.fill, img.dtype)
        canvas[self.top : self.top + self.height, self.left : self.left + self.width] = img
        return canvas

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords + np.array([self.left, self.top], coords.dtype)

    def inverse(self) -> Transform:
        return T.CropTransform(
            self.left, self.top, self.width, self.height, self.canvas_width, self.canvas_height
        )


class RandomIoUCrop(T.Augmentation):
    """A crop that holds the centre of a box and overlaps such a box by a random minimum.

    The minimum IoU is one of 0, 0.1, 0.3, 0.5, 0.7, 0.9, or the image is left whole. Of these, the
    first in a random order for which a crop is found in 50 trials is taken. Which boxes remain is
    not decided here: see :func:`anchorkit.data.mapper.visible_boxes`.
    """

    def __init__(self):
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray, boxes: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        for option in np.random.permutation(len(_CROP_IOUS) if len(boxes) else 1):
            minimum = _CROP_IOUS[option]
            if minimum is None:
                break
            for _ in range(_CROP_TRIALS):
                crop = _draw_crop(height, width)
                if crop is not None and holds_a_box(crop, boxes, minimum):
                    left, top, right, bottom = crop
                    return T.CropTransform(left, top, right - left, bottom - top, width, height)
        return T.NoOpTransform()


def holds_a_box(crop: Sequence[float], boxes: np.ndarray, minimum_iou: float) -> bool:
    """Whether a crop holds the centre of some box (M, 4) and has this IoU with such a box."""
    crop = np.asarray(crop, dtype=np.float64)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = boxes[((centers > crop[:2]) & (centers < crop[2:])).all(axis=1)]
    size = np.minimum(inside[:, 2:], crop[2:]) - np.maximum(inside[:, :2], crop[:2])
    intersection = size.clip(min=0).prod(axis=1)
    union = (inside[:, 2:] - inside[:, :2]).prod(axis=1) + (crop[2:] - crop[:2]).prod()
    return bool((intersection >= minimum_iou * (union - intersection)).any())


def _draw_crop(height: int, width: int) -> tuple[int, int, int, int] | None:
    """A random rectangle in the image, or None if its ratio is out of range."""
    crop_width, crop_height = (
        max(1, int(side * np.random.uniform(*_CROP_SCALES))) for side in (width, height)
    )
    if not _CROP_RATIOS[0] <= crop_width / crop_height <= _CROP_RATIOS[1]:
        return None
    left = np.random.randint(width - crop_width + 1)
    top = np.random.randint(height - crop_height + 1)
    return left, top, left + crop_width, top + crop_height
