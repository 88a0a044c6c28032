"""A classifier's accuracies against loops, whatever the loader, the batches and the ranks are."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from detectron2.utils import comm
from PIL import Image

from anchorkit.classification import ClassificationMethod, CrossEntropy
from anchorkit.data.image_set import ImageBatch
from anchorkit.errors import UserError
from anchorkit.evaluation import ClassificationEvaluator
from anchorkit.evaluation.accuracy import confusion_counts, highest_class, label_ranks
from tests.reference import classification as oracle

FILES = {"predictions.csv", "confusion.json", "confusion.png", "outputs.npz"}


def random_set(seed, num_images=40, num_classes=7, levels=None):
    """Outputs (N, K), of few different values if ``levels`` is given, and labels (N,)."""
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(num_images, num_classes, generator=generator)
    if levels is not None:
        outputs = torch.randint(levels, outputs.shape, generator=generator).float()
    return outputs, torch.randint(num_classes, (num_images,), generator=generator)


def names_of(num_classes):
    return [f"class {index}" for index in range(num_classes)]


def batches(outputs, labels, order, size):
    """The images in this order, cut into batches, as inputs and outputs of a model."""
    names = [f"image {index}" for index in range(len(labels))]
    for index in torch.as_tensor(order).split(size):
        images = torch.zeros(len(index), 1, 2, 2, dtype=torch.uint8)
        yield ImageBatch(images, labels[index], index, names), outputs[index]


def evaluator_of(num_classes, folder=None, method=None, names=None):
    return ClassificationEvaluator(
        "small_test", method or CrossEntropy(), folder and str(folder),
        class_names=names or names_of(num_classes),
    )  # fmt: skip


def figures_of(outputs, labels, order=None, size=8, **more):
    evaluator = evaluator_of(outputs.shape[1], **more)
    order = range(len(labels)) if order is None else order
    for inputs, raw in batches(outputs, labels, order, size):
        evaluator.process(inputs, raw)
    return evaluator.evaluate()["classification"]


class NeighbourMethod(ClassificationMethod):
    """Decodes an image with the others of its chunk, in several permutations: order matters."""

    def scores(self, outputs):
        return outputs.softmax(dim=1)

    def decodings(self, outputs):
        def decoded(order):
            chunks = [outputs[index] - outputs[index].mean(0) for index in order.split(3)]
            return torch.cat(chunks)[order.argsort()]

        generator = torch.Generator().manual_seed(0)
        orders = [torch.randperm(len(outputs), generator=generator) for _ in range(4)]
        return {
            "": outputs,
            "flipped": -outputs,
            "batch": torch.stack([decoded(order) for order in orders]),
        }


@pytest.mark.parametrize("levels", [None, 2, 1])
@pytest.mark.parametrize("num_classes", [1, 2, 5, 6, 7, 30])
def test_figures_and_files_are_those_of_the_loops(num_classes, levels, tmp_path):
    outputs, labels = random_set(num_classes, 60, num_classes, levels)
    figures = figures_of(outputs, labels, folder=tmp_path)
    rows, truth = outputs.tolist(), labels.tolist()
    expected = {"acc1": oracle.accuracy(rows, truth)}
    if num_classes > 5:
        expected["acc5"] = oracle.accuracy(rows, truth, 5)
    per_class = oracle.class_accuracies(rows, truth, num_classes)
    present = [value for value in per_class if value is not None]
    expected["mean_class_acc"] = sum(present) / len(present)
    for name, value in zip(names_of(num_classes), per_class, strict=True):
        expected[f"acc-{name}"] = math.nan if value is None else value
    assert figures == pytest.approx(expected, nan_ok=True)
    assert list(figures) == list(expected)

    assert {path.name for path in tmp_path.iterdir()} == FILES
    confusion = json.loads((tmp_path / "confusion.json").read_text())
    assert confusion["counts"] == oracle.confusion(rows, truth, num_classes)
    assert confusion["classes"] == names_of(num_classes)
    with Image.open(tmp_path / "confusion.png") as picture:
        assert picture.mode == "RGB" and min(picture.size) > 100


def test_the_rows_of_predictions_and_outputs_are_the_images_by_id(tmp_path):
    outputs, labels = random_set(3, 11)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(1))
    figures_of(outputs, labels, order=order, size=4, folder=tmp_path)
    with open(tmp_path / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    probabilities = outputs.softmax(1)
    for index, row in enumerate(rows):
        predicted = oracle.ranking(outputs[index].tolist())[0]
        assert row["image_id"] == str(index) and row["name"] == f"image {index}"
        assert row["label"] == f"class {labels[index]}"
        assert row["prediction"] == f"class {predicted}"
        assert float(row["probability"]) == pytest.approx(
            probabilities[index, predicted].item(), abs=1e-6
        )
        assert row["correct"] == str(int(predicted == labels[index]))
    assert len(rows) == 11
    with np.load(tmp_path / "outputs.npz") as saved:
        assert (saved["outputs"] == outputs.numpy()).all() and saved["outputs"].dtype == np.float32
        assert saved["labels"].tolist() == labels.tolist()
        assert saved["image_ids"].tolist() == list(range(11))


def in_ranks(parts, outputs, labels, size, method, monkeypatch):
    """Figures when each rank sees one of the parts (lists of image ids)."""
    evaluators = [evaluator_of(outputs.shape[1], method=method) for _ in parts]
    for evaluator, part in zip(evaluators, parts, strict=True):
        for inputs, raw in batches(outputs, labels, part, size) if len(part) else ():
            evaluator.process(inputs, raw)
    sent = []
    with monkeypatch.context() as patch:
        patch.setattr(comm, "gather", lambda data, dst: sent.append(data) or [])
        patch.setattr(comm, "is_main_process", lambda: False)
        for evaluator in evaluators[1:]:
            assert evaluator.evaluate() is None
    with monkeypatch.context() as patch:
        patch.setattr(comm, "gather", lambda data, dst: [data, *sent])
        return evaluators[0].evaluate()["classification"]


@pytest.mark.parametrize("seed", range(3))
def test_order_batches_and_ranks_play_no_part(seed, monkeypatch):
    outputs, labels = random_set(seed, 41, 7, levels=6)
    method = NeighbourMethod()
    expected = figures_of(outputs, labels, size=41, method=method)
    order = torch.randperm(41, generator=torch.Generator().manual_seed(seed)).tolist()
    by_class = labels.argsort(stable=True).tolist()
    for other, size in ((order, 1), (order, 7), (by_class, 16), (range(40, -1, -1), 41)):
        assert figures_of(outputs, labels, order=other, size=size, method=method) == expected
    for parts in (
        (order[:20], order[20:]),
        (order[20:], order[:20]),
        (order[0::2], order[1::2] + order[:1]),  # padded to the same length
        (order, []),
        ([], order),
        (order[0::3], order[1::3], order[2::3]),
    ):
        actual = in_ranks(parts, outputs, labels, 8, method, monkeypatch)
        assert actual == expected


def test_further_protocols_are_reported_beside_and_permutations_with_their_range():
    outputs, labels = random_set(5, 50)
    method = NeighbourMethod()
    figures = figures_of(outputs, labels, method=method)
    decodings = method.decodings(outputs)
    each = [oracle.accuracy(rows, labels.tolist()) for rows in decodings["batch"].tolist()]
    assert len(set(each)) > 1
    assert figures["acc1_batch"] == pytest.approx(sum(each) / len(each))
    assert (figures["acc1_batch_min"], figures["acc1_batch_max"]) == (min(each), max(each))
    flipped = oracle.accuracy(decodings["flipped"].tolist(), labels.tolist())
    assert figures["acc1_flipped"] == flipped
    assert figures["acc1"] == oracle.accuracy(outputs.tolist(), labels.tolist())
    assert not {"acc1_flipped_min", "acc5_batch", "acc5_flipped"} & set(figures)


def test_a_further_protocol_that_is_not_a_number_has_no_accuracy():
    class Broken(CrossEntropy):
        def decodings(self, outputs):
            wrong = outputs.clone()
            wrong[3, 2] = math.nan
            return {"": outputs, "running": wrong, "batch": torch.stack([outputs, wrong])}

    outputs, labels = random_set(0)
    figures = figures_of(outputs, labels, method=Broken())
    assert figures["acc1"] == oracle.accuracy(outputs.tolist(), labels.tolist())
    for key in ("acc1_running", "acc1_batch", "acc1_batch_min", "acc1_batch_max"):
        assert math.isnan(figures[key])


def test_of_equal_figures_the_lower_class_comes_first():
    figures = torch.tensor([[1.0, 1, 1], [0, 2, 2], [-0.0, 0.0, -1], [5, 4, 5]])
    assert highest_class(figures).tolist() == [0, 1, 0, 0]
    assert label_ranks(figures, torch.tensor([2, 2, 1, 2])).tolist() == [2, 1, 1, 1]
    assert label_ranks(figures, highest_class(figures)).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("seed", range(4))
def test_ranks_and_highest_classes_are_those_of_a_stable_order(seed):
    figures, labels = random_set(seed, 50, 9, levels=4)
    ranks = [
        oracle.ranking(row).index(label)
        for row, label in zip(figures.tolist(), labels.tolist(), strict=True)
    ]
    assert label_ranks(figures, labels).tolist() == ranks
    highest = highest_class(figures)
    assert highest.tolist() == [oracle.ranking(row)[0] for row in figures.tolist()]
    counts = confusion_counts(labels, highest, 9)
    assert counts.tolist() == oracle.confusion(figures.tolist(), labels.tolist(), 9)


def test_one_image_and_classes_without_images(tmp_path):
    figures = figures_of(torch.tensor([[0.0, 3, 1]]), torch.tensor([1]), folder=tmp_path)
    assert figures["acc1"] == figures["mean_class_acc"] == figures["acc-class 1"] == 100
    assert math.isnan(figures["acc-class 0"]) and math.isnan(figures["acc-class 2"])
    assert "acc5" not in figures


def test_no_images_give_no_figures_and_a_warning(caplog, tmp_path):
    assert evaluator_of(3, tmp_path).evaluate() == {"classification": {}}
    assert "small_test: no images were evaluated" in caplog.text
    assert not list(tmp_path.iterdir())


def test_dicts_of_detectron2_give_the_same_figures(tmp_path):
    outputs, labels = random_set(2, 12)
    expected = figures_of(outputs, labels)
    evaluator = evaluator_of(7, tmp_path)
    for index in reversed(range(12)):
        image = {"image_id": f"v_{index:02}", "gt_classes": [int(labels[index])]}
        if index:
            image["file_name"] = f"images/{index}.jpg"
        evaluator.process([image], [{"outputs": outputs[index].half()}])
    exact = {key: pytest.approx(value, nan_ok=True) for key, value in expected.items()}
    assert evaluator.evaluate()["classification"] == exact
    with open(tmp_path / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image_id"] for row in rows] == [f"v_{index:02}" for index in range(12)]
    assert [row["name"] for row in rows[:2]] == ["v_00", "images/1.jpg"]


def test_numbers_as_ids_are_in_the_order_of_numbers(tmp_path):
    evaluator = evaluator_of(2, tmp_path)
    for image_id in (10, 9, 100):
        image = {"image_id": image_id, "gt_classes": [0]}
        evaluator.process([image], [{"outputs": torch.zeros(2)}])
    evaluator.evaluate()
    with np.load(tmp_path / "outputs.npz") as saved:
        assert saved["image_ids"].tolist() == [9, 10, 100]


def test_outputs_are_kept_although_the_model_writes_over_them():
    outputs, labels = random_set(4, 16)
    evaluator, buffer = evaluator_of(7), torch.empty(8, 7)
    for inputs, raw in batches(outputs, labels, range(16), 8):
        evaluator.process(inputs, buffer.copy_(raw))
    assert evaluator.evaluate()["classification"]["acc1"] == oracle.accuracy(
        outputs.tolist(), labels.tolist()
    )


def test_reset_forgets_what_was_processed():
    outputs, labels = random_set(4, 16)
    evaluator = evaluator_of(7)
    ((inputs, raw),) = batches(outputs, labels, range(16), 16)
    evaluator.process(inputs, -raw)
    evaluator.reset()
    evaluator.process(inputs, raw)
    expected = figures_of(outputs, labels)
    assert evaluator.evaluate()["classification"] == pytest.approx(expected, nan_ok=True)


def test_classes_with_one_name_stay_apart():
    figures = figures_of(torch.eye(3), torch.tensor([0, 1, 1]), names=["crane", "dog", "crane"])
    assert [key for key in figures if "-" in key] == ["acc-crane (0)", "acc-dog", "acc-crane (2)"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_outputs_that_are_not_finite_are_counted_and_named(bad, tmp_path):
    outputs, labels = random_set(6, 20)
    outputs[5, 2] = outputs[13, 0] = bad
    message = r"small_test: the outputs of 2 of 20 images are not finite, first .* image 5: .*LR"
    with pytest.raises(UserError, match=message):
        figures_of(outputs, labels, order=range(19, -1, -1), folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_mistake_in_the_data_is_told():
    outputs, labels = random_set(0, 4)
    labels[2] = 7
    with pytest.raises(UserError, match="labels from 0 to 6, got 7 for image 2"):
        figures_of(outputs, labels)
    labels[2] = -1
    with pytest.raises(UserError, match="got -1 for image 2"):
        figures_of(outputs, labels)
    with pytest.raises(UserError, match="shape 4 x 3 for 4 images of 3 classes, got 4 x 7"):
        figures_of(outputs, labels.clamp(0), names=["a", "b", "c"])
    with pytest.raises(UserError, match=r"class indices, got labels of shape \(4, 7\)"):
        figures_of(outputs, torch.zeros(4, 7))
    image = {"image_id": 9, "gt_classes": [0, 1]}
    with pytest.raises(UserError, match="image 9: expected one class in 'gt_classes', got 2"):
        evaluator_of(7).process([image], [{"outputs": outputs[0]}])
    evaluator = evaluator_of(7)
    for label in (0, 1):
        image = {"image_id": 9, "gt_classes": [label]}
        evaluator.process([image], [{"outputs": outputs[0]}])
    with pytest.raises(UserError, match="image id 9 came with the labels 0 and 1"):
        evaluator.evaluate()
