"""The predictor, thresholds of the highest F1, and the demo tool."""

import io
import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image
from sklearn.datasets import load_digits

from anchorkit import model_zoo
from anchorkit.data import write_digit_scenes
from anchorkit.data.mapper import build_mapper
from anchorkit.errors import UserError
from anchorkit.evaluation.score_thresholds import best_f1_thresholds
from anchorkit.predictor import Predictor, confident

ROOT = Path(__file__).resolve().parent.parent
DETECTOR = "semi_anchored_retinanet_digit_scenes"
CONFIG = str(ROOT / "configs" / "quick" / f"{DETECTOR}.yaml")
WEIGHTS = ["MODEL.WEIGHTS", str(ROOT / "weights" / f"{DETECTOR}.safetensors")]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """The paths of four scenes."""
    root = tmp_path_factory.mktemp("datasets")
    write_digit_scenes(str(root), num_train=0, num_val=4)
    return sorted(map(str, root.rglob("val/*.png")))


@pytest.fixture(scope="module")
def predict():
    return Predictor.from_zoo(DETECTOR, device="cpu", batch_size=3)


def assert_same(found, wanted):
    assert found.image_size == wanted.image_size and len(found) == len(wanted) > 0
    assert torch.equal(found.pred_classes, wanted.pred_classes)
    torch.testing.assert_close(found.scores, wanted.scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        found.pred_boxes.tensor, wanted.pred_boxes.tensor, rtol=1e-4, atol=1e-2
    )


# --- the predictor ---


def test_predictions_are_those_of_the_test_mapper_and_the_model(predict, scenes):
    mapper = build_mapper(model_zoo.get_config(DETECTOR), is_train=False)
    for path in scenes:
        with torch.inference_mode():
            sample = mapper({"file_name": path})
            wanted = predict.model([sample | {"height": 160, "width": 160}])[0]["instances"]
        assert_same(predict(path), wanted)


def test_a_list_gives_what_its_images_give_alone(predict, scenes):
    found = predict(scenes)
    assert len(found) == 4
    for path, one in zip(scenes, found, strict=True):
        assert_same(one, predict(path))


def test_an_array_is_read_as_cv2_reads_files(predict, scenes):
    assert_same(predict(cv2.imread(scenes[0])), predict(Path(scenes[0])))


def test_boxes_are_in_pixels_of_the_image_as_given(predict, scenes):
    large = cv2.resize(cv2.imread(scenes[0]), (640, 320), interpolation=cv2.INTER_CUBIC)
    found = confident(predict(large), 0.5)
    assert found.image_size == (320, 640) and len(found) > 0
    assert found.pred_boxes.tensor[:, 2].max() > 160


def test_a_config_and_its_weights_give_the_model_of_the_zoo(predict, scenes):
    from anchorkit.config import load_config

    own = Predictor(load_config(CONFIG, [*WEIGHTS, "MODEL.DEVICE", "cpu"]))
    assert own.class_names == list("0123456789")
    assert_same(own(scenes[0]), predict(scenes[0]))


def test_a_config_without_weights_is_told():
    from anchorkit.config import load_config

    with pytest.raises(UserError, match="MODEL.WEIGHTS is empty"):
        Predictor(load_config(CONFIG))


def test_an_image_that_cannot_be_read_is_named(predict, scenes, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    for path, reason in ((broken, "not an image"), (tmp_path / "none.png", "does not exist")):
        with pytest.raises(UserError, match=f"{path.name}.*{reason}"):
            predict(path)
    faults = []
    results = list(predict.stream([broken, scenes[0]], on_fault=faults.append))
    assert [source for source, _ in results] == [scenes[0]]
    assert len(faults) == 1 and "broken.png" in str(faults[0])


@pytest.mark.parametrize(
    "array",
    [np.zeros((8, 8, 3)), np.zeros((8, 8, 4), np.uint8), np.zeros(8, np.uint8)],
    ids=["float", "alpha", "one dimension"],
)
def test_arrays_of_another_kind_are_refused(predict, array):
    with pytest.raises(UserError, match="uint8 of shape"):
        predict(array)


def test_a_classifier_gives_scores_of_gray_images(tmp_path):
    predict = Predictor.from_zoo("oat_digits", device="cpu", batch_size=8)
    digits = load_digits()
    arrays = [(image * 255 / 16).astype(np.uint8) for image in digits.images[:40]]
    best = [int(found["scores"].argmax()) for found in predict(arrays)]
    assert sum(a == b for a, b in zip(best, digits.target.tolist(), strict=False)) >= 32
    path = tmp_path / "digit.png"
    Image.fromarray(arrays[0]).save(path)
    torch.testing.assert_close(predict(path)["outputs"], predict(arrays[0])["outputs"])


# --- thresholds ---


def detections(boxes, scores, classes, size=(100, 100)):
    return Instances(
        size, pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        scores=torch.tensor(scores), pred_classes=torch.tensor(classes, dtype=torch.int64),
    )  # fmt: skip


def test_scores_are_compared_with_the_threshold_of_their_class():
    found = detections([[0, 0, 9, 9]] * 3, [0.5, 0.5, 0.9], [0, 1, 1])
    assert confident(found, 0.5).scores.tolist() == pytest.approx([0.5, 0.5, 0.9])
    assert confident(found, [0.5, 0.6]).pred_classes.tolist() == [0, 1]
    assert len(confident(found, [1.0, 1.0])) == 0


def random_image(rng, num_classes):
    """Objects on a grid, some detected, with scores that have ties, and false detections."""
    boxes = [[20.0 * i, 20.0 * j, 20.0 * i + 15, 20.0 * j + 15] for i in range(5) for j in range(5)]
    chosen = rng.permutation(25)[:12]
    objects = [(boxes[i], int(rng.integers(num_classes - 1))) for i in chosen[:8]]
    found = [(box, c) for box, c in objects if rng.random() < 0.7]
    found += [(boxes[i], int(rng.integers(num_classes - 1))) for i in chosen[8:]]
    scores = (rng.integers(1, 10, len(found)) / 10).tolist()
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": c} for box, c in objects
    ]
    instances = detections([box for box, _ in found], scores, [c for _, c in found])
    return {"annotations": annotations}, instances


@pytest.mark.parametrize("seed", range(3))
def test_no_threshold_has_a_higher_f1(seed):
    rng = np.random.default_rng(seed)
    images = [random_image(rng, 4) for _ in range(6)]
    thresholds, f1 = best_f1_thresholds(images, 4)
    for c in range(3):

        def f1_at(threshold, c=c):
            hits = shown = objects = 0
            for record, found in images:
                truth = [a["bbox"] for a in record["annotations"] if a["category_id"] == c]
                mine = found[(found.pred_classes == c) & (found.scores >= threshold)]
                objects, shown = objects + len(truth), shown + len(mine)
                hits += sum(box in truth for box in mine.pred_boxes.tensor.tolist())
            return 2 * hits / max(1, shown + objects)

        levels = [torch.tensor(k / 10).item() for k in range(1, 11)]
        assert f1[c] == pytest.approx(max(map(f1_at, levels)))
        assert f1_at(thresholds[c]) == pytest.approx(f1[c])
    # A class that nobody has takes the threshold of all classes together.
    assert np.isnan(f1[3]) and 0 < thresholds[3] <= 1


# --- the tool ---


@pytest.fixture
def demo(monkeypatch, capsys):
    tool = runpy.run_path(str(ROOT / "tools" / "demo.py"))

    def run(*arguments, opts=WEIGHTS):
        line = ["demo.py", "--config-file", CONFIG, *map(str, arguments), "--opts", *opts]
        monkeypatch.setattr(sys, "argv", line)
        status = tool["run"]()
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


def test_images_folders_and_videos_are_written_with_their_detections(
    demo, predict, scenes, tmp_path
):
    video = cv2.VideoWriter(
        str(tmp_path / "scenes.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (160, 160)
    )
    for path in scenes[:2]:
        video.write(cv2.imread(path))
    video.release()
    output = tmp_path / "out"
    status, said = demo("--input", Path(scenes[0]).parent, tmp_path / "scenes.mp4",
                        "--output", output, "--confidence", "0.4", "5=1.0")  # fmt: skip
    assert status == 0, said
    predictions = json.loads((output / "predictions.json").read_text())
    of_first = [p for p in predictions if p["image_id"] == 0]
    thresholds = [1.0 if c == 5 else 0.4 for c in range(10)]
    wanted = confident(predict(scenes[0]), thresholds)
    assert [p["score"] for p in of_first] == pytest.approx(wanted.scores.tolist(), abs=1e-4)
    assert [p["category"] for p in of_first] == [str(c) for c in wanted.pred_classes.tolist()]
    x, y, width, height = of_first[0]["bbox"]
    box = [x, y, x + width, y + height]
    assert box == pytest.approx(wanted.pred_boxes.tensor[0].tolist(), abs=0.05)
    assert {p["image_id"] for p in predictions if "frame" in p} <= {4, 5}
    assert {p["frame"] for p in predictions if "frame" in p} == {0, 1}
    pictures = sorted(output.glob("*.png"))
    assert len(pictures) == 4 and Image.open(pictures[0]).size == (480, 480)
    assert cv2.VideoCapture(str(output / "000004_scenes.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 2


def test_broken_files_are_skipped_by_name(demo, scenes, tmp_path, monkeypatch):
    (tmp_path / "broken.png").write_bytes(b"")
    names = f"{tmp_path / 'broken.png'}\n{scenes[0]}\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(names))
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    output = tmp_path / "out"
    status, said = demo("--input", "-", tmp_path / "broken.mp4", "--output", output,
                        "--no-pictures")  # fmt: skip
    assert status == 1
    assert "broken.png: the file is empty" in said and "broken.mp4: cannot be opened" in said
    predictions = json.loads((output / "predictions.json").read_text())
    assert predictions and {p["file_name"] for p in predictions} == {scenes[0]}
    assert [path.name for path in output.iterdir()] == ["predictions.json"]


def test_an_interrupted_video_keeps_what_was_found(demo, scenes, tmp_path, monkeypatch):
    class Interrupted:
        """A video of two frames, then Ctrl-C."""

        def __init__(self, _source):
            self.frames = [cv2.imread(path) for path in scenes[:2]]

        def read(self):
            if not self.frames:
                raise KeyboardInterrupt
            return True, self.frames.pop(0)

        def isOpened(self):
            return True

        def get(self, _property):
            return 0.0

        def release(self):
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Interrupted)
    (tmp_path / "film.mp4").touch()
    status, said = demo("--input", tmp_path / "film.mp4", "--output", tmp_path, "--no-pictures")
    assert status == 130 and "interrupted" in said
    predictions = json.loads((tmp_path / "predictions.json").read_text())
    assert {entry["frame"] for entry in predictions} == {0, 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "nowhere.png"], "nowhere.png: there is no such file"),
        (["--input", "configs"], "the folder has no images"),
        (["--input", "README.md", "--confidence", "1.5"], "expected a score"),
        (["--input", "README.md", "--confidence", "cat=0.5"], "no class 'cat'"),
        (["--input", "README.md", "--batch-size", "0"], "at least 1"),
    ],
)
def test_mistakes_in_the_command_line_are_told(demo, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(ROOT)
    status, said = demo(*arguments, "--output", tmp_path)
    assert status == 2 and message in said and len(said.splitlines()) == 1


def test_the_thresholds_with_the_highest_f1_are_used(demo, scenes, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(Path(scenes[0]).parents[2]))
    status, said = demo("--input", scenes[0], "--output", tmp_path, "--no-pictures",
                        "--confidence", "best-f1")  # fmt: skip
    assert status == 0 and "highest F1 on digit_scenes_val" in said
    assert said.count("(F1 ") == 10
