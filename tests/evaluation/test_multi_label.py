"""Figures and files of multi-label outputs against loops, whatever the batches and the ranks."""

import csv
import json
import math
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from PIL import Image
from torch import nn

from anchorkit.checkpoint import Checkpointer, read_checkpoint
from anchorkit.classification import BinaryCrossEntropy
from anchorkit.config import load_config
from anchorkit.data.image_set import ImageBatch, load_image_set
from anchorkit.errors import UserError
from anchorkit.evaluation import MultiLabelEvaluator, build_evaluator, evaluate, write_tables
from anchorkit.evaluation.confidence import confidence_map, read_confidence
from anchorkit.hooks import Evaluation
from tests.reference import multi_label as oracle

FILES = {"predictions.csv", "confidence.json", "confidence.png", "outputs.npz"}


def random_set(seed, num_images=40, num_classes=6, levels=None, values=(-1, 0, 0, 0, 1)):
    """Outputs (N, K), of few different values if ``levels`` is given, and labels (N, K)."""
    generator = torch.Generator().manual_seed(seed)
    outputs = 2 * torch.randn(num_images, num_classes, generator=generator)
    if levels is not None:
        outputs = torch.randint(levels, outputs.shape, generator=generator) - levels / 2 + 0.25
    chosen = torch.randint(len(values), outputs.shape, generator=generator)
    return outputs, torch.tensor(values, dtype=torch.int8)[chosen]


def names_of(num_classes):
    return [f"class {index}" for index in range(num_classes)]


def evaluator_of(num_classes, folder=None, **more):
    more = {"class_names": names_of(num_classes), **more}
    return MultiLabelEvaluator("small_test", folder and str(folder), **more)


def feed(evaluator, outputs, labels, order, size):
    """Process the images in this order, in batches."""
    names = [f"image {index}" for index in range(len(labels))]
    for index in torch.as_tensor(order, dtype=torch.int64).split(size):
        images = torch.zeros(len(index), 1, 2, 2, dtype=torch.uint8)
        evaluator.process(ImageBatch(images, labels[index], index, names), outputs[index])


def figures_of(outputs, labels, order=None, size=8, folder=None, **more):
    evaluator = evaluator_of(outputs.shape[1], folder, **more)
    feed(evaluator, outputs, labels, range(len(labels)) if order is None else order, size)
    return evaluator.evaluate()["multi_label"]


def close(expected):
    return pytest.approx(expected, nan_ok=True, abs=1e-5)


@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize("num_classes", [1, 2, 3, 4, 12])
def test_figures_and_files_are_those_of_the_loops(num_classes, levels, tmp_path):
    outputs, labels = random_set(num_classes, 60, num_classes, levels)
    if num_classes > 2:
        labels[:, 1] = labels[:, 1].clamp(max=0)
    rows, truth = outputs.tolist(), labels.tolist()
    figures = figures_of(outputs, labels, folder=tmp_path)
    expected = oracle.figures(rows, truth, names_of(num_classes))
    assert figures == close(expected) and set(figures) == set(expected)
    assert {"mAP", "mAP_single", "acc1_single"} <= set(figures)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    classes, confidence = read_confidence(str(tmp_path / "confidence.json"))
    assert classes == names_of(num_classes)
    wanted = np.array(oracle.confidence(rows, truth), dtype=float)
    assert confidence.numpy() == pytest.approx(wanted, nan_ok=True)
    if num_classes > 2:
        assert np.isnan(wanted[1]).all() and not np.isnan(wanted).all()
        content = json.loads((tmp_path / "confidence.json").read_text())
        assert content["confidence"][1] == [None] * num_classes
    with Image.open(tmp_path / "confidence.png") as picture:
        assert picture.mode == "RGB" and min(picture.size) > 100


def test_the_rows_of_predictions_and_outputs_are_the_images_by_id(tmp_path):
    outputs, labels = random_set(3, 11, 4)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(1))
    figures_of(outputs, labels, order=order, size=4, folder=tmp_path, draws=False)
    assert {path.name for path in tmp_path.iterdir()} == FILES - {"confidence.png"}
    with open(tmp_path / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for index, row in enumerate(rows):
        assert row["image_id"] == str(index) and row["name"] == f"image {index}"
        for key, is_in in (("labels", labels[index] == 1), ("not_known", labels[index] == -1),
                           ("predictions", outputs[index] > 0)):  # fmt: skip
            assert row[key] == "; ".join(f"class {k}" for k in range(4) if is_in[k])
        for k in range(4):
            expected = oracle.sigmoid(float(outputs[index, k]))
            assert float(row[f"class {k}"]) == pytest.approx(expected, abs=6e-5)
    assert len(rows) == 11
    with np.load(tmp_path / "outputs.npz") as saved:
        assert (saved["outputs"] == outputs.numpy()).all() and saved["outputs"].dtype == np.float32
        assert (saved["labels"] == labels.numpy()).all() and saved["labels"].dtype == np.int8
        assert saved["image_ids"].tolist() == list(range(11))


def in_ranks(parts, outputs, labels, monkeypatch):
    """Figures when each rank sees one of the parts (lists of image ids)."""
    evaluators = [evaluator_of(outputs.shape[1]) for _ in parts]
    for evaluator, part in zip(evaluators, parts, strict=True):
        if part:
            feed(evaluator, outputs, labels, part, 8)
    sent = []
    with monkeypatch.context() as patch:
        patch.setattr(comm, "gather", lambda data, dst: sent.append(data) or [])
        patch.setattr(comm, "is_main_process", lambda: False)
        for evaluator in evaluators[1:]:
            assert evaluator.evaluate() is None
    with monkeypatch.context() as patch:
        patch.setattr(comm, "gather", lambda data, dst: [data, *sent])
        return evaluators[0].evaluate()["multi_label"]


@pytest.mark.parametrize("seed", range(3))
def test_order_batches_and_ranks_play_no_part(seed, monkeypatch):
    outputs, labels = random_set(seed, 41, 6, levels=4)
    expected = pytest.approx(figures_of(outputs, labels, size=41), abs=0, rel=0, nan_ok=True)
    order = torch.randperm(41, generator=torch.Generator().manual_seed(seed)).tolist()
    by_class = labels[:, 0].argsort().tolist()
    for other, size in ((order, 1), (by_class, 16), (range(40, -1, -1), 41)):
        assert figures_of(outputs, labels, order=other, size=size) == expected
    for parts in (
        (order[:20], order[20:]),
        (order[0::2], order[1::2] + order[:1]),  # padded to the same length
        ([], order),
        (order[0::3], order[1::3], order[2::3]),
    ):
        assert in_ranks(parts, outputs, labels, monkeypatch) == expected


def test_dicts_of_detectron2_give_the_same_figures(tmp_path):
    outputs, labels = random_set(2, 15, 5, values=(0, 0, 1))
    labels[4] = 0
    expected = figures_of(outputs.half().float(), labels)
    evaluator = evaluator_of(5, tmp_path)
    for index in reversed(range(15)):
        image = {"image_id": f"v_{index:02}", "gt_classes": (labels[index] == 1).nonzero()[:, 0]}
        if index:
            image["file_name"] = f"images/{index}.jpg"
        evaluator.process([image], [{"outputs": outputs[index].half()}])
    exact = pytest.approx(expected, rel=0, abs=0, nan_ok=True)
    assert evaluator.evaluate()["multi_label"] == exact
    with open(tmp_path / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows[:2]] == ["v_00", "images/1.jpg"]
    assert rows[4]["labels"] == "" and rows[4]["not_known"] == ""


def test_images_of_one_class_each_are_ranked_once():
    outputs, _ = random_set(0, 30, 5)
    labels = torch.eye(5, dtype=torch.int8)[torch.arange(30) % 5]
    figures = figures_of(outputs, labels)
    assert {"mAP", "acc1_single", "diagonal_confidence"} <= set(figures)
    assert not [key for key in figures if key.startswith(("mAP_single", "AP_single"))]
    assert figures == close(oracle.figures(outputs.tolist(), labels.tolist(), names_of(5)))


def test_without_images_of_one_class_there_are_no_figures_of_them(tmp_path):
    outputs, labels = random_set(0, 30, 5)
    labels[:, :2] = 1
    figures = figures_of(outputs, labels, folder=tmp_path)
    assert not [key for key in figures if "single" in key or "confidence" in key]
    assert {path.name for path in tmp_path.iterdir()} == {"predictions.csv", "outputs.npz"}
    assert figures == close(oracle.figures(outputs.tolist(), labels.tolist(), names_of(5)))


def test_a_class_that_is_not_known_does_not_make_an_image_one_of_several():
    labels = torch.tensor([[1, -1, 0], [-1, 1, 1], [0, -1, -1]], dtype=torch.int8)
    outputs = torch.tensor([[1.0, 9, 0], [1, 1, 1], [1, 1, 1]])
    figures = figures_of(outputs, labels)
    # Of the first image, class 1 is not known: it is neither wrong nor too sure.
    assert figures["acc1_single"] == 100
    assert figures["diagonal_confidence"] == pytest.approx(100 * oracle.sigmoid(1.0))
    assert figures["off_diagonal_confidence"] == pytest.approx(50)
    confidence = confidence_map(outputs.sigmoid(), labels)
    assert confidence.isnan().tolist() == [[False, True, False], [True] * 3, [True] * 3]


def test_classes_without_positives_are_left_out_of_the_mean_and_named(caplog):
    outputs, labels = random_set(1, 40, 4)
    labels[:, 2] = labels[:, 2].clamp(max=0)
    labels[(labels == 1).sum(dim=1) == 1, 0] = 0
    figures = figures_of(outputs, labels)
    assert (figures["num_classes_ranked"], figures["num_classes_ranked_single"]) == (3, 2)
    assert math.isnan(figures["AP-class 2"]) and math.isnan(figures["AP_single-class 0"])
    per_class = [figures[f"AP-class {index}"] for index in (0, 1, 3)]
    assert figures["mAP"] == pytest.approx(sum(per_class) / 3)
    assert "small_test: no image has 'class 2'; mAP is the mean over the other 3 of 4" in (
        caplog.text
    )
    assert "no single-label image has 'class 0', 'class 2'; mAP_single" in caplog.text
    assert figures == close(oracle.figures(outputs.tolist(), labels.tolist(), names_of(4)))


def test_nothing_at_all_to_find_has_no_mean():
    figures = figures_of(torch.randn(4, 3), torch.zeros(4, 3, dtype=torch.int8))
    assert figures == close(
        {"num_classes_ranked": 0, **{f"AP-class {index}": math.nan for index in range(3)}}
    )


def test_no_images_give_no_figures_and_a_warning(caplog, tmp_path):
    assert evaluator_of(3, tmp_path).evaluate() == {"multi_label": {}}
    assert "small_test: no images were evaluated" in caplog.text
    assert not list(tmp_path.iterdir())


def test_the_table_has_a_row_for_each_class_and_a_column_for_each_kind_of_images(tmp_path):
    outputs, labels = random_set(1, 40, 3, values=(0, 0, 1))
    figures = figures_of(outputs, labels)
    with open(write_tables({"small_test": {"multi_label": figures}}, str(tmp_path))) as file:
        text = file.read()
    assert "| multi_label | mAP | mAP_11point | mAP_single | CP |" in text
    assert "| class | AP | AP_single |" in text
    assert f"| class 1 | {figures['AP-class 1']:.2f} | {figures['AP_single-class 1']:.2f} |" in text


def test_the_best_checkpoint_is_kept_by_the_mean(tmp_path):
    outputs, labels = random_set(1, 40, 3)
    evaluator = evaluator_of(3)
    feed(evaluator, outputs, labels, range(40), 8)
    checkpointer = Checkpointer(nn.Linear(1, 1), str(tmp_path))
    hook = Evaluation(1, evaluator.evaluate, checkpointer, "multi_label/mAP")
    with EventStorage() as storage:
        hook.trainer = types.SimpleNamespace(storage=storage, start_iter=0, iter=0, max_iter=1)
        hook.before_train()
        hook.after_step()
        logged = storage.latest()["multi_label/off_diagonal_confidence"][0]
    figures = evaluator.evaluate()["multi_label"]
    best = read_checkpoint(str(tmp_path / "model_best.pth"))["best"]
    assert (best["metric"], best["value"]) == ("multi_label/mAP", figures["mAP"])
    assert logged == pytest.approx(figures["off_diagonal_confidence"])


def test_the_evaluator_is_built_by_the_kind_of_the_data_set(tmp_path):
    name = "multi_label_evaluator_test"
    MetadataCatalog.get(name).set(evaluator_type="multi_label", thing_classes=["cat", "dog"])
    model = types.SimpleNamespace(method=BinaryCrossEntropy())
    evaluator = build_evaluator(None, name, str(tmp_path), model=model)
    assert isinstance(evaluator, MultiLabelEvaluator)
    assert evaluator.class_names == ["cat", "dog"] and not evaluator.draws
    with pytest.raises(UserError, match=f"{name} .* got NoneType"):
        build_evaluator(None, name, str(tmp_path))


def test_a_classifier_of_a_config_is_evaluated_on_composed_images(tmp_path):
    quick = Path(__file__).resolve().parents[2] / "configs" / "quick" / "Base-digits.yaml"
    cfg = load_config(
        str(quick),
        ["MODEL.CLASSIFIER.METHOD", "indeed", "MODEL.NUM_CLASSES", "10", "INPUT.FIXED_SIZE", "24",
         "DATASETS.TEST", "('ml_digits_3_test',)", "OUTPUT_DIR", str(tmp_path)],
    )  # fmt: skip
    images = load_image_set("ml_digits_3_test")
    model = build_model(cfg).eval()
    figures = evaluate(cfg, model)["ml_digits_3_test"]["multi_label"]
    with np.load(tmp_path / "inference" / "ml_digits_3_test" / "outputs.npz") as saved:
        assert (saved["labels"] == images.labels.numpy()).all()
        rows = saved["outputs"].tolist()
    expected = oracle.figures(rows, images.labels.tolist(), [str(index) for index in range(10)])
    assert figures == close(expected) and "mAP_single" not in figures


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_outputs_that_are_not_finite_are_counted_and_named(bad, tmp_path):
    outputs, labels = random_set(6, 20)
    outputs[5, 2] = outputs[13, 0] = bad
    message = r"small_test: the outputs of 2 of 20 images are not finite, first .* image 5: .*LR"
    with pytest.raises(UserError, match=message):
        figures_of(outputs, labels, order=range(19, -1, -1), folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_mistake_in_the_data_is_told():
    outputs, labels = random_set(0, 4, 3, values=(0, 1))
    for wrong in (labels[:, 0].long(), labels[:, :2], labels.float()):
        with pytest.raises(UserError, match=r"torch.int8 labels of shape \(4, 3\), got torch\."):
            figures_of(outputs, wrong)
    with pytest.raises(UserError, match="shape 4 x 3 for 4 images of 3 classes, got 4 x 2"):
        feed(evaluator_of(3), outputs[:, :2], labels, range(4), 4)
    labels[2, 1] = 2
    with pytest.raises(UserError, match="labels 1, 0 or -1, got 2 for class 'class 1' of image 2"):
        figures_of(outputs, labels)
    for classes in ([0, 3], [-1]):
        image = {"image_id": 9, "gt_classes": classes}
        with pytest.raises(UserError, match=f"image 9: .*from 0 to 2, got {classes[-1]}"):
            evaluator_of(3).process([image], [{"outputs": outputs[0]}])
    with pytest.raises(UserError, match="image 9: no 'gt_classes'"):
        evaluator_of(3).process([{"image_id": 9}], [{"outputs": outputs[0]}])
    evaluator = evaluator_of(3)
    for classes in ([0], [0, 2]):
        image = {"image_id": 9, "gt_classes": classes}
        evaluator.process([image], [{"outputs": outputs[0]}])
    with pytest.raises(UserError, match="id 9 came with the labels 0 and 1 of class 'class 2'"):
        evaluator.evaluate()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected a confidence.json"),
        ("{", "expected a confidence.json"),
        ('{"classes": ["a"]}', "expected a confidence.json"),
        ('{"classes": ["a"], "confidence": [["x"]]}', "expected a confidence.json"),
        ('{"classes": ["a", "b"], "confidence": [[1, 0]]}', "of 2 classes, got 1 x 2"),
        ('{"classes": [], "confidence": []}', "of 0 classes, got 0"),
    ],
)
def test_a_file_that_holds_no_confidence_is_told(content, message, tmp_path):
    path = tmp_path / "confidence.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=f"confidence.json: .*{message}"):
        read_confidence(str(path))
