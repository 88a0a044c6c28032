"""Augmentation of a classifier's batches, by loops and by what must hold for each image."""

import pytest
import torch
from torchvision.transforms import v2

from anchorkit.config import load_config
from anchorkit.data.image_augmentation import (
    ImageAugmentation,
    build_augmentation,
    crop_images,
    cut_out,
    flip_images,
    mix,
    rand_augment,
    shift_images,
)
from anchorkit.errors import UserError
from tests.reference.augmentation import shifted, with_hole


def random_images(number=23, size=6, channels=3):
    generator = torch.Generator().manual_seed(0)
    shape = (number, channels, size, size)
    return torch.randint(1, 256, shape, generator=generator, dtype=torch.uint8)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_nothing_is_done_by_default_and_without_operations():
    images, labels = random_images(), torch.arange(23) % 3
    for augmentation in (ImageAugmentation(), ImageAugmentation(num_ops=0, magnitude=30)):
        same, same_labels = augmentation(images, labels, 3, seeded())
        assert same is images and same_labels is labels
    assert torch.equal(rand_augment(images, 0, 9, seeded()), images)


EACH = [
    {"crop": 0.3},
    {"num_ops": 2},
    {"shift": 2},
    {"flip": True},
    {"cutout": 3},
    {"crop": 0.3, "num_ops": 1, "shift": 1, "flip": True, "cutout": 2},
]


@pytest.mark.parametrize("options", EACH, ids=lambda options: "+".join(options))
@pytest.mark.parametrize("channels", [1, 3])
def test_images_stay_bytes_of_their_shape_and_only_the_generator_draws(options, channels):
    images, labels = random_images(32, 12, channels), torch.arange(32) % 3
    before, state = images.clone(), torch.get_rng_state()
    augment = ImageAugmentation(**options)
    first, _ = augment(images, labels, 3, seeded())
    torch.rand(7)
    again, same_labels = augment(images, labels, 3, seeded())
    other, _ = augment(images, labels, 3, seeded(1))
    assert first.shape == images.shape and first.dtype == torch.uint8
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(images, before) and same_labels is labels
    torch.set_rng_state(state)
    expected = torch.rand(7)
    torch.set_rng_state(state)
    augment(images, labels, 3, seeded())
    assert torch.equal(torch.rand(7), expected), "others draw as if nothing had happened"


@pytest.mark.parametrize("options", EACH, ids=lambda options: "+".join(options))
def test_the_same_image_twice_in_a_batch_has_draws_of_its_own(options):
    images = random_images(1, 12).expand(64, -1, -1, -1)
    augmented, _ = ImageAugmentation(**options)(images, torch.zeros(64), 1, seeded())
    assert len(augmented.unique(dim=0)) >= (2 if options == {"flip": True} else 8)


@pytest.mark.parametrize("limit", [1, 3])
def test_shifted_images_are_those_of_a_loop(limit):
    images = random_images()
    actual = shift_images(images, limit, seeded())
    offsets = torch.randint(0, 2 * limit + 1, (2, 23, 1), generator=seeded())[..., 0] - limit
    for image, moved, (down, right) in zip(images, actual, offsets.T.tolist(), strict=True):
        assert torch.equal(moved, shifted(image, down, right))
    assert len(offsets.T.unique(dim=0)) > 4, "each image is moved by itself"


def test_about_half_of_the_images_are_mirrored_each_as_a_whole():
    images = random_images(400)
    actual = flip_images(images, seeded())
    is_same = (actual == images).flatten(1).all(dim=1)
    is_flipped = (actual == images.flip(-1)).flatten(1).all(dim=1)
    assert (is_same | is_flipped).all()
    assert 150 < int(is_same.sum()) < 250


@pytest.mark.parametrize("side", [1, 4, 5, 40])
def test_holes_are_those_of_a_loop_around_places_all_over_the_image(side):
    images = random_images(200, 8)
    actual = cut_out(images, side, seeded())
    generator = seeded()
    rows, columns = (torch.randint(8, (200, 1), generator=generator)[:, 0] for _ in range(2))
    centers = list(zip(rows.tolist(), columns.tolist(), strict=True))
    for image, cut, center in zip(images, actual, centers, strict=True):
        assert torch.equal(cut, with_hole(image, side, center))
    assert len(set(centers)) > 48 and {0, 7} <= set(rows.tolist()) & set(columns.tolist())
    # Random images have no zeros: those that are there were cut.
    areas = (actual[:, 0] == 0).flatten(1).sum(dim=1)
    assert int(areas.max()) == min(side, 8) ** 2
    assert int(areas.min()) == min(side - side // 2, 8) ** 2, "a quarter, at a corner"


def test_holes_may_hang_over_each_border():
    is_cut = cut_out(random_images(300, 8), 4, seeded())[:, 0] == 0
    for border in (is_cut[:, 0], is_cut[:, -1], is_cut[:, :, 0], is_cut[:, :, -1]):
        assert border.any()
    assert len(is_cut.flatten(1).sum(dim=1).unique()) > 3


def torchvisions_own(image, magnitude, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return v2.RandAugment(1, magnitude)(image)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("magnitude", [0, 9, 30])
def test_one_operation_on_one_image_is_torchvisions(channels, magnitude):
    image = random_images(1, 12, channels)
    for seed in range(60):
        expected = torchvisions_own(image[0], magnitude, seed)
        assert torch.equal(rand_augment(image, 1, magnitude, seeded(seed))[0], expected), seed


def test_every_image_of_a_batch_has_one_of_torchvisions_operations():
    images = random_images(40, 12)
    augmented = rand_augment(images, 1, 9, seeded())
    for image, actual in zip(images, augmented, strict=True):
        assert any(torch.equal(actual, torchvisions_own(image, 9, seed)) for seed in range(400))
    assert int((augmented == images).flatten(1).all(dim=1).sum()) < 20


def test_parts_have_the_share_and_ratio_of_torchvisions_and_keep_the_range():
    side, smallest = 64, 0.25
    ramp = torch.arange(side, dtype=torch.uint8) * 4
    image = torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side)])
    image = torch.cat([image, torch.full((1, side, side), 255, dtype=torch.uint8)])
    parts = crop_images(image.expand(150, -1, -1, -1), smallest, seeded())
    assert (parts[:, 2] == 255).all(), "nothing runs over a byte's end"
    across, down = parts[:, 0].int(), parts[:, 1].int()
    assert (across.diff(dim=2) >= 0).all() and (down.diff(dim=1) >= 0).all()
    # A pixel is 4 levels wide.
    widths = (across[:, 0, -1] - across[:, 0, 0]) / 4 + 1
    heights = (down[:, -1, 0] - down[:, 0, 0]) / 4 + 1
    shares, ratios = widths * heights / side**2, widths / heights
    assert smallest - 0.03 < float(shares.min()) < 0.4 and 0.8 < float(shares.max()) <= 1.0
    assert 0.75 - 0.05 < float(ratios.min()) < 0.9 and 1.1 < float(ratios.max()) < 4 / 3 + 0.07


def test_mixed_images_and_labels_have_the_same_share():
    images = random_images(8)
    labels = torch.eye(8)
    mixed, shares = mix(images, labels, 0.5, seeded())
    torch.testing.assert_close(mixed, torch.einsum("ij,jchw->ichw", shares, images.float()))
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(8))
    own = shares.diagonal()
    assert len(own[own < 1].unique()) == 1, "one share for a batch"
    assert not torch.equal(shares, mix(images, labels, 0.5, seeded(1))[1])


def test_single_and_several_labels_are_mixed_alike():
    images, labels = random_images(8), torch.arange(8) % 3
    augment = ImageAugmentation(mixup=0.5)
    several = torch.nn.functional.one_hot(labels, 3).to(torch.int8)
    of_single, of_several = (augment(images, one, 3, seeded()) for one in (labels, several))
    for first, second in zip(of_single, of_several, strict=True):
        assert torch.equal(first, second) and first.dtype == torch.float32


def test_parts_come_first_and_holes_before_the_mixing():
    images, labels = random_images(16, 12), torch.arange(16) % 3
    options = {"crop": 0.3, "num_ops": 1, "shift": 2, "flip": True, "cutout": 4}
    generator = seeded()
    expected = crop_images(images, 0.3, generator)
    expected = rand_augment(expected, 1, 9, generator)
    expected = flip_images(shift_images(expected, 2, generator), generator)
    expected = cut_out(expected, 4, generator)
    actual, _ = ImageAugmentation(**options)(images, labels, 3, seeded())
    assert torch.equal(actual, expected)
    mixed, _ = ImageAugmentation(**options, mixup=0.5)(images, labels, 3, seeded())
    one_hot = torch.nn.functional.one_hot(labels, 3)
    assert torch.equal(mixed, mix(expected, one_hot, 0.5, generator)[0])


def test_the_config_names_all_of_it():
    cfg = load_config("", ["INPUT.RANDOM_RESIZED_CROP", "0.4", "INPUT.RANDAUGMENT.NUM_OPS", "2",
                           "INPUT.RANDAUGMENT.MAGNITUDE", "7", "INPUT.SHIFT", "3", "INPUT.CUTOUT",
                           "16", "INPUT.MIXUP", "0.1"])  # fmt: skip
    expected = ImageAugmentation(
        crop=0.4, num_ops=2, magnitude=7, shift=3, flip=True, cutout=16, mixup=0.1
    )
    assert build_augmentation(cfg) == expected
    cfg = load_config("", ["INPUT.RANDOM_FLIP", "none"])
    assert build_augmentation(cfg) == ImageAugmentation()


@pytest.mark.parametrize(("key", "value", "message"), [
    ("RANDOM_RESIZED_CROP", "1.5", "from 0 to 1"),
    ("RANDAUGMENT.NUM_OPS", "-1", "at least 0"),
    ("RANDAUGMENT.MAGNITUDE", "31", "from 0 to 30"),
    ("CUTOUT", "-2", "at least 0"),
    ("MIXUP", "-0.1", "at least 0"),
    ("RANDOM_FLIP", "vertical", "must be one of 'horizontal', 'none'"),
])  # fmt: skip
def test_a_value_that_makes_no_sense_is_named(key, value, message):
    with pytest.raises(UserError, match=f"INPUT.{key} is .*{message}"):
        build_augmentation(load_config("", [f"INPUT.{key}", value]))
