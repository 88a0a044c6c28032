import json
import logging
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances, register_pascal_voc
from PIL import Image

from anchorkit import engine
from anchorkit.config import load_config, num_classes
from anchorkit.data import (
    ReadOptions,
    check_datasets,
    digit_scenes,
    image_cache,
    is_multi_label,
    load_dataset,
    load_image_set,
    register_coco_format,
    register_image_set,
    register_multi_label,
)
from anchorkit.data.image_cache import decode_image
from anchorkit.data.multi_label import MultiLabelSet
from anchorkit.errors import UserError
from tests.reference.multi_label import labels_of

NAME = "boxes_for_test"
CLASSES = ("cat", "dog", "owl")
# Objects of an image: class and whether it is difficult. Two images have no certain class.
OBJECTS = [
    [("dog", False), ("dog", True), ("owl", False)],
    [("cat", True), ("cat", True)],
    [],
    [("owl", True), ("cat", False)],
    [("owl", False), ("owl", False)],
    [("owl", True), ("cat", False), ("owl", False), ("dog", True)],
]


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """The root of the data sets; what a test registers is forgotten after it."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    known = set(DatasetCatalog.keys())
    yield tmp_path / "datasets"
    for name in set(DatasetCatalog.keys()) - known:
        for catalog in (DatasetCatalog, MetadataCatalog):
            catalog.pop(name, None)


@pytest.fixture
def decoded(monkeypatch):
    """Names of the files that are decoded from now on."""
    names = []

    def decode(path, size, resize):
        names.append(Path(path).name)
        return decode_image(path, size, resize)

    monkeypatch.setattr(image_cache, "decode_image", decode)
    return names


@pytest.fixture
def make_voc(tmp_path):
    """Function that writes and registers a VOC set, image by image; returns its folder."""

    def make(objects=OBJECTS, name=NAME):
        folder = tmp_path / name
        for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (folder / part).mkdir(parents=True)
        for number, entries in enumerate(objects):
            save(folder / "JPEGImages" / f"{number:06d}.jpg", number)
            tags = "".join(
                f"<object><name>{class_name}</name><difficult>{int(is_difficult)}</difficult>"
                "</object>"
                for class_name, is_difficult in entries
            )
            annotation = f"<annotation><size/>{tags}</annotation>"
            (folder / "Annotations" / f"{number:06d}.xml").write_text(annotation)
        lines = "".join(f"{number:06d}\n" for number in range(len(objects)))
        (folder / "ImageSets" / "Main" / "trainval.txt").write_text(lines)
        register_pascal_voc(name, str(folder), "trainval", 2007, CLASSES)
        register_multi_label()
        return folder

    return make


@pytest.fixture
def make_coco(tmp_path):
    """Function that writes a COCO set of five images and returns its files, content and a config.

    Categories are not in the order of their ids. Image 21 has no object, image 23 only a crowd,
    image 24 a box that is none and one outside of the image.
    """

    def make(change=None, name=NAME):
        folder = tmp_path / name
        folder.mkdir()
        images = []
        for number in range(5):
            save(folder / f"{number}.png", number)
            file = {"file_name": f"{number}.png", "width": 12, "height": 8}
            images.append({"id": 25 - number, **file})
        boxes = [
            (25, 9, [0, 0, 4, 4], 0), (25, 9, [1, 1, 4, 4], 0), (25, 2, [1, 1, 4, 4], 0),
            (24, 5, [0, 0, 0, 0], 0), (24, 2, [500, 0, 4, 4], 0), (23, 5, [0, 0, 4, 4], 1),
            (22, 2, [0, 0, 4, 4], 0),
        ]  # fmt: skip
        annotations = [
            {"id": number + 1, "image_id": image, "category_id": category, "bbox": box,
             "area": 16, "iscrowd": crowd}
            for number, (image, category, box, crowd) in enumerate(boxes)
        ]  # fmt: skip
        categories = [{"id": 9, "name": "owl"}, {"id": 2, "name": "cat"}, {"id": 5, "name": "dog"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        if change:
            change(content)
        json_file = tmp_path / f"{name}.json"
        json_file.write_text(json.dumps(content))
        cfg = load_config("", ["OUTPUT_DIR", str(tmp_path / "output")])
        cfg.DATASETS.COCO_FORMAT = [[name, str(json_file), str(folder)]]
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (f"{name}_multi_label",)
        cfg.MODEL.META_ARCHITECTURE = "ImageClassifier"
        cfg.MODEL.CLASSIFIER.METHOD = "binary_cross_entropy"
        cfg.INPUT.FIXED_SIZE = 8
        return SimpleNamespace(json_file=json_file, folder=folder, content=content, cfg=cfg)

    return make


def save(path, number):
    """An image of one grey, which tells its number."""
    Image.new("RGB", (12, 8), (10 + 20 * number,) * 3).save(path)


def load(size=8, **options):
    """Load as another process would: without what this one has in memory."""
    return MultiLabelSet(NAME)(ReadOptions(size, **options))


def numbers(loaded):
    """Which images these are, by their pixels and by their names."""
    by_pixels = ((loaded.images[:, 0, 0, 0].long() - 10) / 20).round().int().tolist()
    assert by_pixels == [int(Path(name).stem) for name in loaded.image_names]
    return by_pixels


@pytest.mark.parametrize(
    "name",
    ["voc_2007_trainval", "voc_2007_test", "voc_2012_val", "coco_2014_train", "coco_2014_val",
     "coco_2017_train", "digit_scenes_train"],
)  # fmt: skip
def test_the_detection_sets_of_detectron2_have_a_multi_label_set_from_the_import_on(name):
    assert is_multi_label(f"{name}_multi_label") and not is_multi_label(name)
    classes = MetadataCatalog.get(name).thing_classes
    assert MetadataCatalog.get(f"{name}_multi_label").thing_classes == classes
    for other in ("coco_2017_val_panoptic", "lvis_v1_val", f"{name}_multi_label"):
        assert f"{other}_multi_label" not in DatasetCatalog.keys()


@pytest.mark.parametrize("difficult", ["positive", "negative", "ignore"])
def test_classes_with_difficult_objects_alone_are_there_or_not_or_unknown(make_voc, difficult):
    make_voc()
    loaded = load(difficult=difficult)
    assert loaded.labels.dtype == torch.int8 and loaded.classes == CLASSES
    assert loaded.labels.tolist() == [labels_of(one, CLASSES, difficult) for one in OBJECTS]
    unsure = {"positive": 1, "negative": 0, "ignore": -1}[difficult]
    assert loaded.labels[1].tolist() == [unsure, 0, 0]
    assert numbers(loaded) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("difficult", ["positive", "negative", "ignore"])
def test_labels_are_those_of_a_slow_loop_over_many_images(make_voc, difficult):
    draw = random.Random(0)
    objects = [
        [(draw.choice(CLASSES), draw.random() < 0.5) for _ in range(draw.randrange(6))]
        for _ in range(40)
    ]
    make_voc(objects)
    _, labels, _ = MultiLabelSet(NAME).listing(difficult)
    expected = [labels_of(one, CLASSES, difficult) for one in objects]
    assert labels.tolist() == expected
    assert (-1 in sum(expected, [])) == (difficult == "ignore")


@pytest.mark.parametrize("difficult", ["positive", "negative", "ignore"])
def test_images_with_fewer_classes_are_left_out_but_not_of_the_cache(
    make_voc, root, decoded, difficult
):
    make_voc()
    for min_classes in (0, 1, 2, 3):
        rows = [labels_of(one, CLASSES, difficult) for one in OBJECTS]
        expected = [n for n, row in enumerate(rows) if row.count(1) >= min_classes]
        if not expected:
            with pytest.raises(
                UserError, match="none of its 6 images has 3 classes or more; lower"
            ):
                load(difficult=difficult, min_classes=min_classes)
            continue
        loaded = load(difficult=difficult, min_classes=min_classes)
        assert numbers(loaded) == expected
        assert loaded.labels.tolist() == [rows[number] for number in expected]
    assert len(decoded) == 6 and len(list((root / "cache").iterdir())) == 1


def test_a_second_load_decodes_nothing_and_an_image_that_changes_is_decoded_anew(make_voc, decoded):
    folder = make_voc()
    first = load()
    second = load(min_classes=1)
    assert len(decoded) == 6 and torch.equal(second.images, first.images[[0, 1, 3, 4, 5]])
    load(resize="crop")
    assert len(decoded) == 12
    save(folder / "JPEGImages" / "000002.jpg", 9)
    assert load().images[2].max() > 185 and len(decoded) == 18


def test_labels_that_change_do_not_need_new_pixels(make_voc, decoded):
    folder = make_voc()
    load()
    annotation = "<annotation><object><name>dog</name></object></annotation>"
    (folder / "Annotations" / "000002.xml").write_text(annotation)
    assert load().labels[2].tolist() == [0, 1, 0] and len(decoded) == 6


def test_images_that_cannot_be_decoded_are_named_and_left_out(make_voc, caplog):
    folder = make_voc()
    (folder / "JPEGImages" / "000000.jpg").write_bytes(b"no image")
    (folder / "JPEGImages" / "000004.jpg").unlink()
    for min_classes, expected in ((0, [1, 2, 3, 5]), (2, [3, 5])):
        caplog.clear()
        loaded = load(min_classes=min_classes)
        assert numbers(loaded) == expected
        assert loaded.labels.tolist() == [
            labels_of(OBJECTS[number], CLASSES, "positive") for number in expected
        ]
        messages = [record.getMessage() for record in caplog.records]
        start = f"{NAME}_multi_label: left out {folder}/JPEGImages/"
        assert messages == [
            f"{start}000000.jpg: the file is not an image",
            f"{start}000004.jpg: the file does not exist",
        ]
    for path in (folder / "JPEGImages").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="none of its 6 images can be decoded"):
        load()


def test_a_size_is_needed(make_voc):
    make_voc()
    with pytest.raises(UserError, match="sizes of their own; .*INPUT.FIXED_SIZE.*got 0"):
        load_image_set(f"{NAME}_multi_label")


def test_the_catalog_gives_positions_paths_and_classes_without_decoding(make_voc, decoded):
    folder = make_voc()
    dicts = DatasetCatalog.get(f"{NAME}_multi_label")
    assert dicts == [
        {
            "image_id": number,
            "file_name": str(folder / "JPEGImages" / f"{number:06d}.jpg"),
            "gt_classes": classes,
        }
        for number, classes in enumerate([[1, 2], [0], [], [0, 2], [2], [0, 1, 2]])
    ]
    assert load_dataset(f"{NAME}_multi_label") == (dicts, []) and decoded == []


def test_crowds_and_objects_with_unusable_boxes_count_and_images_without_objects_stay(make_coco):
    made = make_coco()
    register_coco_format(made.cfg)
    register_multi_label()
    assert MetadataCatalog.get(f"{NAME}_multi_label").thing_classes == list(CLASSES)
    names = {entry["id"]: entry["name"] for entry in made.content["categories"]}
    objects = [
        [(names[entry["category_id"]], False) for entry in made.content["annotations"]
         if entry["image_id"] == image["id"]]
        for image in made.content["images"]
    ]  # fmt: skip
    expected = [labels_of(one, CLASSES, "positive") for one in objects]
    assert expected == [[1, 0, 1], [1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]]
    loaded = load()
    assert loaded.labels.tolist() == expected and numbers(loaded) == [0, 1, 2, 3, 4]
    assert numbers(load(min_classes=1)) == [0, 1, 2, 3]
    assert numbers(load(min_classes=2, difficult="ignore")) == [0, 1]


def test_a_set_without_objects_has_only_zeros(make_coco):
    made = make_coco(lambda content: content["annotations"].clear())
    register_coco_format(made.cfg)
    assert load().labels.tolist() == [[0, 0, 0]] * 5


def test_a_set_registered_in_python_has_its_classes_once_it_is_loaded(make_coco):
    made = make_coco()
    register_coco_instances(NAME, {}, str(made.json_file), str(made.folder))
    register_multi_label()
    register_multi_label()
    assert load_image_set(f"{NAME}_multi_label", size=8).labels.shape == (5, 3)
    assert MetadataCatalog.get(f"{NAME}_multi_label").thing_classes == list(CLASSES)


def test_a_file_with_other_classes_than_the_metadata_is_one_clear_line(make_coco):
    made = make_coco()
    classes = {"thing_classes": ["cat", "dog", "wolf"]}
    register_coco_instances(NAME, classes, str(made.json_file), str(made.folder))
    with pytest.raises(UserError, match=f"{NAME} has no 'owl', .*json has no 'wolf'"):
        load()


def test_an_unknown_category_stops_and_an_unknown_image_is_a_warning(make_coco, caplog):
    made = make_coco(lambda content: content["annotations"][5].update(image_id=99))
    register_coco_format(made.cfg)
    assert load().labels.tolist()[2] == [0, 0, 0]
    assert "1 annotations belong to no image of the file" in caplog.text
    made.content["annotations"][3]["category_id"] = 77
    made.json_file.write_text(json.dumps(made.content))
    with pytest.raises(UserError, match="annotation 4 of image 24 has the category 77, which is"):
        load()


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("Annotations/000003.xml", None, "000003.xml: the file does not exist; complete"),
        ("Annotations/000003.xml", "<annotation>", "000003.xml: ParseError: .*; complete or mend"),
        (
            "Annotations/000003.xml",
            "<annotation><object><name>cow</name></object></annotation>",
            "000003.xml has an object of the class 'cow'; expected one of 'cat', 'dog', 'owl'",
        ),
        ("ImageSets/Main/trainval.txt", None, "trainval.txt does not exist; put the files there"),
    ],
)
def test_damaged_voc_files_are_one_clear_line(make_voc, path, text, message):
    file = make_voc() / path
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load()
    assert str(caught.value).startswith(f"{NAME}: ") and "\n" not in str(caught.value)


def test_a_config_names_the_set_of_its_own_coco_files(make_coco):
    cfg = make_coco().cfg
    cfg.DATASETS.MULTI_LABEL.MIN_CLASSES_TRAIN = 2
    engine._check_data(cfg, train=True)
    assert num_classes(cfg) == 3
    cfg.MODEL.NUM_CLASSES = 4
    with pytest.raises(UserError, match=f"{NAME}_multi_label has 3 classes"):
        engine._check_data(cfg, train=True)
    cfg.INPUT.FIXED_SIZE = 0
    with pytest.raises(UserError, match="INPUT.FIXED_SIZE.*got 0"):
        engine._check_data(cfg, train=True)


def test_an_unknown_name_is_reported_with_the_nearest_one(make_coco):
    cfg = make_coco().cfg
    cfg.DATASETS.TEST = ("boxes_for_tset_multi_label",)
    with pytest.raises(UserError, match=f"DATASETS.TEST: .*did you mean {NAME}_multi_label"):
        engine._check_data(cfg, train=False)
    with pytest.raises(UserError, match="did you mean voc_2007_trainval_multi_label"):
        load_image_set("voc_2007_trianval_multi_label")


def test_a_name_that_stands_for_another_set_is_refused(make_coco):
    made = make_coco()
    register_image_set(f"{NAME}_multi_label", lambda options: None)
    with pytest.raises(UserError, match=f"'{NAME}_multi_label' already stands for another"):
        engine._check_data(made.cfg, train=True)


def test_the_data_check_counts_the_images_of_each_class(make_coco, caplog):
    made = make_coco()
    made.cfg.DATASETS.MULTI_LABEL.MIN_CLASSES_TRAIN = 2
    engine._check_data(made.cfg, train=True)
    with caplog.at_level(logging.INFO, logger="anchorkit"):
        assert check_datasets(made.cfg) is None
    (table,) = [r.getMessage() for r in caplog.records if "Data check" in r.getMessage()]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    for row in (["images", "2"], ["channels, height, width", "3 x 8 x 8"], ["images of cat", "2"],
                ["images of dog", "1"], ["images of owl", "1"]):  # fmt: skip
        assert row in rows


def test_digit_scenes_are_written_to_the_root_of_that_moment(tmp_path, monkeypatch):
    write = digit_scenes.write_digit_scenes
    monkeypatch.setattr(
        digit_scenes,
        "write_digit_scenes",
        lambda root, replace: write(root, num_train=2, num_val=3, size=64),
    )
    for folder in ("one", "two"):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / folder))
        loaded = load_image_set("digit_scenes_val_multi_label", size=16)
        assert loaded.images.shape == (3, 3, 16, 16) and len(loaded.classes) == 10
        dicts = DatasetCatalog.get("digit_scenes_val")
        assert list(loaded.image_names) == [record["file_name"] for record in dicts]
        assert all(name.startswith(str(tmp_path / folder)) for name in loaded.image_names)
        for row, record in zip(loaded.labels.tolist(), dicts, strict=True):
            digits = {annotation["category_id"] for annotation in record["annotations"]}
            assert row == [int(digit in digits) for digit in range(10)] and digits
