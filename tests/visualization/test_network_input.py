"""What is shown of a network's input: labels in words, boxes in place, channels in numbers."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances

from anchorkit.data import ImageBatch
from anchorkit.visualization import NetworkInput, network_inputs, normalization_table
from anchorkit.visualization.network_input import label_text

NAMES = ["cat", "dog", "bird"]


@pytest.mark.parametrize(
    ("label", "text"),
    [
        (torch.tensor(2), "bird"),
        (torch.tensor(7), "7"),
        (torch.tensor([1, 0, 1], dtype=torch.int8), "cat, bird"),
        (torch.tensor([0, 0, 0], dtype=torch.int8), "no class"),
        (torch.tensor([0, 1, -1], dtype=torch.int8), "dog; not known: bird"),
        (torch.tensor([0.25, 0.0, 0.75]), "bird 0.75, cat 0.25"),
        (torch.zeros(3), "no class"),
    ],
)
def test_a_label_is_told_in_words(label, text):
    assert label_text(label, NAMES) == text


def test_a_classifiers_batch_is_shown_with_its_own_names():
    images = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).view(2, 3, 4, 5)
    batch = ImageBatch(images, torch.tensor([1, 0]), torch.tensor([3, 1]), list("abcd"))
    first, second = network_inputs(batch, NAMES)
    assert (first.caption, second.caption) == ("dog (d)", "cat (b)")
    assert np.array_equal(first.pixels, images[0].permute(1, 2, 0)) and not first.boxes


def test_a_training_sample_brings_its_objects():
    instances = Instances((40, 60), gt_boxes=Boxes(torch.tensor([[1.0, 2.0, 3.0, 4.0]])))
    instances.gt_classes = torch.tensor([1])
    sample = {"file_name": "a/b.png", "image": torch.zeros(3, 40, 60), "instances": instances}
    (shown,) = network_inputs([sample], NAMES)
    assert shown.caption == "b.png, 60 × 40 px, 1 object"
    ((box, name, _),) = shown.boxes
    assert box == [1, 2, 3, 4] and name == "dog"


def test_a_test_sample_takes_those_of_its_record_to_its_own_size():
    record = {"annotations": [
        {"bbox": [10, 20, 30, 40], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 2}
    ]}  # fmt: skip
    sample = {"file_name": "b.png", "image_id": 4, "image": torch.zeros(3, 50, 200), "width": 100,
              "height": 100}  # fmt: skip
    (shown,) = network_inputs([sample], NAMES, {4: record})
    ((box, name, _),) = shown.boxes
    assert box == [20, 10, 80, 30] and name == "bird"
    (unknown,) = network_inputs([sample], NAMES, {})
    assert unknown.caption.endswith("0 objects")


def test_the_table_has_each_channel_after_normalisation():
    pixels = np.stack([np.full((2, 2), value, dtype=np.uint8) for value in (10, 20, 30)], axis=2)
    pixels[0, 0, 2] = 90
    table = normalization_table([NetworkInput(pixels, "")], "BGR", [10, 10, 10], [2, 2, 20])
    rows = [line.split() for line in table.splitlines()[2:]]
    assert rows[0] == ["B", "10", "2", "0", "0", "0", "0"]
    assert rows[1][3:] == ["5", "0", "5", "5"] and rows[2][3] == "1.75" and rows[2][6] == "4"


def test_grey_images_may_become_several_channels():
    grey = NetworkInput(np.full((2, 2, 1), 30, dtype=np.uint8), "")
    rows = normalization_table([grey], "RGB", [0, 10, 20], [1, 1, 1]).splitlines()[2:]
    assert [row.split()[3] for row in rows] == ["30", "20", "10"]
    for image_format, name in (("L", "L"), ("RGB", "grey")):
        (row,) = normalization_table([grey], image_format, [10], [2]).splitlines()[2:]
        assert row.split()[:4] == [name, "10", "2", "10"]
