import logging

import pytest
from PIL import Image

from anchorkit.data import check, check_datasets
from anchorkit.data.image_files import EXIF_ORIENTATION, header_fault, read_fault
from anchorkit.errors import UserError


def fill(content):
    """Image 5 gets boxes of all sizes, one of them sticking out; image 15 loses its box."""
    content["images"][0].update(width=200, height=200)
    content["annotations"][1]["image_id"] = 5
    for number, side in enumerate((40, 95, 120)):
        box = {"bbox": [90, 90, side, side], "area": side**2, "iscrowd": 0, "id": 100 + number}
        content["annotations"].append({**box, "image_id": 5, "category_id": 3})
    crowd = {"bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 1, "id": 200}
    content["annotations"].append({**crowd, "image_id": 15, "category_id": 3})


def test_the_summary_counts_what_is_there(make_set):
    made = make_set(4, change=fill)
    result = check_datasets(made.cfg)
    (summary,) = result.summaries
    result.image_check.join()
    assert (summary.num_images, summary.num_boxes, summary.num_without_boxes) == (4, 7, 1)
    assert (summary.num_crowds, summary.num_clipped) == (1, 1)
    assert dict(summary.sizes) == {"small": 4, "medium": 2, "large": 1}
    assert dict(summary.classes) == {0: 5, 1: 2}
    assert summary.faults == []


def test_one_table_is_logged_for_all_sets(make_set, caplog):
    made, other = make_set(4, change=fill), make_set(6)
    made.cfg.DATASETS.TEST = (other.name,)
    with caplog.at_level(logging.INFO, logger="anchorkit"):
        check_datasets(made.cfg).image_check.join()
    (table,) = [r.getMessage() for r in caplog.records if "images without boxes" in r.getMessage()]
    rows = {
        cells[0].strip(): [cell.strip() for cell in cells[1:]]
        for cells in (line.strip("|").split("|") for line in table.splitlines()[1:])
    }
    assert rows[""] == [made.name, other.name]
    assert rows["images"] == ["4", "6"]
    assert rows["boxes"] == ["7", "6"]
    assert rows["boxes of cat"] == ["5", "3"]
    assert rows["boxes of dog"] == ["2", "3"]
    assert rows["small boxes (side below 32 px)"] == ["57.1 %", "100.0 %"]


def flatten_boxes(content):
    for annotation in content["annotations"][1:4]:
        annotation["bbox"][2] = 0


def test_every_unusable_annotation_is_named_and_strict_stops(make_set, caplog, monkeypatch):
    made = make_set(6, change=flatten_boxes)
    with caplog.at_level(logging.INFO, logger="anchorkit"):
        check_datasets(made.cfg).image_check.join()
    for number in (2, 3, 4):
        assert f"annotation {number}: box" in caplog.text
    monkeypatch.setattr(check, "MAX_LOGGED", 1)
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="anchorkit"):
        check_datasets(made.cfg).image_check.join()
    assert "and 2 more" in caplog.text
    with open(f"{made.cfg.OUTPUT_DIR}/unusable_annotations.txt", encoding="utf-8") as file:
        assert len(file.readlines()) == 3
    made.cfg.DATASETS.STRICT = True
    with pytest.raises(UserError, match="3 unusable annotations: .*1.png.*DATASETS.STRICT"):
        check_datasets(made.cfg)


def test_the_check_can_be_switched_off(make_set):
    made = make_set(change=flatten_boxes)
    made.cfg.DATASETS.CHECK, made.cfg.DATASETS.STRICT = False, True
    assert check_datasets(made.cfg) is None


@pytest.mark.parametrize("full_decode_limit", [0, 100])
def test_missing_and_broken_files_are_named_from_the_background(
    make_set, caplog, monkeypatch, full_decode_limit
):
    monkeypatch.setattr(check, "FULL_DECODE_LIMIT", full_decode_limit)
    made = make_set(6)
    (made.folder / "0.png").write_bytes((made.folder / "0.png").read_bytes()[:200])
    (made.folder / "1.png").write_bytes(b"")
    (made.folder / "2.png").unlink()
    Image.new("RGB", (50, 50)).save(made.folder / "3.png")
    with caplog.at_level(logging.INFO, logger="anchorkit"):
        image_check = check_datasets(made.cfg).image_check
        image_check.join()
    assert [fault.image_id for fault in image_check.faults] == [5, 15, 25, 35]
    for number in range(4):
        assert f"image {10 * number + 5} ({made.folder / f'{number}.png'})" in caplog.text
    assert "read 6 image files, 4 missing or broken" in caplog.text
    assert image_check.daemon


def test_turned_jpegs_are_measured_as_they_are_read(tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    Image.effect_noise((30, 20), 50).convert("RGB").save(path, exif=exif)
    for width, height, is_fine in ((20, 30, True), (30, 20, False)):
        record = {"file_name": str(path), "width": width, "height": height}
        assert (header_fault(record) is None) == is_fine
        assert (read_fault(record) is None) == is_fine
    path.write_bytes(path.read_bytes()[:-100])
    assert header_fault({"file_name": str(path)}) == "the file is truncated"
