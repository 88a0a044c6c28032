"""Composed multi-label images: what is in them, where, and that they are always the same."""

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from anchorkit.data import ImageGrids, ImageSet, is_multi_label, load_image_set
from anchorkit.data.image_batches import TestImageBatches, TrainImageBatches

N, K, SIDE = 60, 10, 4


def small_images(number=N, channels=1, num_classes=K):
    generator = torch.Generator().manual_seed(5)
    shape = (number, channels, SIDE, SIDE)
    images = torch.randint(1, 256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, num_classes, (number,), generator=generator)
    names = tuple(f"small {index}" for index in range(number))
    return ImageSet(images, labels, tuple("abcdefghij"[:num_classes]), names)


@pytest.mark.parametrize("cells", ["random", "fixed"])
@pytest.mark.parametrize("num_parts", [1, 2, 5, 9])
@pytest.mark.parametrize("channels", [1, 3])
def test_composed_images_are_those_of_a_loop(num_parts, cells, channels):
    small = small_images(channels=channels)
    grids = ImageGrids.compose(small, num_parts, cells=cells)
    images = grids.pixels(slice(None))
    assert images.shape == (N, channels, 3 * SIDE, 3 * SIDE) and images.dtype == torch.uint8
    for index in range(N):
        expected = torch.zeros_like(images[index])
        parts, places = grids.parts[index].tolist(), grids.cells[index].tolist()
        for part, place in zip(parts, places, strict=True):
            row, column = divmod(place, 3)
            expected[:, row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE] = (
                small.images[part]
            )
        assert torch.equal(images[index], expected)
        classes = small.labels[parts].tolist()
        assert parts[0] == index, "each image is the first part of one composed image"
        assert len(set(classes)) == len(set(places)) == num_parts
        assert grids.labels[index].tolist() == [int(k in classes) for k in range(K)]
    assert torch.equal(grids.pixels(torch.tensor([7, 3])), images[[7, 3]])


def test_fixed_cells_are_the_first_ones_and_the_middle_for_a_single_image():
    grids = ImageGrids.compose(small_images(), 3, cells="fixed")
    assert grids.cells.unique(dim=0).tolist() == [[0, 1, 2]]
    assert ImageGrids.compose(small_images(), 1, cells="fixed").cells.unique().tolist() == [4]


def test_composed_images_are_the_same_each_time_and_others_in_each_epoch_if_they_are_to_be():
    small = small_images()
    first, again = (ImageGrids.compose(small, 5) for _ in range(2))
    assert torch.equal(first.parts, again.parts) and torch.equal(first.cells, again.cells)
    assert first.of_epoch(3) is first
    fresh = ImageGrids.compose(small, 5, is_fresh=True)
    assert torch.equal(fresh.of_epoch(0).parts, first.parts)
    later = fresh.of_epoch(3)
    assert not torch.equal(later.parts, first.parts)
    assert not torch.equal(later.labels, first.labels)
    assert torch.equal(later.parts, fresh.of_epoch(3).parts)


def test_all_classes_and_all_images_of_a_class_have_the_same_chance():
    small = small_images(4000)
    parts = ImageGrids.compose(small, 3).parts[:, 1:]
    shares = torch.bincount(small.labels[parts].flatten(), minlength=K) / parts.numel()
    assert (shares - 1 / K).abs().max() < 0.02
    uses = torch.bincount(parts.flatten(), minlength=4000)
    assert uses.max() < 12 and uses.float().mean() == 2


def test_a_class_without_images_is_in_no_composed_image():
    small = small_images()
    without = ImageSet(small.images, small.labels.clamp(max=7), small.classes, small.image_names)
    labels = ImageGrids.compose(without, 5).labels
    assert labels.sum(dim=1).tolist() == [5] * N and labels[:, 8:].sum() == 0


def test_batches_are_composed_with_their_labels():
    grids = ImageGrids.compose(small_images(), 5, is_fresh=True)
    batches = iter(TrainImageBatches(grids, 16, device="cpu", seed=1))
    number = 0
    for epoch in range(2):
        drawn = grids.of_epoch(epoch)
        seen = []
        while sum(map(len, seen)) < N:
            batch = next(batches)
            assert torch.equal(batch.images, drawn.pixels(batch.indices))
            assert torch.equal(batch.labels, drawn.labels[batch.indices])
            seen.append(batch.indices)
            number += 1
        assert torch.cat(seen).sort().values.tolist() == list(range(N))
    resumed = next(iter(TrainImageBatches(grids, 16, device="cpu", seed=1, num_skipped=number - 1)))
    assert torch.equal(resumed.images, batch.images)


def test_registered_sets_are_composed_of_digits():
    assert is_multi_label("ml_digits_5_train") and not is_multi_label("digits_train")
    train, test = load_image_set("ml_digits_5_train"), load_image_set("ml_digits_1_test")
    assert MetadataCatalog.get("ml_digits_5_train").thing_classes == list("0123456789")
    assert (len(train.labels), len(test.labels)) == (1437, 360)
    (batch,) = TestImageBatches(test, 360, device="cpu")
    assert batch.images.shape == (360, 1, 24, 24)
    assert batch.labels.sum(dim=1).unique().tolist() == [1]
    assert batch.labels.argmax(dim=1).tolist() == load_image_set("digits_test").labels.tolist()
    first = DatasetCatalog.get("ml_digits_5_train")[0]
    assert first["gt_classes"] == train.labels[0].nonzero()[:, 0].tolist()


def test_fit_and_val_are_parts_of_the_training_set():
    small = load_image_set("digits_train")
    fit, val = load_image_set("ml_digits_1_fit"), load_image_set("ml_digits_1_val")
    assert (len(fit.labels), len(val.labels)) == (1150, 287)
    joined = torch.cat([fit.labels, val.labels]).argmax(dim=1)
    assert torch.equal(joined, small.labels)
    assert val.image_names[0] == "train 1150"
