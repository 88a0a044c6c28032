"""Batches of a classifier: images stay in one tensor on the device, no worker ever sees them."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import Tensor

from ..config import check_choice
from ..errors import UserError
from .image_augmentation import ImageAugmentation, build_augmentation
from .image_set import CELLS, DIFFICULT, RESIZES, ImageBatch, ImageSet, load_image_set


def build_image_batches(cfg: CfgNode, start_iter: int = 0) -> "TrainImageBatches":
    """Endless training batches of ``DATASETS.TRAIN``, a function of seed, rank and iteration."""
    world_size = comm.get_world_size()
    return TrainImageBatches(
        load_image_sets(cfg, cfg.DATASETS.TRAIN, train=True),
        cfg.SOLVER.IMS_PER_BATCH // world_size,
        device=cfg.MODEL.DEVICE,
        seed=cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed(),
        rank=comm.get_rank(),
        world_size=world_size,
        drop_last=cfg.DATALOADER.DROP_LAST,
        num_skipped=start_iter * cfg.SOLVER.ACCUMULATION_STEPS,
        augmentation=build_augmentation(cfg),
    )


def build_test_image_batches(cfg: CfgNode, dataset_name: str) -> "TestImageBatches":
    """All images of a set in order, each process with its share."""
    return TestImageBatches(
        load_image_sets(cfg, [dataset_name], train=False),
        max(1, cfg.TEST.IMS_PER_BATCH),
        device=cfg.MODEL.DEVICE,
        rank=comm.get_rank(),
        world_size=comm.get_world_size(),
    )


def iterations_per_epoch(cfg: CfgNode) -> int:
    """Optimizer steps in which a classifier sees all training images once, rounded up.

    Raises:
        UserError: the data cannot be loaded, or are fewer than a batch that must be full.
    """
    # Set by set: joining them would copy all images.
    number = sum(
        len(load_image_sets(cfg, [name], train=True).labels) for name in cfg.DATASETS.TRAIN
    )
    world_size = comm.get_world_size()
    batch_size = cfg.SOLVER.IMS_PER_BATCH // world_size
    share = number // world_size
    num_batches = _num_batches(share, batch_size, cfg.DATALOADER.DROP_LAST)
    if num_batches == 0:
        raise UserError(
            f"DATASETS.TRAIN {tuple(cfg.DATASETS.TRAIN)} has {number} images, too few "
            f"for a batch of SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH}"
        )
    return math.ceil(num_batches / cfg.SOLVER.ACCUMULATION_STEPS)


class TrainImageBatches:
    """Endless batches of one process; each epoch is a permutation drawn from (seed, epoch).

    Args:
        images: the set; its tensors are moved to the device once.
        batch_size: of this process.
        device: of the batches.
        seed: of the permutations and of the augmentation.
        rank, world_size: this process deals itself every ``world_size``-th image.
        drop_last: leave out the last batch of an epoch if it is not full.
        num_skipped: batches that are passed over.
        augmentation: of each batch, by a draw from (seed, rank, number of the batch).

    Raises:
        UserError: labels are to be mixed, but some are not known (-1).
    """

    def __init__(
        self,
        images: ImageSet,
        batch_size: int,
        *,
        device: str | torch.device,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        num_skipped: int = 0,
        augmentation: ImageAugmentation | None = None,
    ):
        self.augmentation = augmentation or ImageAugmentation()
        if self.augmentation.mixup > 0 and (images.labels < 0).any():
            raise UserError(
                f"INPUT.MIXUP is {self.augmentation.mixup}, but labels of DATASETS.TRAIN that are "
                "not known (-1) cannot be mixed; set 0, or DATASETS.MULTI_LABEL.DIFFICULT_TRAIN "
                "'positive' or 'negative'"
            )
        self.device = device
        self.images = images.to(device)
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.share = len(images.labels) // world_size
        self.batches_per_epoch = _num_batches(self.share, batch_size, drop_last)
        self.num_skipped = num_skipped

    def __iter__(self) -> Iterator[ImageBatch]:
        number = self.num_skipped
        while True:
            epoch, first = divmod(number, self.batches_per_epoch)
            order, images = self._order(epoch), self.images.of_epoch(epoch)
            for batch in range(first, self.batches_per_epoch):
                indices = order[batch * self.batch_size : (batch + 1) * self.batch_size]
                yield self._batch(images, indices, number)
                number += 1

    def _order(self, epoch: int) -> Tensor:
        """This process's images of an epoch, in order."""
        number = len(self.images.labels)
        order = torch.randperm(number, generator=_generator(self.seed, 0, epoch))
        return order[self.rank :: self.world_size][: self.share].to(self.device)

    def _batch(self, image_set: ImageSet, indices: Tensor, number: int) -> ImageBatch:
        images, labels = image_set.pixels(indices), image_set.labels[indices]
        generator = _generator(self.seed, 1, self.rank, number)
        images, labels = self.augmentation(images, labels, len(image_set.classes), generator)
        return ImageBatch(images, labels, indices, image_set.image_names)


class TestImageBatches:
    """All images in order; a process has a share of neighbours. Arguments as above."""

    __test__ = False  # not a test class, whatever pytest makes of the name

    def __init__(
        self,
        images: ImageSet,
        batch_size: int,
        *,
        device: str | torch.device,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.images = images
        self.batch_size = batch_size
        self.device = device
        number = len(images.labels)
        self.first, self.last = (number * part // world_size for part in (rank, rank + 1))

    def __len__(self) -> int:
        return -(-(self.last - self.first) // self.batch_size)

    def __iter__(self) -> Iterator[ImageBatch]:
        for first in range(self.first, self.last, self.batch_size):
            rows = slice(first, min(first + self.batch_size, self.last))
            yield ImageBatch(
                self.images.pixels(rows).to(self.device),
                self.images.labels[rows].to(self.device),
                torch.arange(rows.start, rows.stop, device=self.device),
                self.images.image_names,
            )


def _num_batches(num_images: int, batch_size: int, drop_last: bool) -> int:
    return num_images // batch_size if drop_last else -(-num_images // batch_size)


def _generator(*entropy: int) -> torch.Generator:
    seed = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(seed % 2**63)


def load_image_sets(cfg: CfgNode, names: Sequence[str], *, train: bool) -> ImageSet:
    """The images of all these sets, read as the config wants them in training or in testing."""
    keys = cfg.DATASETS.MULTI_LABEL
    difficult = "DIFFICULT_TRAIN" if train else "DIFFICULT_TEST"
    options = {
        "size": cfg.INPUT.FIXED_SIZE,
        "resize": check_choice("INPUT.RESIZE", cfg.INPUT.RESIZE, RESIZES),
        "difficult": check_choice(f"DATASETS.MULTI_LABEL.{difficult}", keys[difficult], DIFFICULT),
        "min_classes": keys.MIN_CLASSES_TRAIN if train else 0,
        "cells": check_choice("DATASETS.MULTI_LABEL.CELLS", keys.CELLS, CELLS),
        "fresh": keys.FRESH and train,
    }
    sets = [load_image_set(name, **options) for name in names]
    return sets[0] if len(sets) == 1 else _joined(sets)


def _joined(sets: Sequence[ImageSet]) -> ImageSet:
    return ImageSet(
        torch.cat([one.pixels(slice(None)) for one in sets]),
        torch.cat([one.labels for one in sets]),
        sets[0].classes,
        [name for one in sets for name in one.image_names],
    )
