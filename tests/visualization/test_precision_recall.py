"""Curves of precision over recall: what is drawn, for any number of classes."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from anchorkit.visualization import draw_precision_recall
from anchorkit.visualization.canvas import PALETTE
from anchorkit.visualization.precision_recall import MAX_CLASSES, _shown

RECALLS = np.linspace(0, 1, 101)


def draw(precision, names, points=None, title="set"):
    points = points or [(np.nan, np.nan)] * (len(names) + 1)
    return draw_precision_recall(RECALLS, precision, names, points, title=title)


def count(picture, colour):
    return int((np.abs(picture - np.array(to_rgb(colour)) * 255).max(axis=2) <= 3).sum())


@pytest.mark.parametrize("num_classes", [1, 2, 10, 80, 230])
def test_every_number_of_classes_gives_a_picture_that_can_be_shown(num_classes):
    values = np.linspace(1, 0, 101)[:, None] * np.linspace(0.2, 1, num_classes)
    names = [f"$class_{index} with a long name" for index in range(num_classes)]
    picture = draw({0.5: values, 0.75: values / 2}, names)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    assert 150 < picture.shape[0] < 2500 and picture.shape[1] < 2500


def test_each_overlap_and_each_point_leaves_its_colour():
    values = np.linspace(1, 0, 101)[:, None]
    legend = draw({0.5: values * np.nan, 0.75: values * np.nan}, ["cat"])
    one = draw({0.5: values, 0.75: values * np.nan}, ["cat"])
    both = draw({0.5: values, 0.75: values / 2}, ["cat"])
    assert count(one, PALETTE[0]) > count(legend, PALETTE[0]) + 100
    assert count(one, PALETTE[1]) == count(legend, PALETTE[1])
    assert count(both, PALETTE[1]) > count(legend, PALETTE[1]) + 100
    marked = draw({0.5: values, 0.75: values / 2}, ["cat"], [(0.2, 0.2), (np.nan, np.nan)])
    assert count(both, PALETTE[0]) < count(marked, PALETTE[0]) < count(both, PALETTE[0]) + 60


def test_of_many_classes_those_with_the_lowest_area_are_shown():
    rng = np.random.default_rng(0)
    values = rng.random((101, 150))
    values[:, :30] = np.nan
    shown = _shown({0.5: values, 0.75: values}, 150)
    area = values.mean(axis=0)
    assert len(shown) == MAX_CLASSES and shown == sorted(shown) and min(shown) >= 30
    hidden = set(range(30, 150)) - set(shown)
    assert max(area[shown]) <= min(area[list(hidden)])
