import json
import math
import os

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances

from anchorkit.config import load_config, num_classes
from anchorkit.data import (
    check_classes,
    check_files,
    load_coco_boxes,
    load_dataset,
    register_coco_format,
)
from anchorkit.data.faults import box_fault, drop_invalid_boxes
from anchorkit.errors import UserError


def break_annotations(content):
    """Every kind of unusable annotation once; annotation 1 (image 5) stays as it is."""
    changes = {
        2: {"bbox": [1, 1, 0, 5]},
        3: {"bbox": [1, 1, 5, -1]},
        4: {"bbox": [100, 1, 5, 5]},
        5: {"bbox": [1, 1, math.nan, 5]},
        6: {"bbox": [1, 2, 3]},
        7: {"category_id": 99},
        8: {"image_id": 12345},
        9: {"bbox": None},
    }
    for annotation in content["annotations"]:
        annotation.update(changes.get(annotation["id"], {}))


def test_a_registered_set_loads_with_its_classes_in_the_order_of_category_ids(make_set):
    made = make_set(4)
    metadata = MetadataCatalog.get(made.name)
    assert metadata.thing_classes == ["cat", "dog"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}
    assert metadata.evaluator_type == "coco"
    assert metadata.json_file == str(made.json_file)
    dicts = DatasetCatalog.get(made.name)
    assert [record["image_id"] for record in dicts] == [5, 15, 25, 35]
    assert dicts[1] == {
        "file_name": str(made.folder / "1.png"),
        "width": 24,
        "height": 32,
        "image_id": 15,
        "annotations": [
            {
                "bbox": [1, 2, 10, 8],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": 1,
                "iscrowd": 0,
            }
        ],
    }
    check_files(made.cfg)
    check_classes(made.cfg)
    assert num_classes(made.cfg) == 2


def test_registering_twice_is_allowed_but_not_with_other_files(make_set):
    made, other = make_set(), make_set()
    register_coco_format(made.cfg)
    made.cfg.DATASETS.COCO_FORMAT = [[made.name, str(other.json_file), str(other.folder)]]
    with pytest.raises(UserError, match="already stands for another data set"):
        register_coco_format(made.cfg)


def test_every_unusable_annotation_is_named_with_file_ids_and_reason(make_set, caplog):
    made = make_set(10, change=break_annotations)
    dicts, faults = load_dataset(made.name)
    assert [len(record["annotations"]) for record in dicts] == [1, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert [fault.annotation_id for fault in faults] == [2, 3, 4, 5, 6, 7, 8, 9]
    reasons = [
        "has no width",
        "has no height",
        "is outside the image of 24 x 32 pixels",
        "is not finite",
        "is not four numbers",
        "the category 99 is unknown",
        "the annotation's image is unknown",
        "is not four numbers",
    ]
    assert [fault.reason for fault in faults] == reasons
    assert str(faults[0]) == (
        f"image 15 ({made.folder / '1.png'}), annotation 2: box [1, 1, 0, 5]: has no width"
    )
    with caplog.at_level("WARNING", logger="anchorkit"):
        assert DatasetCatalog.get(made.name) == dicts
    assert len(caplog.records) == 1
    assert "dropped 8 unusable annotations" in caplog.text and "and 5 more" in caplog.text
    with pytest.raises(UserError, match=r"8 unusable annotations: image 15 .*has no width"):
        load_coco_boxes(str(made.json_file), str(made.folder), made.name, strict=True)


def test_a_box_partly_outside_is_kept():
    assert box_fault([-3, -3, 10, 10], 20, 20) is None
    assert box_fault([19.5, 0, 10, 10], 20, 20) is None
    assert box_fault([20, 0, 10, 10], 20, 20) == "is outside the image of 20 x 20 pixels"
    assert box_fault([-10, 0, 10, 10], 20, 20) == "is outside the image of 20 x 20 pixels"
    assert box_fault([True, 0, 10, 10], 20, 20) == "is not four numbers"


def test_invalid_boxes_of_other_sources_are_dropped_and_numbered():
    good = {"bbox": [1, 1, 5, 5], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    flat = {"bbox": [3, 1, 3, 5], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    record = {"file_name": "a.jpg", "image_id": "a", "width": 9, "height": 9}
    dicts = [{**record, "annotations": [good, flat]}, {**record, "annotations": [good]}]
    kept, faults = drop_invalid_boxes(dicts)
    assert [entry["annotations"] for entry in kept] == [[good], [good]]
    assert dicts[0]["annotations"] == [good, flat]
    assert [str(fault) for fault in faults] == [
        "image a (a.jpg), annotation 2: box [3, 1, 3, 5]: has no width"
    ]


def evaluate_own_boxes(made, tmp_path):
    """AP of a detector that gives back every box that was read, with score 1."""
    evaluator = COCOEvaluator(
        made.name, tasks=("bbox",), distributed=False, use_fast_impl=False, output_dir=str(tmp_path)
    )
    evaluator.reset()
    for record in load_dataset(made.name)[0]:
        instances = Instances((record["height"], record["width"]))
        entries = record["annotations"]
        boxes = [[b[0], b[1], b[0] + b[2], b[1] + b[3]] for b in (e["bbox"] for e in entries)]
        instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
        instances.scores = torch.ones(len(boxes))
        instances.pred_classes = torch.tensor([e["category_id"] for e in entries]).long()
        evaluator.process([record], [{"instances": instances}])
    return evaluator.evaluate()["bbox"]["AP"]


def remove_optional_keys(content):
    for annotation in content["annotations"]:
        for key in ("area", "iscrowd", "id"):
            del annotation[key]


def number_from_zero(content):
    for number, annotation in enumerate(content["annotations"]):
        annotation["id"] = number


@pytest.mark.parametrize(
    "change", [None, remove_optional_keys, number_from_zero, break_annotations]
)
def test_perfect_detections_have_an_ap_of_100_whatever_the_file_lacks(make_set, tmp_path, change):
    made = make_set(10, change=change)
    assert evaluate_own_boxes(made, tmp_path / "results") == pytest.approx(100)
    used = MetadataCatalog.get(made.name).json_file
    is_copy = used != str(made.json_file)
    assert is_copy == (change is not None)
    if is_copy:
        assert os.path.dirname(used) == os.path.join(made.cfg.OUTPUT_DIR, "datasets")
    assert json.loads(made.json_file.read_text()).keys() == made.content.keys()


@pytest.mark.parametrize(
    "entry, message",
    [
        (["name", "file.json"], r"list of \[name, json_file, image_folder\]"),
        ("name", r"got the entry 'name'"),
        (["name", 3, "folder"], r"got the entry"),
        (["name", "no_such.json", "."], r"annotation file no_such.json of 'name' does not exist"),
    ],
)
def test_a_wrong_entry_is_one_clear_line(entry, message):
    cfg = load_config("")
    cfg.DATASETS.COCO_FORMAT = [entry]
    with pytest.raises(UserError, match=message) as caught:
        register_coco_format(cfg)
    assert "\n" not in str(caught.value)


def drop_part(part):
    return lambda content: content.pop(part)


@pytest.mark.parametrize(
    "change, message",
    [
        (drop_part("images"), "has no list 'images'"),
        (drop_part("annotations"), "has no list 'annotations'"),
        (lambda c: c.update(categories=[]), "has no categories"),
        (lambda c: c["images"][1].pop("width"), r"images\[1\] needs id, file_name, width, height"),
        (lambda c: c["annotations"][2].pop("image_id"), r"annotations\[2\] needs image_id"),
        (lambda c: c["images"][1].update(id=5), "images have the id 5 twice"),
        (lambda c: c["categories"][0].update(id=[1]), "categories.0. needs id, name; got"),
        (lambda c: c["categories"][0].update(id="7"), "expected whole numbers, or text in all c"),
        (lambda c: c["images"][1].update(width="9"), r"images.1. needs text .* pixels .* '9' and"),
        (lambda c: c["images"][2].update(file_name=4), "images.2. needs text as file_name.* got 4"),
    ],
)
def test_a_file_that_is_not_coco_format_is_one_clear_line(make_set, change, message):
    made = make_set(change=change, register=False)
    with pytest.raises(UserError, match=message) as caught:
        register_coco_format(made.cfg)
    assert str(made.json_file) in str(caught.value) and "\n" not in str(caught.value)
    assert made.name not in DatasetCatalog.keys()


def test_a_file_that_is_no_json_and_a_missing_folder_are_one_clear_line(make_set):
    made = make_set(register=False)
    made.json_file.write_text("{'images':")
    with pytest.raises(UserError, match="is not a JSON file"):
        register_coco_format(made.cfg)
    made.cfg.DATASETS.COCO_FORMAT[0][2] = "no_such_folder"
    with pytest.raises(UserError, match="the image folder no_such_folder"):
        register_coco_format(made.cfg)


def test_sets_used_together_need_the_same_classes(make_set):
    made = make_set()
    other = make_set(change=lambda c: c["categories"][0].update(name="wolf"))
    made.cfg.DATASETS.TEST = (other.name,)
    with pytest.raises(UserError, match="has no 'wolf', .* has no 'dog'") as caught:
        check_classes(made.cfg)
    assert made.name in str(caught.value) and other.name in str(caught.value)
    check_classes(made.cfg, train=False)


def test_num_classes_must_fit_the_data(make_set):
    made = make_set()
    made.cfg.MODEL.NUM_CLASSES = 80
    with pytest.raises(UserError, match="MODEL.NUM_CLASSES is 80, but .* has 2 classes"):
        check_classes(made.cfg)


@pytest.mark.parametrize("name", ["coco_2017_train", "voc_2007_train"])
def test_missing_files_of_known_sets_are_reported_with_their_place(name):
    if os.path.exists(MetadataCatalog.get(name).get("dirname") or "datasets/coco"):
        pytest.skip(f"the files of {name} are on this machine")
    cfg = load_config("")
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (name,), ()
    with pytest.raises(UserError, match=f"{name}: .* does not exist; .*DETECTRON2_DATASETS"):
        check_files(cfg)
    with pytest.raises(UserError, match="does not exist"):
        load_dataset(name)
    check_files(cfg, train=False)


def test_an_unknown_set_is_reported_with_the_nearest_name():
    with pytest.raises(UserError, match="did you mean coco_2017_train"):
        load_dataset("coco_2017_trian")
