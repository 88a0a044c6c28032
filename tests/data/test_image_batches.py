"""Batches of a classifier: a function of seed, rank and iteration."""

from dataclasses import replace
from itertools import islice

import pytest
import torch

from anchorkit.data.image_augmentation import ImageAugmentation
from anchorkit.data.image_batches import TestImageBatches, TrainImageBatches
from anchorkit.data.image_set import ImageSet
from anchorkit.errors import UserError

N, K = 23, 3


def image_set(number=N, size=6, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(
        1, 256, (number, channels, size, size), generator=generator, dtype=torch.uint8
    )
    labels = torch.arange(number) % K
    return ImageSet(images, labels, ("a", "b", "c"), [f"image {i}" for i in range(number)])


def train_batches(images=None, batch_size=4, **options):
    options = {"device": "cpu", "seed": 5} | options
    return TrainImageBatches(images or image_set(), batch_size, **options)


def indices(batches, number):
    return [batch.indices.tolist() for batch in islice(batches, number)]


def test_an_epoch_holds_every_image_once_and_its_last_batch_is_small():
    batches = train_batches()
    assert batches.batches_per_epoch == 6
    first = indices(batches, 12)
    assert [len(batch) for batch in first] == [4, 4, 4, 4, 4, 3] * 2
    for epoch in (first[:6], first[6:]):
        assert sorted(sum(epoch, [])) == list(range(N))
    assert first[:6] != first[6:], "each epoch has its own order"


def test_a_last_batch_that_is_not_full_can_be_left_out():
    batches = train_batches(drop_last=True)
    assert [len(batch) for batch in indices(batches, 11)] == [4] * 11
    assert len(set(sum(indices(batches, 5), []))) == 20


def test_a_batch_holds_the_images_labels_and_names_of_its_indices():
    images = image_set()
    for batch in islice(train_batches(images), 7):
        assert torch.equal(batch.images, images.images[batch.indices])
        assert torch.equal(batch.labels, images.labels[batch.indices])
        assert batch.images.dtype == torch.uint8 and len(batch) == len(batch.indices)
        assert batch.namer()() == [f"image {i}" for i in batch.indices.tolist()]


@pytest.mark.parametrize("skipped", [1, 5, 6, 7, 19])
def test_batches_after_a_resume_are_those_of_a_run_that_was_not_stopped(skipped):
    augmentation = ImageAugmentation(crop=0.4, num_ops=2, shift=2, flip=True, cutout=3, mixup=0.4)
    whole = list(islice(train_batches(augmentation=augmentation), skipped + 4))[skipped:]
    resumed = train_batches(augmentation=augmentation, num_skipped=skipped)
    resumed = list(islice(resumed, 4))
    for expected, actual in zip(whole, resumed, strict=True):
        assert torch.equal(expected.indices, actual.indices)
        assert torch.equal(expected.images, actual.images)
        assert torch.equal(expected.labels, actual.labels)


def test_another_seed_gives_another_order():
    assert indices(train_batches(), 6) == indices(train_batches(), 6)
    assert indices(train_batches(), 6) != indices(train_batches(seed=6), 6)


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_processes_share_an_epoch_without_overlap_and_with_as_many_batches(world_size):
    shares = [
        train_batches(rank=rank, world_size=world_size, batch_size=2) for rank in range(world_size)
    ]
    (number,) = {share.batches_per_epoch for share in shares}
    epochs = [sum(indices(share, number), []) for share in shares]
    seen = sum(epochs, [])
    assert len(set(seen)) == len(seen) == N // world_size * world_size


def test_each_batch_of_each_process_is_augmented_by_its_own_draw():
    images = image_set(8, size=12)
    images = replace(images, images=images.images[:1].expand(8, -1, -1, -1))

    def drawn(seed=5, rank=0):
        augmentation = ImageAugmentation(shift=4, cutout=5)
        options = {"seed": seed, "rank": rank, "world_size": 2, "augmentation": augmentation}
        # Two epochs of two batches.
        return [batch.images for batch in islice(train_batches(images, 2, **options), 4)]

    first, *others = drawn()
    assert torch.equal(first, drawn()[0])
    for other in [*others, *drawn(seed=6), *drawn(rank=1)]:
        assert not torch.equal(first, other)


def test_labels_that_are_not_known_are_refused_for_mixing_alone():
    images = image_set()
    labels = torch.zeros(N, K, dtype=torch.int8)
    known = replace(images, labels=labels)
    labels = labels.clone()
    labels[-1, 1] = -1
    unknown = replace(images, labels=labels)
    mixing = ImageAugmentation(mixup=0.2)
    assert next(iter(train_batches(known, augmentation=mixing))).labels.dtype == torch.float32
    assert next(iter(train_batches(unknown, augmentation=ImageAugmentation(flip=True))))
    with pytest.raises(UserError, match="INPUT.MIXUP is 0.2, .*not known .*DIFFICULT_TRAIN"):
        train_batches(unknown, augmentation=mixing)


@pytest.mark.parametrize("world_size", [1, 2, 5])
@pytest.mark.parametrize("number", [1, N])
def test_test_batches_hold_every_image_once_in_order(world_size, number):
    images = image_set(number)
    seen = []
    for rank in range(world_size):
        batches = TestImageBatches(images, 4, device="cpu", rank=rank, world_size=world_size)
        parts = list(batches)
        assert len(parts) == len(batches)
        for batch in parts:
            assert torch.equal(batch.images, images.images[batch.indices])
            seen += batch.indices.tolist()
    assert seen == list(range(number))
