"""Tables of classes, curves and grids of images: what is on them, and their edge cases."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from anchorkit.visualization import (
    draw_confidence,
    draw_confidences,
    draw_confusion,
    draw_curves,
    draw_image_grid,
    save_figure,
)
from anchorkit.visualization.canvas import PALETTE
from anchorkit.visualization.curves import smooth


def is_picture(array):
    return array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3


def share_of(picture, colour, tolerance=3):
    wanted = np.array(to_rgb(colour)) * 255
    return (np.abs(picture.astype(float) - wanted).max(axis=2) <= tolerance).mean()


@pytest.mark.parametrize("num_classes", [1, 2, 10, 20, 21, 101, 230])
def test_every_number_of_classes_gives_a_picture_that_can_be_shown(num_classes):
    rng = np.random.default_rng(num_classes)
    counts = rng.poisson(2, (num_classes, num_classes)) + 90 * np.eye(num_classes, dtype=int)
    names = [f"Class number {index} $with_ signs" * (1 + index % 3) for index in range(num_classes)]
    picture = draw_confusion(counts, names)
    assert is_picture(picture) and max(picture.shape) < 3000
    # 101 labels of 10 pixels and their gaps.
    assert num_classes < 101 or picture.shape[0] > 101 * 15


def test_rows_are_the_truth_and_have_the_colour_of_their_share():
    dark, empty = "#08306b", "#EFEFEF"
    right = draw_confusion(np.array([[10, 0], [0, 3]]), ["a", "b"])
    swapped = draw_confusion(np.array([[0, 10], [3, 0]]), ["a", "b"])
    assert share_of(right, dark) == pytest.approx(share_of(swapped, dark), abs=0.01)
    assert share_of(right, dark) > 0.02 and share_of(right, empty) < 0.01  # smooth text
    # The first class has no images: its row, the upper one, is grey; the second one is full.
    one = draw_confusion(np.array([[0, 0], [50, 0]]), ["a", "b"])
    assert share_of(one, empty) > 0.04
    is_empty = (np.abs(one.astype(float) - 0xEF).max(axis=2) <= 1).nonzero()
    cell = (np.abs(one - np.array(to_rgb(dark)) * 255).max(axis=2) <= 3)[:, : one.shape[1] * 4 // 5]
    assert cell.sum() > 2000 and np.median(is_empty[0]) < np.median(cell.nonzero()[0])


def test_counts_that_do_not_fit_the_names_are_refused():
    for counts, names in ((np.zeros((2, 2), int), ["a"]), (np.zeros((0, 0), int), [])):
        with pytest.raises(ValueError, match="counts, got"):
            draw_confusion(counts, names)


@pytest.mark.parametrize("num_classes", [1, 2, 20, 21])
def test_maps_of_any_number_of_classes_and_models_give_a_picture(num_classes):
    confidence = np.random.default_rng(0).random((num_classes, num_classes))
    confidence[num_classes // 2] = np.nan
    names = [f"class {index} $_" for index in range(num_classes)]
    one = draw_confidence(confidence, names, "baseline")
    two = draw_confidences([confidence, 0.5 * confidence], ["baseline", "a $_" * 90], names)
    assert is_picture(one) and is_picture(two)
    assert two.shape[0] == one.shape[0] and 1.3 < two.shape[1] / one.shape[1] < 2


def test_rows_are_the_images_classes_and_the_colours_do_not_depend_on_the_values():
    dark, half = "#08306b", "#6aaed6"
    sure = np.array([[np.nan, np.nan], [1.0, 0.0]])
    picture = draw_confidence(sure, ["a", "b"])
    is_dark = (np.abs(picture - np.array(to_rgb(dark)) * 255).max(axis=2) <= 3).nonzero()
    is_empty = (np.abs(picture.astype(float) - 0xEF).max(axis=2) <= 1).nonzero()
    cells = is_dark[1] < picture.shape[1] * 4 // 5  # not the bar
    assert cells.sum() > 2000 and len(is_empty[0]) > 8000
    assert np.median(is_empty[0]) < np.median(is_dark[0][cells])
    assert np.median(is_dark[1][cells]) < np.median(is_empty[1])
    # The highest value of a map is not the darkest colour.
    unsure = draw_confidence(np.array([[0.5, 0.0], [0.0, 0.5]]), ["a", "b"])
    assert share_of(unsure, half) > 0.02 > share_of(unsure, dark)


def test_values_are_written_into_the_cells_of_up_to_20_classes(monkeypatch):
    from matplotlib.axes import Axes

    written = []
    text = Axes.text
    monkeypatch.setattr(
        Axes, "text", lambda self, x, y, s, **more: written.append(s) or text(self, x, y, s, **more)
    )
    draw_confidence(np.array([[0.996, 0.004], [0.005, np.nan]]), ["a", "b"])
    assert written == ["1.00", "0.01"]
    draw_confidence(np.ones((21, 21)), [str(index) for index in range(21)])
    assert len(written) == 2


def test_maps_that_do_not_fit_the_names_are_refused():
    for maps, names in (([np.zeros((2, 2))], ["a"]), ([], ["a"]), ([np.zeros((0, 0))], []),
                        ([np.zeros((1, 1)), np.zeros((2, 2))], ["a"])):  # fmt: skip
        with pytest.raises(ValueError, match="expected maps of shape"):
            draw_confidences(maps, ["title"] * len(maps), names)


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 0.9])
def test_smoothing_is_the_corrected_moving_average(smoothing):
    values = np.random.default_rng(0).random((3, 12))
    expected = np.empty_like(values)
    for run, last in np.ndindex(values.shape):
        weights = [smoothing ** (last - step) for step in range(last + 1)]
        total = sum(w * v for w, v in zip(weights, values[run], strict=False))
        expected[run, last] = total / sum(weights)
    assert smooth(values, smoothing) == pytest.approx(expected)
    assert smooth(np.full(5, 7.0), smoothing) == pytest.approx(np.full(5, 7.0))


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_smoothing_that_cannot_be_is_refused(smoothing):
    with pytest.raises(ValueError, match="smoothing must be in"):
        smooth(np.zeros(3), smoothing)


def test_a_curve_is_drawn_faintly_and_smoothed_and_several_runs_with_a_band(tmp_path):
    x = np.arange(4)
    runs = np.array([[0.0, 1, 2, 3], [2, 3, 4, 9]])
    curves = {"one": (x, runs[0]), "$two": (x, runs)}
    figure = draw_curves(curves, xlabel="iteration", ylabel="acc_1", smoothing=0.5)
    (axes,) = figure.axes
    faint, smoothed, faint_mean, smoothed_mean = axes.lines
    assert faint.get_ydata().tolist() == [0, 1, 2, 3] and faint.get_alpha() < 0.5
    assert smoothed.get_ydata() == pytest.approx(smooth(runs[0], 0.5))
    assert faint_mean.get_ydata() == pytest.approx(runs.mean(axis=0))
    assert smoothed_mean.get_ydata() == pytest.approx(smooth(runs, 0.5).mean(axis=0))
    assert smoothed.get_color() == faint.get_color() == PALETTE[0]
    (band,) = axes.collections
    edges = band.get_paths()[0].vertices
    spread = smooth(runs, 0.5).std(axis=0, ddof=1)
    at_last = edges[edges[:, 0] == 3][:, 1]
    assert at_last.max() - at_last.min() == pytest.approx(2 * spread[-1])
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["one: 3.00", f"$two: 6.00 ± {np.sqrt(18):.2f} (2 runs)"]
    for ending in ("png", "pdf"):
        save_figure(figure, str(tmp_path / f"curves.{ending}"))


def test_without_smoothing_there_is_one_line_and_one_point_is_a_dot():
    figure = draw_curves({"a": ([5], [1.0])}, xlabel="x", ylabel="y")
    (line,) = figure.axes[0].lines
    assert line.get_marker() == "o"
    with pytest.raises(ValueError, match="curve 'a': 2 positions"):
        draw_curves({"a": ([1, 2], [1.0])}, xlabel="x", ylabel="y")


def test_many_curves_do_not_look_alike():
    curves = {str(index): ([0, 1], [index, index]) for index in range(30)}
    lines = draw_curves(curves, xlabel="x", ylabel="y").axes[0].lines
    assert len(lines) == 30
    looks = {(line.get_color(), line.get_linestyle(), line._dash_pattern[1] and
              tuple(line._dash_pattern[1])) for line in lines}  # fmt: skip
    assert len(looks) == 30


def test_a_grid_shows_each_image_with_its_caption():
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30), (30, 200, 200)]
    images = [
        np.full((20 + 9 * i, 20, 3), colour, dtype=np.uint8) for i, colour in enumerate(colours)
    ]
    captions = ["A: cat, B: dog", "", "a " * 90, "$x_1", "word" * 30]
    grid = draw_image_grid(images, captions, columns=3)
    assert is_picture(grid)
    for colour, image in zip(colours, images, strict=True):
        share = share_of(grid, [value / 255 for value in colour])
        assert share * grid.shape[0] * grid.shape[1] == pytest.approx(
            256 * 256 * image.shape[0] / 20, rel=0.05
        )


def test_boxes_are_drawn_on_their_images_with_their_names():
    images = [np.full((40, 80, 3), 90, dtype=np.uint8)] * 2
    boxes = [[((8, 8, 40, 30), "$a cat_", PALETTE[0])], []]
    grid = draw_image_grid(images, ["one", "two"], boxes=boxes, image_width=400)
    plain = draw_image_grid(images, ["one", "two"], image_width=400)
    assert grid.shape == plain.shape and share_of(plain, [90 / 255] * 3) > 0.6
    changed = np.argwhere((grid != plain).any(axis=2))
    # The left image begins at 20 pixels; five of them are one of its own.
    assert (changed[:, 1] < 20 + 5 * 42).all() and len(changed) > 1000
    assert share_of(grid, PALETTE[0]) > 0


def test_grey_images_and_single_ones_are_shown():
    for shape in ((28, 28), (28, 28, 1), (1, 1, 3)):
        grid = draw_image_grid([np.full(shape, 77, dtype=np.uint8)], ["one"])
        assert is_picture(grid) and share_of(grid, [77 / 255] * 3) > 0.5


def test_what_is_not_an_image_or_has_no_caption_is_refused():
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    for images, captions in (([], []), ([image], []), ([image], ["a", "b"])):
        with pytest.raises(ValueError, match="images with a caption each"):
            draw_image_grid(images, captions)
    for wrong in (image.astype(float), image.transpose(2, 0, 1), image[:0]):
        with pytest.raises(ValueError, match="expected uint8"):
            draw_image_grid([wrong], ["a"])
