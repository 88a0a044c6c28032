import gzip
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from sklearn.datasets import load_digits

from anchorkit.data import load_image_set
from anchorkit.data.array_sets import CIFAR10_CLASSES
from anchorkit.errors import UserError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
NUM_PER_BATCH = 4


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def cifar10_batch(number):
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 256, (NUM_PER_BATCH, 3072), dtype=np.uint8)
    return pixels, rng.integers(0, 10, NUM_PER_BATCH)


def cifar10_files():
    return [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def write_cifar10_pickles(root):
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for number, name in enumerate(cifar10_files()):
        pixels, labels = cifar10_batch(number)
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": labels.tolist()}, 2))
    return folder


def write_cifar10_binary(root):
    folder = root / "cifar-10-batches-bin"
    folder.mkdir()
    for number, name in enumerate(cifar10_files()):
        pixels, labels = cifar10_batch(number)
        records = np.concatenate([labels[:, None].astype(np.uint8), pixels], axis=1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    return folder


def idx(magic, array, shape=None):
    header = np.array([magic, *(shape or array.shape)], dtype=">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def write_mnist(root, number=5, pack=False):
    """The four files; returns the test images and labels and the folder."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for prefix in ("train", "t10k"):
        images = rng.integers(0, 256, (number, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, number, dtype=np.uint8)
        for name, content in (
            ("images-idx3", idx(2051, images)), ("labels-idx1", idx(2049, labels))
        ):  # fmt: skip
            path = folder / f"{prefix}-{name}-ubyte{'.gz' if pack else ''}"
            path.write_bytes(gzip.compress(content) if pack else content)
    return images, labels, folder


@pytest.mark.parametrize("write", [write_cifar10_pickles, write_cifar10_binary])
def test_cifar10_is_read_from_both_layouts(root, write, caplog):
    write(root)
    batches = [cifar10_batch(number) for number in range(6)]
    train, test = load_image_set("cifar10_train", size=32), load_image_set("cifar10_test")
    assert train.images.shape == (5 * NUM_PER_BATCH, 3, 32, 32)
    assert train.images.dtype == torch.uint8 and train.labels.dtype == torch.int64
    assert train.images.numpy().tobytes() == b"".join(p.tobytes() for p, _ in batches[:5])
    assert test.images.numpy().tobytes() == batches[5][0].tobytes()
    assert train.labels.tolist() == [label for _, labels in batches[:5] for label in labels]
    assert train.classes == CIFAR10_CLASSES and len(train.classes) == 10
    assert train.image_names[7] == "train 7" and len(train.image_names) == len(train.labels)
    assert "cifar10_train has 20 images; the published set has 50000" in caplog.text
    dicts = DatasetCatalog.get("cifar10_test")
    assert dicts[1] == {"image_id": 1, "file_name": "test 1", "gt_classes": [test.labels[1]]}


def test_an_array_set_is_in_memory_only_once_whatever_size_is_asked_for(root):
    write_cifar10_binary(root)
    small, large = load_image_set("cifar10_test", size=8), load_image_set("cifar10_test", size=99)
    assert small.images.data_ptr() == large.images.data_ptr()
    small.images[0] = 3  # writable, as tensors are


def test_the_classes_of_array_sets_are_known_before_they_are_loaded():
    assert MetadataCatalog.get("cifar10_train").thing_classes == list(CIFAR10_CLASSES)
    assert MetadataCatalog.get("mnist_test").thing_classes == [str(digit) for digit in range(10)]
    assert MetadataCatalog.get("digits_test").evaluator_type == "classification"


def test_a_whole_binary_layout_serves_where_the_pickles_are_not_complete(root):
    (write_cifar10_pickles(root) / "data_batch_3").unlink()
    write_cifar10_binary(root)
    assert len(load_image_set("cifar10_train").labels) == 5 * NUM_PER_BATCH


@pytest.mark.parametrize(
    "name, hint",
    [
        ("cifar10_train", r"cifar-10-batches-py has no file data_batch_1; .*CIFAR10\("),
        ("cifar10_test", r"cifar-10-batches-py has no file test_batch; .*CIFAR10\("),
        ("mnist_train", r"neither .*train-images-idx3-ubyte nor its .gz exists; .*MNIST\("),
    ],
)
def test_missing_files_are_reported_with_their_place_and_the_download(root, name, hint):
    with pytest.raises(UserError, match=hint) as caught:
        load_image_set(name)
    assert str(root) in str(caught.value) and "DETECTRON2_DATASETS" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_one_missing_file_of_a_layout_is_named(root):
    (write_cifar10_binary(root) / "data_batch_4.bin").unlink()
    with pytest.raises(UserError, match="batches-bin has no file data_batch_4.bin"):
        load_image_set("cifar10_train")
    (write_mnist(root)[2] / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match="train-labels-idx1-ubyte nor its .gz exists"):
        load_image_set("mnist_train")


class RunsCode:
    def __reduce__(self):
        return os.system, ("true",)


PIXELS, LABELS = cifar10_batch(0)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "a pickled batch, got EOFError"),
        (pickle.dumps({"data": PIXELS, "labels": [0] * 4})[:200], "a pickled batch"),
        (pickle.dumps(RunsCode()), "refused, it holds the Python object .*system"),
        (pickle.dumps([1, 2]), "an entry 'data' of 3072 bytes"),
        (pickle.dumps({"data": PIXELS[:, :99], "labels": [0] * 4}), "an entry 'data' of 3072"),
        (pickle.dumps({"data": PIXELS * 1.0, "labels": [0] * 4}), "an entry 'data' of 3072"),
        (pickle.dumps({"data": PIXELS}), "4 labels, one for each image"),
        (pickle.dumps({"data": PIXELS, "labels": [0] * 5}), "4 labels"),
        (pickle.dumps({"data": PIXELS, "labels": [[0], [1, 2], 3, 4]}), "4 labels"),
        (pickle.dumps({"data": PIXELS, "labels": ["a"] * 4}), "4 labels"),
        (pickle.dumps({"data": PIXELS, "labels": [0, 10, 3, 4]}), "labels from 0 to 9, got 0 to"),
        (pickle.dumps({"data": PIXELS, "labels": [0, -1, 3, 4]}), "labels from 0 to 9, got -1"),
    ],
)
def test_a_damaged_pickled_batch_is_one_clear_line(root, content, message):
    path = write_cifar10_pickles(root) / "test_batch"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_image_set("cifar10_test")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "a multiple of 3073 bytes, got 0"),
        (bytes(3072), "a multiple of 3073 bytes, got 3072"),
        (bytes([10]) + bytes(3072), "labels from 0 to 9, got 10 to 10"),
    ],
)
def test_a_damaged_binary_batch_is_one_clear_line(root, content, message):
    path = write_cifar10_binary(root) / "test_batch.bin"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_image_set("cifar10_test")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("pack", [False, True])
def test_mnist_is_read_plain_and_packed(root, pack):
    images, labels, _ = write_mnist(root, pack=pack)
    loaded = load_image_set("mnist_test")
    assert loaded.images.shape == (5, 1, 28, 28)
    assert np.array_equal(loaded.images[:, 0].numpy(), images)
    assert loaded.labels.dtype == torch.int64 and loaded.labels.tolist() == labels.tolist()
    assert loaded.classes == tuple("0123456789") and loaded.image_names[4] == "test 4"
    loaded.images[0] = 1


IMAGES = np.zeros((5, 28, 28), dtype=np.uint8)
CUT_SHORT = gzip.compress(idx(2051, np.random.default_rng(0).integers(0, 256, (5, 28, 28))))[:900]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("images-idx3-ubyte", b"\0\0", "a header of 16 bytes, got a file of 2"),
        ("images-idx3-ubyte", idx(2049, IMAGES), "the magic number 2051, got 2049"),
        ("images-idx3-ubyte", idx(2051, IMAGES)[:-1], "data for 5 x 28 x 28, got 3919 bytes"),
        ("images-idx3-ubyte", idx(2051, IMAGES) + b"1", "data for 5 x 28 x 28, got 3921 bytes"),
        ("images-idx3-ubyte", idx(2051, IMAGES, (2**32 - 1,) * 3), "got 3920 bytes"),
        ("images-idx3-ubyte", idx(2051, IMAGES[:, :, :27]), "images of 28 x 28 pixels, got"),
        ("labels-idx1-ubyte", idx(2051, np.zeros(5)), "the magic number 2049, got 2051"),
        (
            "labels-idx1-ubyte",
            idx(2049, np.zeros(4)),
            "a label for each of the 5 images of .*got 4",
        ),
        ("labels-idx1-ubyte", idx(2049, np.full(5, 10)), "labels from 0 to 9, got 10 to 10"),
        ("images-idx3-ubyte.gz", CUT_SHORT, "a file that unpacks, got EOFError"),
        ("images-idx3-ubyte.gz", b"no gzip at all", "a file that unpacks, got BadGzipFile"),
        ("images-idx3-ubyte.gz", CUT_SHORT[:200] + bytes(700), "a file that unpacks"),
    ],
)
def test_a_damaged_mnist_file_is_one_clear_line(root, name, content, message):
    folder = write_mnist(root, pack=name.endswith(".gz"))[2]
    path = folder / f"t10k-{name}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_image_set("mnist_test")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_the_embedded_digits_need_no_files_and_are_cut_without_overlap():
    train, test = load_image_set("digits_train"), load_image_set("digits_test")
    assert train.images.shape == (1437, 1, 8, 8) and test.images.shape == (360, 1, 8, 8)
    digits = load_digits()
    both = torch.cat([train.images, test.images])[:, 0]
    assert both.dtype == torch.uint8 and both.min() == 0 and both.max() == 255
    assert np.abs(both.numpy() / (255 / 16) - digits.images).max() <= 0.5 / (255 / 16) + 1e-9
    assert torch.cat([train.labels, test.labels]).tolist() == digits.target.tolist()
    assert set(test.labels.tolist()) == set(range(10))


@pytest.mark.skipif(not (SHARED / "MNIST").is_dir(), reason="no shared copy of MNIST")
def test_the_published_mnist_is_read_whole_and_fast(monkeypatch, caplog):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(SHARED))
    start = time.perf_counter()
    train, test = load_image_set("mnist_train"), load_image_set("mnist_test")
    assert time.perf_counter() - start < 10  # about one second on an idle machine
    assert len(train.labels) == 60_000 and len(test.labels) == 10_000 and not caplog.records
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert train.images.float().mean().item() / 255 == pytest.approx(0.1307, abs=1e-4)
