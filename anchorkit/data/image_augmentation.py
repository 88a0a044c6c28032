"""Augmentation of a classifier's batches, on the device; all draws come from one generator."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor
from torchvision.transforms import v2

from ..config import check_choice
from ..errors import UserError


@dataclass(frozen=True, kw_only=True)
class ImageAugmentation:
    """What is done to a batch of images, in the order of the attributes; nothing by default.

    Attributes:
        crop: smallest share of the area of a part that is resized to the image's size; 0: none.
        num_ops: operations of RandAugment on each image.
        magnitude: their strength, from 0 to 30.
        shift: images are moved by up to so many pixels each way; what comes in is zero.
        flip: half of the images are mirrored.
        cutout: side in pixels of a square of zeros; 0: none.
        mixup: a of the Beta(a, a) distribution that a batch's share of mixing comes from; 0: none.
    """

    crop: float = 0.0
    num_ops: int = 0
    magnitude: int = 9
    shift: int = 0
    flip: bool = False
    cutout: int = 0
    mixup: float = 0.0

    def __call__(
        self, images: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Augmented images and their labels.

        Args:
            images: (B, C, H, W) uint8, C = 1 or 3 for RandAugment.
            labels: (B,) int64 classes, or (B, K) of 0 and 1.
            num_classes: K.
            generator: on the CPU.

        Returns:
            Images of the same shape and labels; mixed ones are float32, the labels (B, K).
        """
        if self.crop > 0:
            images = crop_images(images, self.crop, generator)
        if self.num_ops > 0:
            images = rand_augment(images, self.num_ops, self.magnitude, generator)
        if self.shift > 0:
            images = shift_images(images, self.shift, generator)
        if self.flip:
            images = flip_images(images, generator)
        if self.cutout > 0:
            images = cut_out(images, self.cutout, generator)
        if self.mixup > 0:
            if labels.dim() == 1:
                labels = F.one_hot(labels, num_classes)
            images, labels = mix(images, labels, self.mixup, generator)
        return images, labels


def build_augmentation(cfg: CfgNode) -> ImageAugmentation:
    """The augmentation of a classifier's training images that ``INPUT`` describes.

    Raises:
        UserError: a value that makes no sense.
    """
    keys = cfg.INPUT
    for key, value, largest in (
        ("RANDOM_RESIZED_CROP", keys.RANDOM_RESIZED_CROP, 1),
        ("RANDAUGMENT.NUM_OPS", keys.RANDAUGMENT.NUM_OPS, math.inf),
        ("RANDAUGMENT.MAGNITUDE", keys.RANDAUGMENT.MAGNITUDE, 30),
        ("SHIFT", keys.SHIFT, math.inf),
        ("CUTOUT", keys.CUTOUT, math.inf),
        ("MIXUP", keys.MIXUP, math.inf),
    ):
        if not 0 <= value <= largest:
            wanted = "at least 0" if largest == math.inf else f"from 0 to {largest}"
            raise UserError(f"INPUT.{key} is {value}; it must be {wanted}")
    flip = check_choice("INPUT.RANDOM_FLIP", keys.RANDOM_FLIP, ("horizontal", "none"))
    return ImageAugmentation(
        crop=keys.RANDOM_RESIZED_CROP,
        num_ops=keys.RANDAUGMENT.NUM_OPS,
        magnitude=keys.RANDAUGMENT.MAGNITUDE,
        shift=keys.SHIFT,
        flip=flip == "horizontal",
        cutout=keys.CUTOUT,
        mixup=keys.MIXUP,
    )


def crop_images(images: Tensor, smallest: float, generator: torch.Generator) -> Tensor:
    """Resize a random part of each image (B, C, H, W) to its size: torchvision's RandomResizedCrop.

    Args:
        images: (B, C, H, W).
        smallest: share of the area that a part has at least.
        generator: on the CPU.
    """
    crop = v2.RandomResizedCrop(images.shape[-2:], scale=(smallest, 1.0))
    # torchvision draws from torch's global generator of the CPU, which others need as it was.
    # torch.manual_seed would seed the GPUs' generators as well.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_seed(generator))
        return torch.stack([crop(image) for image in images])


def rand_augment(
    images: Tensor, num_ops: int, magnitude: int, generator: torch.Generator
) -> Tensor:
    """torchvision's RandAugment, each image by its own draws.

    Images that drew the same operation go through it together: image by image it takes about
    three times as long for 32 x 32 pixels.

    Args:
        images: (B, 1 or 3, H, W) uint8.
        num_ops: operations one after the other.
        magnitude: their strength, from 0 to 30.
        generator: on the CPU.
    """
    transform = v2.RandAugment(num_ops, magnitude)
    space = transform._AUGMENTATION_SPACE
    for _ in range(num_ops):
        drawn = torch.randint(len(space), (len(images),), generator=generator)
        is_negative = torch.rand(len(images), generator=generator) <= 0.5
        changed = torch.empty_like(images)
        for index, (name, (strengths, is_signed)) in enumerate(space.items()):
            values = strengths(transform.num_magnitude_bins, *images.shape[-2:])
            strength = 0.0 if values is None else float(values[magnitude])
            is_mirrored = is_negative & is_signed
            for sign, is_chosen in ((1, ~is_mirrored), (-1, is_mirrored)):
                rows = ((drawn == index) & is_chosen).nonzero()[:, 0].to(images.device)
                if len(rows) > 0:
                    changed[rows] = transform._apply_image_or_video_transform(
                        images[rows],
                        name,
                        sign * strength,
                        interpolation=transform.interpolation,
                        fill=transform._fill,
                    )
        images = changed
    return images


def shift_images(images: Tensor, limit: int, generator: torch.Generator) -> Tensor:
    """Move each image by its own whole numbers of pixels in [-limit, limit]; zeros come in.

    Args:
        images: (B, C, H, W).
        limit: pixels.
        generator: on the CPU.
    """
    number, _, height, width = images.shape
    offsets = torch.randint(0, 2 * limit + 1, (2, number, 1), generator=generator).to(images.device)
    padded = F.pad(images, (limit,) * 4)
    rows = offsets[0] + torch.arange(height, device=images.device)
    columns = offsets[1] + torch.arange(width, device=images.device)
    batch = torch.arange(number, device=images.device)
    moved = padded.permute(0, 2, 3, 1)[batch[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def flip_images(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image (B, C, H, W) with probability 1/2."""
    is_flipped = (torch.rand(len(images), generator=generator) < 0.5).to(images.device)
    return torch.where(is_flipped[:, None, None, None], images.flip(-1), images)


def cut_out(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Set a square of each image (B, C, H, W) to zero (DeVries and Taylor, 2017).

    Its centre is uniform over the image, so that a part of it may lie outside.
    """
    number, _, height, width = images.shape
    rows, columns = (
        _in_window(size, side, torch.randint(size, (number, 1), generator=generator))
        for size in (height, width)
    )
    is_cut = rows[:, :, None] & columns[:, None, :]
    return images.masked_fill(is_cut[:, None].to(images.device), 0)


def _in_window(size: int, side: int, centers: Tensor) -> Tensor:
    """(B, size) whether a place is one of the ``side`` around the centre (B, 1)."""
    places = torch.arange(size) - (centers - side // 2)
    return (places >= 0) & (places < side)


def mix(
    images: Tensor, labels: Tensor, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mix each image, and its label (B, K), with another of the batch (Zhang et al., 2018).

    One share from Beta(alpha, alpha) holds for the batch, as in the authors' code.
    """
    partner = torch.randperm(len(images), generator=generator).to(images.device)
    share = np.random.default_rng(_seed(generator)).beta(alpha, alpha)
    images, labels = images.float(), labels.float()
    return (
        torch.lerp(images[partner], images, share),
        torch.lerp(labels[partner], labels, share),
    )


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**62, (), generator=generator))
