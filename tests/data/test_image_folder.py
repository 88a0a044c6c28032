import os
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from anchorkit.config import load_config, num_classes
from anchorkit.data import ReadOptions, image_cache, load_image_set, register_image_folders
from anchorkit.data.image_cache import decode_image
from anchorkit.data.image_folder import ImageFolder
from anchorkit.errors import UserError

NAME = "folder_for_test"
COLOURS = {"cat": (200, 30, 40), "dog": (10, 180, 90)}


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """The root of the data sets; what a test registers is forgotten after it."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    yield tmp_path / "datasets"
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop(NAME, None)


@pytest.fixture
def folder(tmp_path):
    """Two classes with three images each, of one colour and of different sizes."""
    for class_name, colour in COLOURS.items():
        for number in range(3):
            save(tmp_path / "images" / class_name / f"{number}.png", (20 + number, 12), colour)
    return tmp_path / "images"


@pytest.fixture
def decoded(monkeypatch):
    """Paths of the files that are decoded from now on."""
    paths = []

    def decode(path, size, resize):
        paths.append(path)
        return decode_image(path, size, resize)

    monkeypatch.setattr(image_cache, "decode_image", decode)
    return paths


def save(path, size, colour, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)
    return path


def load(folder, size=8, resize="squash"):
    """Load as another process would: without what this one has in memory."""
    return ImageFolder(NAME, str(folder))(ReadOptions(size, resize))


def config(*entries):
    cfg = load_config("")
    cfg.DATASETS.IMAGE_FOLDERS = list(entries)
    return cfg


def caches(root):
    return sorted(path.name for path in (root / "cache").iterdir())


def test_a_folder_of_a_config_becomes_a_set_with_its_classes(folder):
    cfg = config([NAME, str(folder)])
    cfg.DATASETS.TRAIN = (NAME,)
    register_image_folders(cfg)
    assert MetadataCatalog.get(NAME).thing_classes == ["cat", "dog"] and num_classes(cfg) == 2
    assert MetadataCatalog.get(NAME).evaluator_type == "classification"
    dicts = DatasetCatalog.get(NAME)
    assert len(dicts) == 6 and dicts[4] == {
        "image_id": 4,
        "file_name": str(folder / "dog" / "1.png"),
        "gt_classes": [1],
    }
    loaded = load_image_set(NAME, size=8)
    assert loaded.images.shape == (6, 3, 8, 8) and loaded.images.dtype == torch.uint8
    assert loaded.labels.dtype == torch.int64 and loaded.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert loaded.classes == ("cat", "dog")
    assert list(loaded.image_names) == [record["file_name"] for record in dicts]
    assert loaded.images[1, :, 3, 3].tolist() == list(COLOURS["cat"])
    assert loaded.images[5, :, 3, 3].tolist() == list(COLOURS["dog"])


def test_registering_twice_is_allowed_but_not_with_another_folder(folder, tmp_path):
    register_image_folders(config([NAME, str(folder)]))
    register_image_folders(config([NAME, str(folder)], [NAME, str(folder) + os.sep]))
    save(tmp_path / "other" / "cat" / "0.png", (8, 8), 0)
    with pytest.raises(UserError, match="already stands for another data set"):
        register_image_folders(config([NAME, str(tmp_path / "other")]))


@pytest.mark.parametrize(
    "entry, message",
    [
        (["name"], r"expected a list of \[name, folder\].*got the entry \['name'\]"),
        (["name", "a", "b"], "got the entry"),
        ("ab", "got the entry 'ab'"),
        (["name", 3], "got the entry"),
        ([NAME, "no_such_folder"], "the folder no_such_folder of 'folder_for_test' does not exist"),
    ],
)
def test_a_wrong_entry_is_one_clear_line(entry, message):
    with pytest.raises(UserError, match=message) as caught:
        register_image_folders(config(entry))
    assert "\n" not in str(caught.value) and NAME not in DatasetCatalog.keys()


def test_a_folder_without_classes_and_an_empty_class_are_one_clear_line(tmp_path):
    (tmp_path / "images" / ".hidden").mkdir(parents=True)
    with pytest.raises(UserError, match="has no sub-folders; expected one for each class"):
        register_image_folders(config([NAME, str(tmp_path / "images")]))
    save(tmp_path / "images" / "cat" / "0.png", (8, 8), 0)
    (tmp_path / "images" / "dog" / "deeper").mkdir(parents=True)
    (tmp_path / "images" / "dog" / "notes.txt").touch()
    with pytest.raises(UserError, match=r"empty class 'dog': no image files \(.jpg, .*dog; add"):
        load(tmp_path / "images")


@pytest.mark.parametrize("kind", ["ucf101", "era", "bar"])
def test_the_sets_that_scripts_write_are_known_and_name_their_script(root, kind):
    with pytest.raises(UserError, match=f"{kind}/train does not exist; .*prepare_{kind}.py"):
        load_image_set(f"{kind}_train", size=8)
    save(root / kind / "test" / "cat" / "0.png", (8, 8), 0)
    assert load_image_set(f"{kind}_test", size=8).classes == ("cat",)
    assert MetadataCatalog.get(f"{kind}_test").thing_classes == ["cat"]


def test_a_folder_needs_a_size(folder):
    register_image_folders(config([NAME, str(folder)]))
    with pytest.raises(UserError, match="sizes of their own; .*INPUT.FIXED_SIZE.*got 0"):
        load_image_set(NAME)


def test_images_count_at_any_depth_with_any_known_ending_and_in_the_same_order(
    tmp_path, monkeypatch
):
    names = ["b.JPG", "a/z.jpeg", "a/b/c.png", "c.bmp", "d.webp", "e.ppm", "f.tif", "g.TIFF"]
    for name in names:
        save(tmp_path / "images" / "cat" / name, (8, 8), (9, 9, 9))
    for name in ("._b.jpg", "c.gif", "d.txt", "jpg"):
        (tmp_path / "images" / "cat" / name).touch()
    expected = [str(tmp_path / "images" / "cat" / name) for name in sorted(names)]
    assert list(load(tmp_path / "images").image_names) == expected
    walk = os.walk

    def walk_backwards(top):
        return [(place, dirs, names[::-1]) for place, dirs, names in reversed(list(walk(top)))]

    monkeypatch.setattr(os, "walk", walk_backwards)
    assert list(load(tmp_path / "images").image_names) == expected


def test_squash_shows_the_whole_image_and_crop_its_centre_square(tmp_path):
    pixels = np.zeros((10, 30, 3), dtype=np.uint8)
    pixels[:, :10, 0] = pixels[:, 10:20, 1] = pixels[:, 20:, 2] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "high.png")
    for name, axis in (("wide.png", 2), ("high.png", 1)):
        whole = decode_image(str(tmp_path / name), 9, "squash")
        assert whole.shape == (3, 9, 9) and whole.flags["C_CONTIGUOUS"]
        assert [whole[channel].take(position, axis - 1).min() for channel, position in
                ((0, 1), (1, 4), (2, 7))] == [255, 255, 255]  # fmt: skip
        centre = decode_image(str(tmp_path / name), 10, "crop")
        assert (centre == np.array([0, 255, 0])[:, None, None]).all()


def test_fine_patterns_become_grey_and_not_noise(tmp_path):
    board = np.indices((256, 256)).sum(0) % 2 * 255
    Image.fromarray(np.stack([board.astype(np.uint8)] * 3, axis=2)).save(tmp_path / "board.png")
    small = decode_image(str(tmp_path / "board.png"), 16, "squash")
    assert small.min() > 120 and small.max() < 135


def test_the_exif_orientation_is_respected(tmp_path):
    pixels = np.zeros((16, 32, 3), dtype=np.uint8)
    pixels[:, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise: what is left in the file is above
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    image = decode_image(str(tmp_path / "turned.png"), 8, "squash")
    assert (image[:, :3] == 255).all() and (image[:, 5:] == 0).all()


def test_every_kind_of_pixel_becomes_rgb(tmp_path):
    def decode(image, name="image.png", **options):
        image.save(tmp_path / name, **options)
        return decode_image(str(tmp_path / name), 4, "squash")[:, 1, 1].tolist()

    assert decode(Image.new("L", (8, 8), 77)) == [77, 77, 77]
    assert decode(Image.new("1", (8, 8), 1)) == [255, 255, 255]
    assert decode(Image.new("RGBA", (8, 8), (1, 2, 3, 0))) == [1, 2, 3]
    assert decode(Image.new("LA", (8, 8), (5, 9))) == [5, 5, 5]
    deep = Image.fromarray(np.full((8, 8), 200 * 256, dtype=np.uint16))
    assert decode(deep, "deep.png") == [200, 200, 200]
    palette = Image.new("RGB", (8, 8), (9, 8, 7)).convert("P", palette=Image.Palette.ADAPTIVE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(palette, transparency=bytes([0])) == [9, 8, 7]
    assert decode(Image.new("CMYK", (8, 8), (0, 0, 0, 255)), "a.jpg") == [0, 0, 0]
    with pytest.raises(ValueError, match="its pixels have 32 bits; expected 8 or 16"):
        decode(Image.fromarray(np.zeros((8, 8), dtype=np.float32)), "a.tiff")


def test_a_second_load_decodes_nothing_and_its_tensor_is_writable(folder, root, decoded):
    first = load(folder)
    assert len(decoded) == 6 and len(caches(root)) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = load(folder)
    assert len(decoded) == 6
    assert torch.equal(first.images, second.images) and torch.equal(first.labels, second.labels)
    second.images.zero_()
    assert torch.equal(load(folder).images, first.images) and len(decoded) == 6


def test_sizes_and_ways_of_resizing_have_caches_of_their_own(folder, root, decoded):
    for size, resize in ((8, "squash"), (8, "crop"), (4, "crop"), (8, "squash"), (4, "crop")):
        assert load(folder, size, resize).images.shape == (6, 3, size, size)
    assert len(decoded) == 18 and len(caches(root)) == 3


def test_a_file_that_is_changed_added_or_removed_makes_a_new_cache(folder, decoded):
    load(folder)
    save(folder / "cat" / "1.png", (21, 12), (1, 2, 3))
    assert load(folder).images[1, :, 0, 0].tolist() == [1, 2, 3] and len(decoded) == 12
    save(folder / "cat" / "3.png", (8, 8), (4, 5, 6))
    assert load(folder).images[3, :, 0, 0].tolist() == [4, 5, 6] and len(decoded) == 19
    (folder / "cat" / "0.png").unlink()
    assert load(folder).images[0, :, 0, 0].tolist() == [1, 2, 3] and len(decoded) == 25
    os.utime(folder / "cat" / "1.png", ns=(0, 0))
    load(folder)
    assert len(decoded) == 31


def test_the_same_files_in_another_folder_have_another_cache(tmp_path, decoded):
    for name, colour in (("one", 10), ("two", 20)):
        path = save(tmp_path / name / "cat" / "0.bmp", (8, 8), (colour,) * 3)
        os.utime(path, ns=(0, 0))
    assert [load(tmp_path / name).images.max() for name in ("one", "two")] == [10, 20]


def damage(path, content=b""):
    path.write_bytes(content)


def test_files_that_cannot_be_decoded_are_named_with_the_reason_and_left_out(
    folder, root, decoded, caplog
):
    whole = load(folder)
    damage(folder / "cat" / "0.png")
    damage(folder / "cat" / "2.png", b"not an image")
    damage(folder / "dog" / "1.png", (folder / "dog" / "1.png").read_bytes()[:50])
    (folder / "dog" / "3.png").symlink_to("nowhere.png")
    for number_decoded in (6 + 7, 6 + 7 + 4):  # broken files are tried again
        caplog.clear()
        loaded = load(folder)
        assert len(decoded) == number_decoded
        assert torch.equal(loaded.images, whole.images[[1, 3, 5]])
        assert loaded.labels.tolist() == [0, 1, 1]
        assert [Path(name).name for name in loaded.image_names] == ["1.png", "0.png", "2.png"]
        messages = [record.getMessage() for record in caplog.records]
        assert messages[0] == f"{NAME}: left out {folder / 'cat' / '0.png'}: the file is empty"
        assert messages[1].endswith("the file is not an image")
        assert "dog/1.png: " in messages[2]
        assert messages[3].endswith("the file does not exist") and len(messages) == 4


def test_a_broken_file_that_can_be_read_again_is_taken_up(folder, monkeypatch):
    def refuse(path, size, resize):
        if path.endswith("cat/1.png"):
            raise PermissionError("not now")
        return decode_image(path, size, resize)

    monkeypatch.setattr(image_cache, "decode_image", refuse)
    assert len(load(folder).images) == 5
    monkeypatch.setattr(image_cache, "decode_image", decode_image)
    assert len(load(folder).images) == 6


def test_the_log_names_at_most_twenty_broken_files(folder, caplog):
    for number in range(30):
        (folder / "cat" / f"broken_{number}.png").touch()
    load(folder)
    assert len(caplog.records) == 21
    assert "left out 10 more files" in caplog.records[-1].getMessage()


def test_a_class_without_a_readable_file_stops_the_load(folder, root):
    for number in range(3):
        damage(folder / "dog" / f"{number}.png")
    with pytest.raises(UserError, match="none of the images of 'dog' can be decoded"):
        load(folder)
    for number in range(3):
        damage(folder / "cat" / f"{number}.png")
    with pytest.raises(UserError, match="none of the images of 'cat', 'dog' can be decoded"):
        load(folder)
    assert not any(name.endswith(".partial") for name in caches(root))


@pytest.mark.parametrize("content", [b"", b"nonsense" * 100, "header only"])
def test_a_damaged_cache_is_written_anew(folder, root, decoded, caplog, content):
    whole = load(folder).images.clone()
    path = root / "cache" / caches(root)[0]
    damage(path, path.read_bytes()[:140] if content == "header only" else content)
    assert torch.equal(load(folder).images, whole) and len(decoded) == 12
    assert "is damaged" in caplog.text and "is written anew" in caplog.text
    assert torch.equal(load(folder).images, whole) and len(decoded) == 12


def test_a_cache_without_its_list_of_broken_files_is_written_anew(folder, root, decoded):
    damage(folder / "cat" / "0.png")
    load(folder)
    (list_file,) = (root / "cache").glob("*.json")
    list_file.unlink()
    assert len(load(folder).images) == 5 and len(decoded) == 12
    list_file.write_text("[]")
    assert len(load(folder).images) == 5 and len(decoded) == 18


def test_a_cache_that_cannot_be_written_is_one_warning(folder, root, decoded, caplog):
    damage(folder / "cat" / "0.png")
    root.mkdir()
    (root / "cache").touch()  # where the folder should be
    loaded = load(folder)
    assert loaded.images.shape == (5, 3, 8, 8) and len(decoded) == 6
    assert loaded.images[4, :, 0, 0].tolist() == list(COLOURS["dog"])
    warned = [r.getMessage() for r in caplog.records if "cannot be written" in r.getMessage()]
    assert len(warned) == 1 and "the images stay in memory" in warned[0]


def test_a_disk_that_becomes_full_leaves_no_half_cache(folder, root, monkeypatch, caplog):
    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(image_cache.os, "fsync", fail)
    assert len(load(folder).images) == 6
    assert caches(root) == [] and "No space left on device" in caplog.text


def test_an_interrupted_load_leaves_nothing_behind(folder, root, monkeypatch):
    def stop(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(image_cache.os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        load(folder)
    assert caches(root) == []


def test_more_images_than_are_in_memory_at_once_keep_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(image_cache, "CHUNK", 4)
    for number in range(11):
        path = tmp_path / "images" / "cat" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((9, 7, 3), number, dtype=np.uint8))
    assert load(tmp_path / "images").images[:, 0, 0, 0].tolist() == list(range(11))


def test_numpy_reads_the_cache_as_an_ordinary_file(folder, root):
    loaded = load(folder)
    assert np.array_equal(np.load(root / "cache" / caches(root)[0]), loaded.images.numpy())
