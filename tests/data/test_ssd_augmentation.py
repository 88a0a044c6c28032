"""SSD's augmentation: what happens to pixels happens to boxes, and none leaves its image."""

import colorsys

import numpy as np
import pytest
from detectron2.data import transforms as T

from anchorkit.data import build_test_loader, build_train_loader
from anchorkit.data.mapper import build_mapper, visible_boxes
from anchorkit.data.ssd_augmentation import (
    PhotometricDistortion,
    RandomExpansion,
    RandomIoUCrop,
    distort_colors,
    holds_a_box,
    ssd_augmentations,
)
from anchorkit.errors import UserError
from tests.reference.boxes import iou

FILL = (10, 20, 30)


@pytest.fixture(autouse=True)
def seed():
    """The loader seeds numpy's generator for every image."""
    np.random.seed(0)


def picture(height=60, width=80):
    """Four rectangles of one colour each on black, and their boxes."""
    image = np.zeros((height, width, 3), np.uint8)
    boxes = np.array([[4, 6, 24, 30], [30, 5, 70, 15], [8, 40, 40, 56], [50, 20, 76, 54]], float)
    for index, (left, top, right, bottom) in enumerate(boxes.astype(int)):
        image[top:bottom, left:right] = 50 * (index + 1)
    return image, boxes


def augment(augmentations, image, boxes):
    augmented = T.AugInput(image, boxes=boxes.copy())
    T.AugmentationList(augmentations)(augmented)
    return augmented.image, augmented.boxes


# --- geometry ---


@pytest.mark.parametrize("fill", [FILL, (0.0, 0.0, 0.0)])
def test_boxes_go_where_their_pixels_go(fill):
    image, boxes = picture()
    kept = 0
    for _ in range(60):
        steps = [RandomExpansion(fill), RandomIoUCrop(), T.RandomFlip(0.5)]
        pixels, moved = augment(steps, image, boxes)
        moved, is_visible = visible_boxes(moved, *pixels.shape[:2])
        for index, (left, top, right, bottom) in zip(
            np.flatnonzero(is_visible), moved.round().astype(int), strict=True
        ):
            assert (pixels[top:bottom, left:right] == 50 * (index + 1)).all()
            assert (pixels == 50 * (index + 1)).all(axis=2).sum() == (right - left) * (bottom - top)
            kept += 1
    assert kept > 80


def test_the_whole_chain_gives_squares_and_boxes_inside_them():
    image, boxes = picture()
    steps = ssd_augmentations(size=48, image_format="RGB", fill=FILL)
    counts = set()
    for _ in range(60):
        pixels, moved = augment(steps, image, boxes)
        moved, is_visible = visible_boxes(moved, *pixels.shape[:2])
        assert pixels.shape == (48, 48, 3) and pixels.dtype == np.uint8
        assert is_visible.sum() == len(moved)
        assert (moved >= 0).all() and (moved <= 48).all()
        assert (moved[:, 2:] > moved[:, :2]).all()
        counts.add(len(moved))
    # A crop or the whole image always holds the centre of some box.
    assert 0 not in counts and len(counts) > 1


def test_boxes_with_their_centre_outside_are_dropped_and_others_cut():
    boxes = np.array([
        [-10, 5, 12, 9],  # centre (1, 7): cut on the left
        [-10, 5, 8, 9],  # centre (-1, 7)
        [90, 50, 130, 58],  # centre (110, 54) outside on the right
        [70, -8, 100, 12],  # cut above
        [70, -8, 100, 8],  # centre on the border
        [20, 20, 20, 30],  # no width
        [-200, -200, 300, 300],  # larger than the image
    ], float)  # fmt: skip
    kept, is_visible = visible_boxes(boxes, 60, 100)
    assert is_visible.tolist() == [True, False, False, True, False, False, True]
    assert kept.tolist() == [[0, 5, 12, 9], [70, 0, 100, 12], [0, 0, 100, 60]]


def test_a_crop_overlaps_a_box_whose_centre_it_holds_as_in_a_loop():
    generator = np.random.default_rng(0)
    answers = []
    for _ in range(300):
        corners = generator.uniform(0, 80, (5, 2, 2))
        crop, *boxes = np.concatenate([corners.min(1), corners.max(1) + 1], axis=1)
        minimum = generator.choice([0.0, 0.1, 0.3, 0.5])
        expected = False
        for box in boxes:
            x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            is_inside = crop[0] < x < crop[2] and crop[1] < y < crop[3]
            expected |= is_inside and iou(crop, box) >= minimum
        assert holds_a_box(crop, np.array(boxes), minimum) == expected
        answers.append(expected)
    assert 50 < sum(answers) < 250


def test_crops_have_sides_and_ratios_in_range():
    image, boxes = picture(200, 300)
    boxes *= 3.5
    sizes = set()
    for _ in range(100):
        transform = RandomIoUCrop().get_transform(image, boxes)
        if isinstance(transform, T.CropTransform):
            assert 0.29 * 300 <= transform.w <= 300 and 0.29 * 200 <= transform.h <= 200
            assert 0.5 <= transform.w / transform.h <= 2
            assert holds_a_box(
                (transform.x0, transform.y0, transform.x0 + transform.w,
                 transform.y0 + transform.h), boxes, 0.0,
            )  # fmt: skip
            sizes.add((transform.w, transform.h))
    assert len(sizes) > 30


def test_expansion_keeps_the_image_and_fills_the_rest():
    image, boxes = picture()
    steps = RandomExpansion(FILL, probability=1.0)
    transform = steps.get_transform(image)
    canvas = transform.apply_image(image)
    assert canvas.shape[0] <= 4 * 60 and canvas.shape[1] <= 4 * 80
    inside = np.zeros(canvas.shape[:2], bool)
    inside[transform.top : transform.top + 60, transform.left : transform.left + 80] = True
    assert (canvas[~inside] == FILL).all() and (~inside).any()
    assert np.array_equal(canvas[inside].reshape(image.shape), image)
    assert np.array_equal(transform.inverse().apply_image(canvas), image)
    assert np.array_equal(transform.inverse().apply_box(transform.apply_box(boxes)), boxes)
    never = RandomExpansion(FILL, probability=0.0).get_transform(image)
    assert isinstance(never, T.NoOpTransform)


def test_images_without_boxes_are_augmented():
    image, _ = picture()
    for _ in range(10):
        steps = ssd_augmentations(size=32, image_format="BGR", fill=FILL)
        pixels, boxes = augment(steps, image, np.zeros((0, 4)))
        assert pixels.shape == (32, 32, 3) and boxes.shape == (0, 4)


# --- colours ---


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
@pytest.mark.parametrize("contrast_last", [False, True])
def test_colours_change_as_in_a_loop(image_format, contrast_last):
    generator = np.random.default_rng(1)
    image = generator.integers(0, 256, (6, 7, 3), dtype=np.uint8)
    options = {"brightness": 20.0, "contrast": 1.2, "saturation": 0.7, "hue": -15.0}
    actual = distort_colors(
        image, **options, contrast_last=contrast_last, channels=(2, 0, 1),
        image_format=image_format,
    )  # fmt: skip
    for y in range(6):
        for x in range(7):
            pixel = [float(value) + 20.0 for value in image[y, x]]
            if not contrast_last:
                pixel = [1.2 * value for value in pixel]
            pixel = [min(max(value, 0.0), 255.0) for value in pixel]
            rgb = pixel if image_format == "RGB" else pixel[::-1]
            hue, saturation, value = colorsys.rgb_to_hsv(*rgb)
            rgb = colorsys.hsv_to_rgb((hue - 15 / 360) % 1, min(0.7 * saturation, 1), value)
            pixel = list(rgb if image_format == "RGB" else rgb[::-1])
            if contrast_last:
                pixel = [1.2 * value for value in pixel]
            expected = [min(pixel[channel], 255.0) for channel in (2, 0, 1)]
            assert actual[y, x].tolist() == pytest.approx(expected, abs=1.0)


def test_no_distortion_leaves_the_image_as_it_is():
    image = np.random.randint(0, 256, (5, 5, 3), dtype=np.uint8)
    assert np.array_equal(distort_colors(image), image)


def test_each_distortion_happens_in_about_half_of_all_cases():
    image = np.zeros((2, 2, 3), np.uint8)
    draws = [PhotometricDistortion("RGB").get_transform(image).op.keywords for _ in range(400)]
    for name, low, high, otherwise in (
        ("brightness", -32, 32, 0), ("contrast", 0.5, 1.5, 1), ("saturation", 0.5, 1.5, 1),
        ("hue", -18, 18, 0),
    ):  # fmt: skip
        values = [draw[name] for draw in draws]
        changed = [value for value in values if value != otherwise]
        assert 150 < len(changed) < 250
        assert low <= min(changed) < low + 0.1 * (high - low)
        assert high >= max(changed) > high - 0.1 * (high - low)
    assert 150 < sum(draw["contrast_last"] for draw in draws) < 250


# --- in the loader ---


def test_the_train_loader_gives_augmented_squares_and_their_classes(make_set):
    def add_crowd(content):
        content["annotations"].append(
            {"bbox": [1, 1, 20, 20], "area": 400, "iscrowd": 1, "id": 90, "image_id": 5,
             "category_id": 3}
        )  # fmt: skip

    cfg = make_set(6, add_crowd, **{"INPUT.AUGMENTATION": "ssd", "INPUT.FIXED_SIZE": 40}).cfg
    loader = iter(build_train_loader(cfg))
    shapes, counts = set(), set()
    for _ in range(12):
        for sample in next(loader):
            shapes.add(tuple(sample["image"].shape))
            instances = sample["instances"]
            counts.add(len(instances))
            assert instances.image_size == (40, 40) and "annotations" not in sample
            boxes = instances.gt_boxes.tensor
            assert (boxes >= 0).all() and (boxes <= 40).all()
            # Images with an even number hold a cat, the others a dog; crowds are left out.
            is_odd = (sample["image_id"] - 5) // 10 % 2
            assert (instances.gt_classes == is_odd).all()
    assert shapes == {(3, 40, 40)} and counts == {1}


def test_ssd_augmentation_does_not_depend_on_worker_processes(make_set):
    options = {"INPUT.AUGMENTATION": "ssd", "INPUT.FIXED_SIZE": 40}
    cfg = make_set(6, **options).cfg
    batches = []
    for workers in (0, 2):
        cfg.DATALOADER.NUM_WORKERS = workers
        loader = iter(build_train_loader(cfg))
        batches.append([sample["image"].tolist() for _ in range(4) for sample in next(loader)])
    assert batches[0] == batches[1]


def test_a_fixed_size_holds_in_training_and_testing(make_set):
    cfg = make_set(4, **{"INPUT.FIXED_SIZE": 50}).cfg
    for sample in next(iter(build_train_loader(cfg))):
        assert sample["image"].shape == (3, 50, 50)
    for sample in next(iter(build_test_loader(cfg, cfg.DATASETS.TEST[0]))):
        assert sample["image"].shape == (3, 50, 50)
        assert {sample["height"], sample["width"]} == {24, 32}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"INPUT.AUGMENTATION": "sdd"}, "INPUT.AUGMENTATION"),
        ({"INPUT.AUGMENTATION": "ssd"}, "set INPUT.FIXED_SIZE"),
        ({"INPUT.AUGMENTATION": "ssd", "INPUT.FIXED_SIZE": 40, "INPUT.FORMAT": "YUV-BT.601"},
         "INPUT.FORMAT"),
        ({"INPUT.AUGMENTATION": "ssd", "INPUT.FIXED_SIZE": 40, "INPUT.RANDOM_FLIP": "vertical"},
         "INPUT.RANDOM_FLIP"),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together_are_told(make_set, options, message):
    with pytest.raises(UserError, match=message):
        build_mapper(make_set(2, **options).cfg, is_train=True)
