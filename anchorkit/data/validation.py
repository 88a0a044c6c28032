"""A test set as training batches: with ground truth, without augmentation, once."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
from detectron2.config import CfgNode
from detectron2.utils import comm

from ..errors import UserError
from .catalog import load_dataset
from .image_batches import TrainImageBatches, load_image_sets
from .image_set import ImageBatch, is_image_set
from .loader import TrainImages, image_loader
from .mapper import BoxMapper, resize_augmentations


def build_validation_batches(cfg: CfgNode, dataset_name: str) -> Iterator[list[dict] | ImageBatch]:
    """All images of a set in batches of training's size, always in the same mixed order.

    Each process has as many of them as the others: of what is left over, none.

    Raises:
        UserError: the set cannot be loaded, has no annotations, or fewer images than processes.
    """
    world_size, rank = comm.get_world_size(), comm.get_rank()
    batch_size = max(1, cfg.SOLVER.IMS_PER_BATCH // world_size)
    if is_image_set(dataset_name):
        images = load_image_sets(cfg, [dataset_name], train=False)
        _share(dataset_name, len(images.labels), world_size)
        batches = TrainImageBatches(
            images, batch_size, device=cfg.MODEL.DEVICE, seed=0, rank=rank, world_size=world_size
        )
        return islice(batches, batches.batches_per_epoch)
    dicts, _ = load_dataset(dataset_name)
    if not any(record.get("annotations") for record in dicts):
        raise UserError(
            f"TEST.VALIDATION_LOSS: {dataset_name} has no boxes to compute losses with; set False, "
            "or name another set in DATASETS.TEST"
        )
    share = _share(dataset_name, len(dicts), world_size)
    order = np.random.default_rng(0).permutation(len(dicts))[rank::world_size][:share]
    keys = list(enumerate(order.tolist()))
    images = TrainImages(dicts, BoxMapper(resize_augmentations(cfg), cfg.INPUT.FORMAT), seed=0)
    batches = [keys[first : first + batch_size] for first in range(0, share, batch_size)]
    return iter(image_loader(cfg, images, batches))


def _share(dataset_name: str, number: int, world_size: int) -> int:
    if number < world_size:
        raise UserError(
            f"TEST.VALIDATION_LOSS: {dataset_name} has {number} images, fewer than the "
            f"{world_size} processes; use fewer, or set it False"
        )
    return number // world_size
