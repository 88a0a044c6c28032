import os
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from PIL import Image

from anchorkit.data import check_same_classes, class_folders, load_image_set
from anchorkit.data.class_folders import Item, middle_frame, write_class_folders
from anchorkit.data.image_folder import PREPARED_SETS
from anchorkit.errors import UserError

SCRIPTS = Path(__file__).resolve().parents[2] / "datasets"
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a prepare script; gives its exit status, output and errors."""

    def run(kind, *arguments):
        script = SCRIPTS / f"prepare_{kind}.py"
        arguments = [*map(str, arguments), "--root", str(tmp_path / "datasets")]
        monkeypatch.setattr(sys, "argv", [str(script), *arguments])
        monkeypatch.setattr(sys, "path", sys.path[:])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(script), run_name="__main__")
        return stopped.value.code, *capsys.readouterr()

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    yield run
    # Other tests find the sets as before their files were there.
    for name in (f"{kind}_{split}" for kind in PREPARED_SETS for split in ("train", "test")):
        vars(MetadataCatalog.get(name)).pop("thing_classes", None)


def write_video(path, num_frames=9, size=(32, 24)):
    """Frame i is grey with the value 20 * i."""
    path.parent.mkdir(parents=True, exist_ok=True)
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, size)
    assert video.isOpened()
    for number in range(num_frames):
        video.write(np.full((size[1], size[0], 3), 20 * number, dtype=np.uint8))
    video.release()
    return path


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("num_frames, expected", [(1, 0), (2, 1), (8, 4), (9, 4)])
def test_the_middle_frame_is_the_middle_one(tmp_path, num_frames, expected):
    frame = middle_frame(str(write_video(tmp_path / "video.avi", num_frames)))
    assert frame.shape == (24, 32, 3) and abs(frame.mean() - 20 * expected) < 3


@pytest.mark.parametrize("claimed", [0, 2, 30])
def test_a_wrong_number_of_frames_in_the_header_does_not_matter(tmp_path, monkeypatch, claimed):
    class LyingCapture:
        def __init__(self, path):
            self.video = capture(path)

        def __getattr__(self, name):
            return getattr(self.video, name)

        def get(self, prop):
            return float(claimed)

    path = write_video(tmp_path / "video.avi", 9)
    capture = cv2.VideoCapture
    monkeypatch.setattr(class_folders.cv2, "VideoCapture", LyingCapture)
    assert abs(middle_frame(str(path)).mean() - 80) < 3


def test_a_file_that_is_no_video_cannot_be_read(tmp_path):
    (tmp_path / "video.avi").write_bytes(b"RIFF and no more")
    with pytest.raises(OSError, match="no video that OpenCV can read"):
        middle_frame(str(tmp_path / "video.avi"))
    with pytest.raises(FileNotFoundError):
        middle_frame(str(tmp_path / "nothing.avi"))


@pytest.fixture
def ucf101(tmp_path):
    """Two classes with a training and a test video each; the folders of videos and of lists."""
    lists = {"trainlist01.txt": "", "testlist01.txt": ""}
    for number, class_name in enumerate(("Archery", "Biking"), start=1):
        for group, name, label in (("08", "trainlist01.txt", f" {number}"),
                                   ("01", "testlist01.txt", "")):  # fmt: skip
            video = f"{class_name}/v_{class_name}_g{group}_c01.avi"
            write_video(tmp_path / "UCF-101" / video, 2 * number + 1)
            lists[name] += f"{video}{label}\r\n"
    lists["classInd.txt"] = "1 Archery\n2 Biking\n\n"
    (tmp_path / "lists").mkdir()
    for name, text in lists.items():
        (tmp_path / "lists" / name).write_text(text)
    return tmp_path / "UCF-101", tmp_path / "lists"


def test_ucf101_becomes_a_folder_of_middle_frames_that_can_be_loaded(run, ucf101, tmp_path):
    status, output, errors = run("ucf101", *ucf101, "--allow-missing")
    target = tmp_path / "datasets" / "ucf101"
    assert (status, errors) == (0, "")
    assert output.splitlines() == [str(target), "train: 2 images", "test: 2 images"]
    assert files_below(target) == [
        "test/Archery/v_Archery_g01_c01.jpg",
        "test/Biking/v_Biking_g01_c01.jpg",
        "train/Archery/v_Archery_g08_c01.jpg",
        "train/Biking/v_Biking_g08_c01.jpg",
    ]
    assert os.listdir(tmp_path / "datasets") == ["ucf101"]
    train, test = load_image_set("ucf101_train", size=8), load_image_set("ucf101_test", size=8)
    assert train.classes == test.classes
    assert [round(image.float().mean().item() / 20) for image in train.images] == [1, 2]
    status, _, errors = run("ucf101", *ucf101, "--allow-missing")
    assert status == 2 and "ucf101 exists already; remove or rename it" in errors


def test_a_part_of_ucf101_is_refused_unless_it_is_allowed(run, ucf101, tmp_path):
    (ucf101[0] / "Archery" / "v_Archery_g08_c01.avi").unlink()
    status, output, errors = run("ucf101", *ucf101)
    assert status == 2 and output == ""
    missing, error = errors.splitlines()
    assert missing.startswith("missing: ") and missing.endswith("v_Archery_g08_c01.avi")
    assert error == (
        "error: expected 9,537 for train and 3,783 for test in 101 classes, found 1 for train and "
        "2 for test in 2 classes; complete the download, or go on with what is there: "
        "--allow-missing"
    )
    assert not (tmp_path / "datasets").exists()


def test_an_unreadable_video_is_named_and_left_out_only_if_that_is_allowed(
    run, ucf101, tmp_path, monkeypatch
):
    (ucf101[0] / "Biking" / "v_Biking_g01_c01.avi").write_bytes(b"broken")
    status, output, errors = run("ucf101", *ucf101, "--allow-missing")
    assert status == 0 and "train: 2 images\ntest: 1 images" in output
    assert "cannot be read: " in errors and "v_Biking_g01_c01.avi: the file is no video" in errors
    items = [Item("train", "Biking", str(ucf101[0] / "Biking" / name), name)
             for name in ("v_Biking_g08_c01.avi", "v_Biking_g01_c01.avi")]  # fmt: skip
    arguments = dict(counts={"train": 2}, num_classes=1)
    target = tmp_path / "datasets" / "new"
    with pytest.raises(UserError, match="1 of 2 files cannot be read, such as .*g01_c01.avi; get"):
        write_class_folders(str(target), items, class_folders.middle_frame_jpeg, **arguments)
    with pytest.raises(UserError, match="1 of 1 files cannot be read"):
        write_class_folders(str(target), items[1:], class_folders.middle_frame_jpeg,
                            **arguments, allow_missing=True)  # fmt: skip
    assert os.listdir(tmp_path / "datasets") == ["ucf101"]


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("trainlist01.txt", "Archery v_1.avi 1\n", "expected lines such as Class/v_name.avi"),
        ("testlist01.txt", "Chess/v_1.avi\n", "the classes of classInd.txt, got 'Chess/v_1.avi'"),
        ("testlist01.txt", "Archery/../v_1.avi\n", "expected lines such as"),
        ("classInd.txt", None, "classInd.txt cannot be read"),
    ],
)
def test_wrong_split_files_are_one_clear_line(run, ucf101, name, text, message):
    if text is None:
        (ucf101[1] / name).unlink()
    else:
        (ucf101[1] / name).write_text(text)
    status, _, errors = run("ucf101", *ucf101)
    assert status == 2 and errors.startswith("error: ") and errors.count("\n") == 1
    assert message in errors and name in errors


def test_era_becomes_a_folder_of_middle_frames(run, tmp_path):
    for name in ("Train/Fire/a.avi", "Train/Fire/deep/b.AVI", "Test/Fire/a.avi", "Test/Mud/a.avi"):
        write_video(tmp_path / "ERA" / name)
    (tmp_path / "ERA" / "Train" / "Fire" / "._a.avi").touch()
    status, output, errors = run("era", tmp_path / "ERA", "--allow-missing")
    assert (status, errors) == (0, "") and "train: 2 images\ntest: 2 images" in output
    assert files_below(tmp_path / "datasets" / "era") == [
        "test/Fire/a.jpg", "test/Mud/a.jpg", "train/Fire/a.jpg", "train/Fire/deep_b.jpg"
    ]  # fmt: skip
    train, test = load_image_set("era_train", size=8), load_image_set("era_test", size=8)
    with pytest.raises(UserError, match="era_train has no 'Mud'"):
        check_same_classes("era_train", train.classes, "era_test", test.classes)


def test_era_of_other_counts_and_folders_is_one_clear_line(run, tmp_path):
    write_video(tmp_path / "ERA" / "train" / "Fire" / "a.avi")
    status, _, errors = run("era", tmp_path / "ERA")
    assert status == 2 and "has the folders train; expected train and test" in errors
    (tmp_path / "ERA" / "test").mkdir()
    status, _, errors = run("era", tmp_path / "ERA")
    assert status == 2 and "expected 1,473 for train and 1,391 for test in 25 classes" in errors
    status, _, errors = run("era", tmp_path / "nowhere")
    assert status == 2 and errors.startswith("error: videos: ") and errors.count("\n") == 1


def write_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 9), (5, 6, 7)).save(path)
    return path


def test_bar_is_sorted_into_class_folders_from_flat_ones(run, tmp_path):
    names = ("train/pole vaulting_7.jpg", "train/diving_1.jpg", "test/diving_1.jpg",
             "test/pole vaulting_2.jpg")  # fmt: skip
    for name in names:
        write_image(tmp_path / "BAR" / name)
    status, output, errors = run("bar", tmp_path / "BAR", "--allow-missing")
    assert (status, errors) == (0, "") and "train: 2 images\ntest: 2 images" in output
    target = tmp_path / "datasets" / "bar"
    assert files_below(target) == [
        "test/diving/diving_1.jpg",
        "test/pole vaulting/pole vaulting_2.jpg",
        "train/diving/diving_1.jpg",
        "train/pole vaulting/pole vaulting_7.jpg",
    ]
    copy, source = target / "train/diving/diving_1.jpg", tmp_path / "BAR" / "train/diving_1.jpg"
    assert copy.read_bytes() == source.read_bytes()
    assert load_image_set("bar_train", size=8).classes == ("diving", "pole vaulting")


def test_bar_may_come_in_class_folders(run, tmp_path):
    for name in ("train/diving/1.jpg", "test/diving/a/1.png"):
        write_image(tmp_path / "BAR" / name)
    assert run("bar", tmp_path / "BAR", "--allow-missing")[0] == 0
    assert files_below(tmp_path / "datasets" / "bar") == [
        "test/diving/a_1.png", "train/diving/1.jpg"
    ]  # fmt: skip


def test_bar_of_other_counts_or_names_is_one_clear_line(run, tmp_path):
    write_image(tmp_path / "BAR" / "train" / "diving_1.jpg")
    (tmp_path / "BAR" / "test").mkdir()
    status, _, errors = run("bar", tmp_path / "BAR")
    assert status == 2 and "expected 1,941 for train and 654 for test in 6 classes" in errors
    write_image(tmp_path / "BAR" / "train" / "diving.jpg")
    status, _, errors = run("bar", tmp_path / "BAR", "--allow-missing")
    assert status == 2 and "diving.jpg: expected a name such as climbing_12.jpg" in errors


def test_two_sources_of_one_file_and_nothing_at_all_are_refused(tmp_path):
    items = [Item("train", "cat", source, "a_b.jpg") for source in ("a/b.avi", "a_b.avi")]
    arguments = dict(counts={"train": 2}, num_classes=1)
    with pytest.raises(UserError, match="would both become train/cat/a_b.jpg"):
        write_class_folders(str(tmp_path / "set"), items, str.encode, **arguments)
    with pytest.raises(UserError, match="nothing to write"):
        write_class_folders(str(tmp_path / "set"), [], str.encode, **arguments)
    assert os.listdir(tmp_path) == []


def test_an_interrupted_writing_leaves_nothing_behind(tmp_path):
    def stop(source):
        raise KeyboardInterrupt

    items = [Item("train", "cat", "a.avi", "a.jpg")]
    with pytest.raises(KeyboardInterrupt):
        write_class_folders(str(tmp_path / "set"), items, stop, counts={"train": 1}, num_classes=1)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not (SHARED / "BAR").is_dir(), reason="no shared copy of BAR")
def test_the_published_bar_is_whole(run, tmp_path, caplog):
    status, output, errors = run("bar", SHARED / "BAR")
    assert (status, errors) == (0, "") and "train: 1941 images\ntest: 654 images" in output
    test = load_image_set("bar_test", size=32)
    assert test.labels.bincount().tolist() == [105, 159, 42, 131, 132, 85] and not caplog.records
