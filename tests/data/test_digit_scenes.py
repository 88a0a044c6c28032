import hashlib
import json
import os
import runpy
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools.coco import COCO

from anchorkit.data import digit_drawing, digit_scenes, write_digit_scenes
from anchorkit.errors import UserError

SCRIPT = Path(__file__).parents[2] / "datasets" / "prepare_digit_scenes.py"


def hashes(folder):
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    return write_digit_scenes(str(root), num_train=40, num_val=10, seed=1)


def test_a_seed_gives_the_same_bytes_in_another_folder_and_another_seed_does_not(written, tmp_path):
    again = write_digit_scenes(str(tmp_path / "a"), num_train=40, num_val=10, seed=1)
    other = write_digit_scenes(str(tmp_path / "b"), num_train=40, num_val=10, seed=2)
    assert hashes(written) == hashes(again)
    same = set(hashes(written).items()) & set(hashes(other).items())
    assert not same


def test_a_smaller_set_is_the_beginning_of_a_larger_one(written, tmp_path):
    small = hashes(write_digit_scenes(str(tmp_path), num_train=5, num_val=2, seed=1))
    images = {path: digest for path, digest in small.items() if path.endswith(".png")}
    assert len(images) == 7
    assert images.items() <= hashes(written).items()


def test_train_and_val_draw_from_disjoint_images_of_all_ten_digits():
    train, train_labels = digit_scenes.load_glyphs("train")
    val, val_labels = digit_scenes.load_glyphs("val")
    assert len(train) + len(val) == 1797 and len(val) == 360
    assert not {glyph.tobytes() for glyph in train} & {glyph.tobytes() for glyph in val}
    assert set(train_labels) == set(val_labels) == set(range(10))


@pytest.mark.parametrize("split, number", [("train", 40), ("val", 10)])
def test_files_are_coco_format_that_pycocotools_reads(written, split, number):
    coco = COCO(os.path.join(written, "annotations", f"{split}.json"))
    assert len(coco.getImgIds()) == number == len(os.listdir(os.path.join(written, split)))
    categories = coco.loadCats(coco.getCatIds())
    assert [(c["id"], c["name"]) for c in categories] == [(d + 1, str(d)) for d in range(10)]
    for image in coco.loadImgs(coco.getImgIds()):
        pixels = cv2.imread(os.path.join(written, split, image["file_name"]))
        assert pixels.shape == (image["height"], image["width"], 3) == (160, 160, 3)
        boxes = [a["bbox"] for a in coco.imgToAnns[image["id"]]]
        assert 1 <= len(boxes) <= 8
        for x, y, width, height in boxes:
            assert width > 0 and height > 0
            assert x >= 0 and y >= 0 and x + width <= 160 and y + height <= 160
    assert all(a["id"] > 0 and a["area"] == a["bbox"][2] * a["bbox"][3] for a in coco.anns.values())


def test_boxes_are_tight_around_the_drawn_pixels(monkeypatch):
    glyphs, labels = digit_scenes.load_glyphs("train")
    checked = 0
    for seed in range(300):
        # The digits are drawn on a flat ground, so that what changed is the digit's ink.
        image = np.full((160, 160, 3), 90, dtype=np.float32)
        objects = digit_drawing._place_digits(image, glyphs, labels, np.random.default_rng(seed))
        if len(objects) != 1:
            continue
        difference = np.abs(image - 90).max(axis=2)
        lowest = digit_drawing.INK_THRESHOLD * difference.max() - 1e-3
        assert objects[0][1] == list(digit_drawing._extent(difference >= lowest))
        checked += 1
    assert checked >= 20


def digit_at(x, y, height, width):
    return digit_drawing._Digit(x, y, np.ones((height, width), dtype=bool))


@pytest.mark.parametrize(
    "cover, stays",
    [((0, 0, 20, 4), True), ((15, 0, 20, 5), True), ((8, 8, 4, 4), True),
     ((0, 0, 20, 6), False), ((14, 14, 1, 1), True), ((6, 6, 8, 8), False),
     ((0, 14, 30, 30), False), ((5, 0, 5, 9), True)],
)  # fmt: skip
def test_a_cover_that_hides_an_edge_or_too_much_ink_is_refused(cover, stays):
    """The digit fills rows and columns 5 to 14; covers are x, y, height and width."""
    digit, other = digit_at(5, 5, 10, 10), digit_at(*cover)
    assert digit.stays_visible_under(other) == stays
    # What is seen is the digit without the cover, in the whole scene.
    scene = np.zeros((50, 50), dtype=bool)
    scene[5:15, 5:15] = True
    x, y, height, width = cover
    scene[y : y + height, x : x + width] = False
    digit.cover(other)
    assert np.array_equal(digit.seen, scene[5:15, 5:15])


def test_covers_add_up():
    digit = digit_at(5, 5, 10, 10)
    first, second = digit_at(6, 6, 5, 4), digit_at(10, 7, 4, 4)
    assert digit.stays_visible_under(first) and digit.stays_visible_under(second)
    digit.cover(first)
    assert not digit.stays_visible_under(second)


def test_sizes_are_log_uniform_and_grow_with_the_scene():
    glyphs, labels = digit_scenes.load_glyphs("train")
    for size in (160, 320):
        boxes = []
        for seed in range(150):
            rng = np.random.default_rng(seed)
            boxes += [box for _, box in digit_scenes.draw_scene(glyphs, labels, size, rng)[1]]
        boxes = np.array(boxes, dtype=float)
        sides = np.sqrt(boxes[:, 2] * boxes[:, 3]) * 160 / size
        assert 10 < sides.min() < 14 and 85 < sides.max() < 106
        # Log-uniform: each octave of sides holds a good share of the digits.
        octaves, _ = np.histogram(sides, bins=[12, 24, 48, 96])
        assert octaves.min() > 0.2 * len(boxes)


@pytest.mark.parametrize("stretch", digit_drawing.STRETCH_RANGE)
def test_a_glyph_gets_the_side_and_the_stretch_that_were_asked_for(stretch):
    glyph = digit_scenes.load_glyphs("val")[0][0]
    _, _, width, height = digit_drawing._extent(glyph >= 0.5)
    for side in (30, 80):
        ink = digit_drawing._shape_glyph(glyph, side, stretch, limit=1000)
        assert (ink.shape[0] * ink.shape[1]) ** 0.5 == pytest.approx(side, rel=0.06)
        assert ink.shape[1] / ink.shape[0] == pytest.approx(stretch * width / height, rel=0.1)
    assert max(digit_drawing._shape_glyph(glyph, 300, stretch, limit=144).shape) <= 144


def test_every_digit_stands_out_from_its_surroundings():
    rng = np.random.default_rng(0)
    num_found = 0
    for _ in range(200):
        patch = rng.uniform(0, digit_drawing.BRIGHTEST_BACKGROUND) + rng.uniform(
            -30, 30, (20, 14, 3)
        )
        colour = digit_drawing._contrasting_colour(patch.astype(np.float32), rng)
        if colour is not None:
            difference = (colour - patch) @ digit_drawing.LUMINANCE
            assert np.mean(difference >= digit_drawing.MIN_CONTRAST) >= 0.8
            num_found += 1
    assert num_found > 100
    white = np.full((20, 14, 3), 255, dtype=np.float32)
    assert digit_drawing._contrasting_colour(white, rng) is None


def test_two_threads_that_write_at_once_leave_one_whole_set(tmp_path):
    arguments = {"num_train": 6, "num_val": 2, "replace": False}
    threads = [
        threading.Thread(target=write_digit_scenes, args=(str(tmp_path),), kwargs=arguments)
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.listdir(tmp_path) == ["digit_scenes"]
    assert len(hashes(tmp_path)) == 6 + 2 + 2


def test_an_interrupted_writing_leaves_nothing_behind(tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(digit_scenes.json, "dump", stop)
    with pytest.raises(KeyboardInterrupt):
        write_digit_scenes(str(tmp_path), num_train=2, num_val=1)
    assert os.listdir(tmp_path) == []


def test_loading_writes_missing_files_to_the_root_of_that_moment(tmp_path, monkeypatch, caplog):
    small = {"num_train": 4, "num_val": 3}
    write = digit_scenes.write_digit_scenes
    monkeypatch.setattr(
        digit_scenes, "write_digit_scenes", lambda root, replace: write(root, **small)
    )
    for root in (tmp_path / "one", tmp_path / "two"):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
        caplog.clear()
        with caplog.at_level("INFO", logger="anchorkit"):
            dicts = DatasetCatalog.get("digit_scenes_train")
            assert len(DatasetCatalog.get("digit_scenes_val")) == 3
        assert len(caplog.records) == 1
        assert len(dicts) == 4 and dicts[0]["file_name"].startswith(str(root))
        metadata = MetadataCatalog.get("digit_scenes_train")
        assert metadata.json_file.startswith(str(root))
        assert len(json.loads(Path(metadata.json_file).read_text())["images"]) == 4
        assert metadata.thing_classes == [str(digit) for digit in range(10)]
        categories = {a["category_id"] for record in dicts for a in record["annotations"]}
        assert categories <= set(range(10))


def test_a_half_deleted_set_is_reported_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    (tmp_path / "digit_scenes").mkdir()
    with pytest.raises(UserError, match="train.json is missing; delete"):
        DatasetCatalog.get("digit_scenes_train")


def test_the_prepare_script_writes_any_number_and_size_and_prints_counts(tmp_path):
    arguments = ["--num-train", "3", "--num-val", "2", "--size", "64", "--root", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=True
    )
    assert "train: 3 scenes" in done.stdout and "val: 2 scenes" in done.stdout
    assert cv2.imread(str(tmp_path / "digit_scenes/val/000001.png")).shape == (64, 64, 3)


def test_the_prepare_script_tells_of_a_wrong_argument_in_one_line(tmp_path, monkeypatch, capsys):
    arguments = ["--size", "8", "--root", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    monkeypatch.setattr(sys, "path", sys.path[:])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: digit scenes: expected")
    assert os.listdir(tmp_path) == []
