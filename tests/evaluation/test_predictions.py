"""Two files of predictions compared: who is right where, and McNemar's exact test."""

import math

import numpy as np
import pytest

from anchorkit.errors import UserError
from anchorkit.evaluation.predictions import (
    COLUMNS,
    Prediction,
    compare_predictions,
    distinct_names,
    read_predictions,
    write_comparison,
    write_rows,
)


def rows_of(labels, predictions):
    return [
        Prediction(str(index), f"image {index}", label, prediction, 0.5)
        for index, (label, prediction) in enumerate(zip(labels, predictions, strict=True))
    ]


def mcnemar(first, second):
    """Exact two-sided p-value for how often one alone is right, from the binomial distribution."""
    differing = first + second
    tail = sum(math.comb(differing, k) for k in range(min(first, second) + 1))
    return min(1.0, 2 * tail / 2**differing)


@pytest.mark.parametrize("seed", range(5))
def test_counts_lists_and_the_test_are_those_of_the_loops(seed):
    rng = np.random.default_rng(seed)
    labels, first, second = (rng.choice(["a", "b", "c"], 60).tolist() for _ in range(3))
    second = [y if rng.random() < 0.4 else p for y, p in zip(labels, second, strict=True)]
    a_rows, b_rows = rows_of(labels, first), rows_of(labels, second)
    comparison = compare_predictions(a_rows, b_rows[::-1])
    counts = {(a, b): 0 for a in (True, False) for b in (True, False)}
    only_first, only_second = [], []
    for index, label in enumerate(labels):
        counts[first[index] == label, second[index] == label] += 1
        if first[index] == label != second[index]:
            only_first.append(index)
        if second[index] == label != first[index]:
            only_second.append(index)
    assert comparison.counts == counts
    assert [int(a.image_id) for a, _ in comparison.only_first] == only_first
    assert [int(b.image_id) for _, b in comparison.only_second] == only_second
    assert all(a.image_id == b.image_id for a, b in comparison.only_second)
    expected = mcnemar(len(only_first), len(only_second))
    assert comparison.p_value == pytest.approx(expected)


def test_equal_predictions_do_not_differ():
    rows = rows_of("abc", "abb")
    comparison = compare_predictions(rows, rows)
    assert comparison.p_value == 1 and not comparison.only_first + comparison.only_second
    assert compare_predictions([], []).p_value == 1


def test_what_is_written_is_read_again(tmp_path):
    rows = [
        (3, 'a "file", here.png', "zebra, grévy", "b", "0.250000", 0),
        (4, "b", "b", "b", "1.000000", 1),
    ]
    path = tmp_path / "predictions.csv"
    write_rows(str(path), COLUMNS, rows)
    first, second = read_predictions(str(path))
    assert first == Prediction("3", 'a "file", here.png', "zebra, grévy", "b", 0.25)
    assert not first.is_correct and second.is_correct
    assert [entry.name for entry in tmp_path.iterdir()] == ["predictions.csv"]
    write_comparison(str(tmp_path / "new" / "list.csv"), [(first, second)])
    text = (tmp_path / "new" / "list.csv").read_text(encoding="utf-8")
    assert text == (
        "image_id,name,label,prediction_a,probability_a,prediction_b,probability_b\n"
        '3,"a ""file"", here.png","zebra, grévy",b,0.25,b,1.0\n'
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("", "no column 'image_id'"),
        ("image_id,name,label\n", "no column 'prediction'; expected is a predictions.csv"),
        (",".join(COLUMNS) + "\n1,a,b,b,much,1\n", "line 2: expected a number .* got 'much'"),
        (",".join(COLUMNS) + "\n1,a,b\n", "line 2: expected a number .* got None"),
        (",".join(COLUMNS) + "\n1,a,b,b,1,1\n1,a,b,b,1,1\n", "image 1 is listed more than once"),
    ],
)
def test_a_file_that_is_no_such_file_is_named(text, message, tmp_path):
    path = tmp_path / "some.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=f"some.csv.*{message}"):
        read_predictions(str(path))


def test_files_of_other_images_or_labels_are_told():
    with pytest.raises(UserError, match="3 and 2 rows, 1 images are in one alone, such as 2"):
        compare_predictions(rows_of("abc", "abc"), rows_of("ab", "ab"))
    with pytest.raises(UserError, match="image 1 is a 'b' in the first file and a 'c'"):
        compare_predictions(rows_of("ab", "ab"), rows_of("ac", "ab"))


def test_names_that_are_not_alone_get_their_index():
    assert distinct_names(["a", "b", "a"]) == ["a (0)", "b", "a (2)"]
    assert distinct_names(("a", "b")) == ["a", "b"]
