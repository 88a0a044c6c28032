"""Batches of a classifier: a function of seed, rank and iteration, and augmentation by loops."""

from itertools import islice

import pytest
import torch

from anchorkit.data.image_batches import (
    TestImageBatches,
    TrainImageBatches,
    flip_images,
    shift_images,
)
from anchorkit.data.image_set import ImageSet

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
    options = {"shift": 2, "flip": True, "mixup": 0.4}
    whole = list(islice(train_batches(**options), skipped + 4))[skipped:]
    resumed = list(islice(train_batches(**options, num_skipped=skipped), 4))
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


@pytest.mark.parametrize("limit", [1, 3])
def test_shifted_images_are_those_of_a_loop(limit):
    images = image_set().images
    actual = shift_images(images, limit, torch.Generator().manual_seed(0))
    offsets = torch.randint(
        0, 2 * limit + 1, (2, N, 1), generator=torch.Generator().manual_seed(0)
    ).squeeze(2)
    assert actual.shape == images.shape and actual.dtype == torch.uint8
    for i in range(N):
        down, right = (int(offset) - limit for offset in offsets[:, i])
        for y in range(6):
            for x in range(6):
                inside = 0 <= y + down < 6 and 0 <= x + right < 6
                expected = images[i, :, y + down, x + right] if inside else torch.zeros(3)
                assert torch.equal(actual[i, :, y, x], expected.to(torch.uint8))
    assert len(offsets.T.unique(dim=0)) > 4, "each image is moved by itself"


def test_about_half_of_the_images_are_mirrored_each_as_a_whole():
    images = image_set(400).images
    actual = flip_images(images, torch.Generator().manual_seed(0))
    is_same = (actual == images).flatten(1).all(dim=1)
    is_flipped = (actual == images.flip(-1)).flatten(1).all(dim=1)
    assert (is_same | is_flipped).all()
    assert 150 < int(is_same.sum()) < 250


def test_mixed_images_and_labels_have_the_same_share():
    images = image_set()
    for batch in islice(train_batches(images, mixup=0.5), 6):
        own = torch.nn.functional.one_hot(images.labels[batch.indices], K).float()
        assert batch.labels.shape == own.shape
        torch.testing.assert_close(batch.labels.sum(dim=1), torch.ones(len(batch)))
        # One share for a batch: its own image has it, and the partner's has the rest.
        share = batch.labels[own.bool()].min()
        for i in range(len(batch)):
            rest = batch.images[i] - share * images.images[batch.indices[i]].float()
            candidates = (1 - share) * images.images[batch.indices].float()
            distance = (candidates - rest).abs().flatten(1).max(dim=1).values.min()
            assert distance < 1e-2


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
