import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from anchorkit.data import (
    ImageSet,
    check_same_classes,
    is_image_set,
    load_image_set,
    register_image_set,
)
from anchorkit.errors import UserError

NAME = "image_set_for_test"


class CountingLoader:
    """Makes two images of the size that is asked for; remembers the calls."""

    def __init__(self, classes=("cat", "dog")):
        self.classes = classes
        self.calls = []

    def __call__(self, options):
        self.calls.append((options.size, options.resize))
        images = torch.zeros(2, 3, options.size, options.size, dtype=torch.uint8)
        return ImageSet(images, torch.tensor([1, 0]), self.classes, ("first", "second"))


@pytest.fixture(autouse=True)
def forget_the_set():
    yield
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop(NAME, None)


def test_a_registered_set_gives_labels_without_pixels_and_its_classes_once_loaded():
    register_image_set(NAME, CountingLoader())
    metadata = MetadataCatalog.get(NAME)
    assert metadata.evaluator_type == "classification" and metadata.get("thing_classes") is None
    assert is_image_set(NAME)
    assert DatasetCatalog.get(NAME) == [
        {"image_id": 0, "file_name": "first", "gt_classes": [1]},
        {"image_id": 1, "file_name": "second", "gt_classes": [0]},
    ]
    assert metadata.thing_classes == ["cat", "dog"]


def test_classes_and_labels_that_need_no_loading_are_told_without_it():
    loader = CountingLoader()
    register_image_set(
        NAME, loader, ["cat", "dog"], lister=lambda: (["first"], torch.tensor([1]), ("cat", "dog"))
    )
    assert MetadataCatalog.get(NAME).thing_classes == ["cat", "dog"]
    assert DatasetCatalog.get(NAME) == [{"image_id": 0, "file_name": "first", "gt_classes": [1]}]
    assert loader.calls == []


def test_a_set_is_loaded_once_for_each_size_way_of_resizing_and_root(tmp_path, monkeypatch):
    loader = CountingLoader()
    register_image_set(NAME, loader)
    first = load_image_set(NAME, size=8)
    assert load_image_set(NAME, size=8) is first and first.images.shape == (2, 3, 8, 8)
    load_image_set(NAME, size=8, resize="crop")
    load_image_set(NAME, size=4)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    load_image_set(NAME, size=4)
    assert loader.calls == [(8, "squash"), (8, "crop"), (4, "squash"), (4, "squash")]


def test_the_metadata_tell_the_classes_of_the_last_load(tmp_path, monkeypatch):
    loader = CountingLoader()
    register_image_set(NAME, loader)
    load_image_set(NAME)
    loader.classes = ("cat", "wolf")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    load_image_set(NAME)
    assert MetadataCatalog.get(NAME).thing_classes == ["cat", "wolf"]


def test_registering_the_same_set_twice_is_allowed_but_not_another_one():
    loader = CountingLoader()
    register_image_set(NAME, loader)
    register_image_set(NAME, loader)
    with pytest.raises(UserError, match="already stands for another data set; choose another"):
        register_image_set(NAME, CountingLoader())
    with pytest.raises(UserError, match="'coco_2017_val' already stands for another"):
        register_image_set("coco_2017_val", loader)


def test_an_unknown_name_is_reported_with_the_nearest_one():
    with pytest.raises(UserError, match="no image set 'cifar10_trian'; did you mean cifar10_train"):
        load_image_set("cifar10_trian")
    with pytest.raises(UserError, match=r"no image set 'xyz'; your own .*IMAGE_FOLDERS"):
        load_image_set("xyz")


def test_a_detection_set_is_not_an_image_set():
    assert not is_image_set("coco_2017_val") and not is_image_set("xyz")
    with pytest.raises(UserError, match="coco_2017_val is a detection set"):
        load_image_set("coco_2017_val")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": -1}, "size of images is -1; it must be 0 or more pixels"),
        ({"resize": "pad"}, "resize is 'pad'; it must be one of 'squash', 'crop'"),
        ({"difficult": "maybe"}, "difficult is 'maybe'; it must be one of 'positive', 'neg"),
        ({"cells": "left"}, "cells is 'left'; it must be one of 'random', 'fixed'"),
    ],
)
def test_a_wrong_option_is_one_clear_line(wrong, message):
    register_image_set(NAME, CountingLoader())
    with pytest.raises(UserError, match=message):
        load_image_set(NAME, **wrong)


def test_sets_used_together_need_the_same_classes():
    def check(first, second):
        check_same_classes("a_train", first, "a_test", second)

    check(["cat", "dog"], ("cat", "dog"))
    with pytest.raises(UserError, match="a_train has no 'ant', 'wolf', a_test has no 'dog';"):
        check(["cat", "dog"], ["ant", "cat", "wolf"])
    with pytest.raises(UserError, match="classes: a_train has no 'ant';"):
        check(["cat"], ["ant", "cat"])
    with pytest.raises(UserError, match="their order differs"):
        check(["cat", "ant"], ["ant", "cat"])
    with pytest.raises(UserError, match="'c6' and 2 more"):
        check(["cat", *(f"c{number}" for number in range(9))], ["cat", "c0"])
