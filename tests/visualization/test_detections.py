"""Pictures of detections: what they show, and that they can be drawn of any image."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from anchorkit.visualization import draw_detections
from anchorkit.visualization.canvas import PALETTE, WRONG, Page, class_color

NAMES = SimpleNamespace(thing_classes=["cat", "dog", "bird"])
BOX = (10.0, 12.0, 40.0, 50.0)


def detections(*rows, size=(70, 90)):
    """Instances of (box, score, class)."""
    instances = Instances(size)
    instances.pred_boxes = Boxes(torch.tensor([list(row[0]) for row in rows]).reshape(-1, 4))
    instances.scores = torch.tensor([row[1] for row in rows], dtype=torch.float32)
    instances.pred_classes = torch.tensor([row[2] for row in rows], dtype=torch.int64)
    return instances


def count_color(picture, color):
    """Pixels of exactly this colour above the last line, which is a note in red."""
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return int((picture[:-25] == wanted).all(axis=2).sum())


def test_a_picture_is_uint8_rgb_and_enlarges_a_small_image_to_480_pixels(make_image):
    picture = draw_detections(make_image(), detections((BOX, 0.9, 0)), NAMES)
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    assert picture.shape[0] >= 480 and picture.shape[1] >= 2 * 480 * 90 / 70


def test_the_same_input_gives_the_same_picture_and_every_change_is_seen(make_image):
    image = make_image()
    first = draw_detections(image, detections((BOX, 0.9, 0)), NAMES)
    assert np.array_equal(first, draw_detections(image, detections((BOX, 0.9, 0)), NAMES))
    moved = (11.0, *BOX[1:])
    for change in ((BOX, 0.8, 0), (BOX, 0.9, 1), (moved, 0.9, 0)):
        other = draw_detections(image, detections(change), NAMES)
        assert other.shape == first.shape and not np.array_equal(first, other)


def test_detections_below_the_threshold_are_not_drawn(make_image):
    image, rows = make_image(), [(BOX, 0.9, 0), (BOX, 0.2, 1)]
    both = draw_detections(image, detections(*rows), NAMES)
    assert np.array_equal(both, draw_detections(image, detections(rows[0]), NAMES))
    lower = draw_detections(image, detections(*rows), NAMES, score_threshold=0.1)
    assert not np.array_equal(both, lower)


def test_red_marks_missed_objects_and_false_detections_and_nothing_else(make_image):
    image = make_image()
    correct = draw_detections(image, detections((BOX, 0.9, 0)), NAMES)
    assert count_color(correct, WRONG) == 0 and count_color(correct, class_color(0)) > 100
    for rows in ([(BOX, 0.9, 1)], [((60, 10, 80, 30), 0.9, 0)], []):
        assert count_color(draw_detections(image, detections(*rows), NAMES), WRONG) > 50


def test_an_object_is_found_once_and_its_second_detection_is_false(make_image):
    picture = draw_detections(make_image(), detections((BOX, 0.9, 0), (BOX, 0.8, 0)), NAMES)
    half = picture.shape[1] // 2
    assert count_color(picture[:, :half], WRONG) == 0
    assert count_color(picture[:, half:], WRONG) > 50


def test_detections_in_a_crowd_are_not_false_and_a_crowd_is_not_missed(make_image):
    image = make_image()
    image["annotations"][0]["iscrowd"] = 1
    inside = detections(((12, 14, 20, 25), 0.9, 0), ((22, 26, 38, 44), 0.8, 0))
    assert count_color(draw_detections(image, inside, NAMES), WRONG) == 0


def test_without_annotations_there_is_one_panel(make_image):
    image = make_image()
    two = draw_detections(image, detections((BOX, 0.9, 0)), NAMES)
    del image["annotations"]
    one = draw_detections(image, detections((BOX, 0.9, 0)), NAMES)
    assert one.shape[0] == two.shape[0] and one.shape[1] < 0.6 * two.shape[1]
    assert count_color(one, class_color(0)) > 100


def test_an_image_without_objects_and_without_detections_is_drawn(make_image):
    picture = draw_detections(make_image(boxes=()), detections(), NAMES)
    assert all(count_color(picture, color) == 0 for color in PALETTE)


def test_detections_of_a_resized_image_are_scaled_to_the_file(make_image):
    image = make_image()
    double = detections((tuple(2 * side for side in BOX), 0.9, 0), size=(140, 180))
    expected = draw_detections(image, detections((BOX, 0.9, 0)), NAMES)
    assert np.array_equal(draw_detections(image, double, NAMES), expected)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_images_of_any_number_of_channels_are_drawn(mode, make_image, tmp_path):
    image = make_image()
    path = tmp_path / f"other.{'tif' if mode == 'CMYK' else 'png'}"
    Image.open(image["file_name"]).convert(mode).save(path)
    picture = draw_detections({**image, "file_name": str(path)}, detections((BOX, 0.9, 0)), NAMES)
    assert count_color(picture, class_color(0)) > 100


def test_an_image_is_turned_as_its_exif_data_say(make_image, tmp_path):
    image = make_image(size=(40, 80))
    upright = draw_detections(image, detections(size=(80, 40)), NAMES)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter
    path = tmp_path / "scene_turned.png"
    Image.open(image["file_name"]).transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    turned = draw_detections(
        {**image, "file_name": str(path)}, detections(size=(80, 40)), NAMES
    )  # fmt: skip
    # The titles differ by the name alone.
    assert np.array_equal(turned[30:], upright[30:])


def test_odd_names_shapes_and_classes_are_drawn(make_image):
    names = SimpleNamespace(thing_classes=["$x_1$", "a very long name " * 8])
    image = make_image(classes=[1], name="50$ and 60$ " + "long " * 30 + ".png", size=(400, 9))
    rows = [((0, 0, 400, 9), 0.9, 0), ((-5, -5, 500, 20), 0.8, 1), ((3, 3, 3, 3), 0.7, 40)]
    wide = draw_detections(image, detections(*rows, size=(9, 400)), names)
    assert wide.shape[1] < 2100 and wide.shape[0] < 600
    tall = make_image(name="tall.png", size=(9, 400))
    assert draw_detections(tall, detections(*rows, size=(400, 9)), object()).shape[0] >= 480


def test_threads_draw_what_a_single_one_draws(make_image):
    image = make_image()
    jobs = [detections((BOX, score, label)) for score in (0.5, 0.9) for label in (0, 1, 2)]
    alone = [draw_detections(image, job, NAMES) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: draw_detections(image, job, NAMES), jobs))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_labels_stand_inside_the_panel_and_never_on_each_other():
    panel = Page(320, 320).panel(10, 10, 300, (0, 0, 100, 100))
    rng = np.random.default_rng(0)
    for _ in range(25):
        x, y = rng.uniform(20, 60, 2)
        panel.label("bird 0.50", (x, y, x + 10, y + 10), PALETTE[0], 8)
    low, high = panel._labels[:, :2], panel._labels[:, 2:]
    assert low.min() >= 0 and high.max() <= 100
    shared = (np.minimum(high[:, None], high) - np.maximum(low[:, None], low)).clip(0).prod(axis=2)
    assert np.count_nonzero(shared) == 25  # each one with itself
