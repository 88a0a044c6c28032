"""Reading result files: what is taken, and what is refused with which message."""

import json

import pytest

from anchorkit.errors import UserError
from anchorkit.evaluation.coco_results import read_results
from tests.reference.coco_sets import coco_set, result

BOX = (0, 0, 20, 20)
GOOD = result(1, 2, BOX, 0.5)
TRUTH = coco_set([(0, 0, BOX)])


@pytest.fixture
def read(tmp_path):
    def read(content):
        path = tmp_path / "results.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_results(str(path), TRUTH)

    return read


def test_results_of_an_evaluation_are_taken_as_they_are(read):
    assert read([GOOD, {**GOOD, "segmentation": [1]}]) == [GOOD, GOOD]


def test_the_demos_results_are_found_by_their_files_and_class_names(read):
    entry = {**GOOD, "image_id": 17, "category_id": 2, "category": "bird"}
    for path in ("images/1.png", "/data/mine/images/1.png", "./images/1.png"):
        assert read([{**entry, "file_name": path}]) == [GOOD]
    with pytest.raises(UserError, match="no images 'elsewhere/1.png'"):
        read([{**entry, "file_name": "elsewhere/1.png"}])
    with pytest.raises(UserError, match="no categories 'cow'"):
        read([{**entry, "file_name": "images/1.png", "category": "cow"}])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "is not JSON"),
        ({"images": []}, "holds a dict, not a list"),
        ([], "the list is empty"),
        ([GOOD, 3], "entry 1: expected image_id"),
        ([{**GOOD, "bbox": [1, 2, 3]}], "entry 0: expected"),
        ([{**GOOD, "score": None}], "entry 0: expected"),
        ('[{"image_id": 0, "category_id": 3, "bbox": [0, 0, 1, 1], "score": NaN}]', "entry 0"),
        ([GOOD, {**GOOD, "image_id": 77}, {**GOOD, "image_id": 78}], "no images '77', '78'"),
        ([{key: GOOD[key] for key in ("bbox", "score")}], "no images 'None'"),
        ([{**GOOD, "image_id": [1]}], r"no images '\[1\]'"),
        ([{**GOOD, "category_id": 2}], "no categories '2'"),
    ],
)
def test_what_is_wrong_is_told(read, content, message):
    with pytest.raises(UserError, match=message):
        read(content)


def test_a_missing_file_is_told_with_where_results_are():
    with pytest.raises(UserError, match="none.json: cannot be read: No such file.*inference/"):
        read_results("none.json", TRUTH)
