"""Data loaders whose stream of batches depends on the seed and the iteration alone."""

import logging
import os
import random
import sys
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList
from detectron2.data.build import filter_images_with_only_crowd_annotations
from detectron2.data.samplers import InferenceSampler, RepeatFactorTrainingSampler
from detectron2.utils import comm
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from ..config import check_choice
from ..errors import UserError
from .catalog import load_dataset
from .faults import summarize
from .image_batches import (
    TestImageBatches,
    TrainImageBatches,
    build_image_batches,
    build_test_image_batches,
)
from .image_files import read_fault
from .image_set import is_image_set
from .mapper import build_mapper

logger = logging.getLogger(__name__)

MAX_REPLACEMENTS = 100


def build_train_loader(cfg: CfgNode, start_iter: int = 0) -> DataLoader | TrainImageBatches:
    """Endless loader of training batches: detectron2's lists of dicts, or a classifier's tensors.

    The batches are a function of ``SEED``, rank, number of processes and iteration, whatever
    ``DATALOADER.NUM_WORKERS`` is: a resumed run sees what an uninterrupted one would have seen.
    With a negative ``SEED`` one seed is drawn for all processes.

    Args:
        cfg: the config; ``SOLVER.IMS_PER_BATCH`` counts the images of all processes.
        start_iter: iterations of ``SOLVER.ACCUMULATION_STEPS`` batches that are passed over
            without reading an image.

    Raises:
        UserError: a data set that cannot be loaded or has no image left, invalid boxes under
            ``DATASETS.STRICT``, an unknown sampler, or a batch that the processes cannot share.
    """
    if cfg.DATASETS.TRAIN and is_image_set(cfg.DATASETS.TRAIN[0]):
        return build_image_batches(cfg, start_iter)
    world_size = comm.get_world_size()
    batch_size, rest = divmod(cfg.SOLVER.IMS_PER_BATCH, world_size)
    if rest or batch_size < 1:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}; it must be a multiple of the "
            f"{world_size} processes that share a batch"
        )
    dicts = load_train_dicts(cfg)
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    is_wide = None
    if cfg.DATALOADER.ASPECT_RATIO_GROUPING:
        is_wide = np.array([record["width"] > record["height"] for record in dicts])
    batches = TrainBatches(
        _repeat_factors(cfg, dicts),
        batch_size,
        seed=seed,
        rank=comm.get_rank(),
        world_size=world_size,
        is_wide=is_wide,
        num_skipped=start_iter * cfg.SOLVER.ACCUMULATION_STEPS,
    )
    return image_loader(cfg, TrainImages(dicts, build_mapper(cfg, is_train=True), seed), batches)


def image_loader(cfg: CfgNode, images: "TrainImages", batches: Iterable) -> DataLoader:
    """Loader of lists of training images, for batches of (position, index)."""
    return _TrainLoader(
        images,
        batch_sampler=batches,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=_as_list,
        pin_memory=_pins_memory(cfg),
        worker_init_fn=_start_worker,
    )


def build_test_loader(
    cfg: CfgNode, dataset_name: str, mapper: Callable | None = None
) -> DataLoader | TestImageBatches:
    """Loader of all images of a data set in order, each process with its share.

    A broken image is named in the log and left out: an evaluator counts it as an image without
    detections.

    Args:
        cfg: the config.
        dataset_name: a registered set.
        mapper: of a detection set's records, in place of the one that resizes.

    Raises:
        UserError: the data set cannot be loaded.
    """
    if is_image_set(dataset_name):
        return build_test_image_batches(cfg, dataset_name)
    dicts, _ = load_dataset(dataset_name)
    return _NonEmptyBatches(
        TestImages(dicts, mapper or build_mapper(cfg, is_train=False)),
        batch_sampler=BatchSampler(
            InferenceSampler(len(dicts)), max(1, cfg.TEST.IMS_PER_BATCH), drop_last=False
        ),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=_without_broken,
        pin_memory=_pins_memory(cfg),
        worker_init_fn=_start_worker,
    )


class TrainBatches(Sampler):
    """Endless batches of (position in the stream, index of the image) for one process.

    Each epoch is a permutation drawn from (seed, epoch) and dealt out to the processes in turn.

    Args:
        repeat_factors: (D,) mean number of times an image comes in an epoch. The fraction is
            drawn anew in each epoch.
        batch_size: images in a batch of this process.
        seed: seed of the stream, the same in all processes.
        rank: this process's number.
        world_size: number of processes.
        is_wide: (D,) bool; if given, a batch holds either wide images or others.
        num_skipped: number of batches to pass over.
    """

    def __init__(
        self,
        repeat_factors: np.ndarray,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        is_wide: np.ndarray | None = None,
        num_skipped: int = 0,
    ) -> None:
        self.repeat_factors = repeat_factors
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.is_wide = np.zeros(len(repeat_factors), dtype=bool) if is_wide is None else is_wide
        self.num_skipped = num_skipped

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        buckets = {False: [], True: []}
        num_batches = 0
        for position, index in self._stream():
            bucket = buckets[bool(self.is_wide[index])]
            bucket.append((position, index))
            if len(bucket) == self.batch_size:
                num_batches += 1
                if num_batches > self.num_skipped:
                    yield bucket[:]
                bucket.clear()

    def _stream(self) -> Iterator[tuple[int, int]]:
        """(position, index) of this process's images; positions count over all processes."""
        start, epoch = 0, 0
        while True:
            rng = np.random.default_rng([self.seed, epoch])
            whole = np.floor(self.repeat_factors)
            extra = rng.random(len(whole)) < self.repeat_factors - whole
            indices = np.repeat(np.arange(len(whole)), (whole + extra).astype(np.int64))
            order = rng.permutation(indices).tolist()
            first = (self.rank - start) % self.world_size
            for offset in range(first, len(order), self.world_size):
                yield start + offset, order[offset]
            start, epoch = start + len(order), epoch + 1


class _Images(Dataset):
    """Images of a data set through a mapper; counts the files that cannot be read."""

    def __init__(self, dicts: list[dict], mapper) -> None:
        self.dicts = DatasetFromList(dicts)
        self.mapper = mapper
        # Shared with the worker processes: one flag an image.
        self._is_broken = torch.zeros(len(dicts), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.dicts)

    @property
    def num_broken(self) -> int:
        """Number of files met so far that could not be read."""
        return int(self._is_broken.sum())

    def _map(self, index: int, consequence: str) -> dict | None:
        """The mapped image, or None, with a warning the first time, if its file is broken."""
        if self._is_broken[index]:
            return None
        record = self.dicts[index]
        try:
            return self.mapper(record)
        except Exception:
            # Only a file that cannot be read by itself is passed over; other errors are raised.
            reason = read_fault(record, self.mapper.image_format)
            if reason is None:
                raise
        self._is_broken[index] = True
        logger.warning(
            "image %s (%s) is %s: %s (broken files so far: %d)",
            record.get("image_id"),
            record["file_name"],
            consequence,
            reason,
            self.num_broken,
        )
        return None


class TrainImages(_Images):
    """Training images by (position, index); broken ones are replaced.

    Augmentation draws from numpy's and Python's global generators, which are seeded here from
    (seed, position), so that worker processes and their number make no difference.
    """

    def __init__(self, dicts: list[dict], mapper, seed: int) -> None:
        super().__init__(dicts, mapper)
        self.seed = seed

    def __getitem__(self, key: tuple[int, int]) -> dict | UserError:
        position, index = key
        entropy = np.random.SeedSequence([self.seed, position])
        states = np.random.get_state(), random.getstate()
        try:
            np.random.seed(entropy.generate_state(4))
            random.seed(int(entropy.generate_state(5)[4]))
            sample = self._map(index, "skipped in training")
            replacements = np.random.default_rng(entropy)
            for _ in range(MAX_REPLACEMENTS):
                if sample is not None:
                    return sample
                sample = self._map(int(replacements.integers(len(self))), "skipped in training")
        finally:
            np.random.set_state(states[0])
            random.setstate(states[1])
        return UserError(
            f"{MAX_REPLACEMENTS} images in a row could not be read, the last ones named above; "
            "check the image folder of DATASETS.TRAIN"
        )


class TestImages(_Images):
    """Images by index; None for a broken one."""

    __test__ = False  # not a test class, whatever pytest makes of the name

    def __getitem__(self, index: int) -> dict | None:
        return self._map(index, "evaluated as an image without detections")


class _TrainLoader(DataLoader):
    """Raises a user's mistake that comes in place of a batch.

    Raised in a worker process it would come with that process's traceback.
    """

    def __iter__(self) -> Iterator[list[dict]]:
        for batch in super().__iter__():
            if isinstance(batch, UserError):
                raise batch
            yield batch


class _NonEmptyBatches(DataLoader):
    """Passes over batches of which nothing is left."""

    def __iter__(self) -> Iterator[list[dict]]:
        return (batch for batch in super().__iter__() if batch)


def load_train_dicts(cfg: CfgNode) -> list[dict]:
    """The images of ``DATASETS.TRAIN`` that are trained on, with usable boxes only."""
    dicts = []
    for name in cfg.DATASETS.TRAIN:
        loaded, faults = load_dataset(name)
        if faults and cfg.DATASETS.STRICT:
            raise UserError(f"{name}: {summarize(faults)}; DATASETS.STRICT allows none")
        if faults:
            logger.warning("%s: left out %s", name, summarize(faults))
        dicts.extend(loaded)
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        dicts = filter_images_with_only_crowd_annotations(dicts)
    if not dicts:
        raise UserError(
            f"DATASETS.TRAIN {tuple(cfg.DATASETS.TRAIN)} has no image with a usable box; "
            "DATALOADER.FILTER_EMPTY_ANNOTATIONS False keeps images without boxes"
        )
    return dicts


def _repeat_factors(cfg: CfgNode, dicts: list[dict]) -> np.ndarray:
    key, data = "DATALOADER.SAMPLER_TRAIN", cfg.DATALOADER
    names = ("TrainingSampler", "RepeatFactorTrainingSampler")
    if check_choice(key, data.SAMPLER_TRAIN, names) == "TrainingSampler":
        return np.ones(len(dicts))
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        dicts, data.REPEAT_THRESHOLD
    )
    return factors.numpy().astype(np.float64)


def _start_worker(worker: int) -> None:
    """A signal to the whole group reaches the main process alone, which needs its workers to stop
    in order. They end with it, even if it is killed."""
    os.setpgrp()
    # Errors reach the main process with the batch; what is left for the hook are connections that
    # break when the main process stops in the middle of a batch.
    sys.excepthook = lambda *_: None


def _pins_memory(cfg: CfgNode) -> bool:
    return cfg.MODEL.DEVICE.startswith("cuda") and torch.cuda.is_available()


def _as_list(batch: list[dict | UserError]) -> list[dict] | UserError:
    return next((one for one in batch if isinstance(one, UserError)), batch)


def _without_broken(batch: list[dict | None]) -> list[dict]:
    return [sample for sample in batch if sample is not None]
