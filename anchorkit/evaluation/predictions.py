"""What an image classifier said about each image, as a file, and two of these compared."""

import csv
import io
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..checkpoint import write_atomically
from ..errors import UserError

COLUMNS = ("image_id", "name", "label", "prediction", "probability", "correct")


@dataclass(frozen=True)
class Prediction:
    """One row of a predictions.csv; ids are text, classes are names."""

    image_id: str
    name: str
    label: str
    prediction: str
    probability: float

    @property
    def is_correct(self) -> bool:
        return self.prediction == self.label


@dataclass(frozen=True)
class Comparison:
    """Two classifiers on the same images.

    Attributes:
        counts: images by (the first is right, the second is right).
        only_first: pairs of rows, in the order of the files, where the first alone is right.
        only_second: and where the second alone is.
        p_value: exact two-sided one of McNemar's test: how probable it is that the images on which
            one alone is right are shared out this unevenly, or more so, if both were equally good.
    """

    counts: dict[tuple[bool, bool], int]
    only_first: list[tuple[Prediction, Prediction]]
    only_second: list[tuple[Prediction, Prediction]]
    p_value: float


def distinct_names(names: Sequence[str]) -> list[str]:
    """The names of the classes; those that are not alone get their class index added."""
    counts = Counter(names)
    return [f"{n} ({i})" if counts[n] > 1 else str(n) for i, n in enumerate(names)]


def write_rows(path: str, header: Sequence[str], rows: Sequence[Sequence]) -> None:
    """Write a CSV file (UTF-8) as a whole or not at all."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))


def read_predictions(path: str) -> list[Prediction]:
    """The rows of a predictions.csv.

    Raises:
        UserError: the file cannot be read, is not one of these, or names an image twice.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise UserError(
                    f"{path}: no column {missing[0]!r}; expected is a predictions.csv as an "
                    f"evaluation writes it, with the columns {', '.join(COLUMNS)}"
                )
            rows = [_prediction(row, path, reader.line_num) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: expected a predictions.csv; cannot be read: {error}") from error
    twice = [image for image, count in Counter(row.image_id for row in rows).items() if count > 1]
    if twice:
        raise UserError(f"{path}: image {twice[0]} is listed more than once; evaluate again")
    return rows


def compare_predictions(first: list[Prediction], second: list[Prediction]) -> Comparison:
    """Which images one of two classifiers gets right and the other wrong.

    Raises:
        UserError: the files are not of the same images with the same labels.
    """
    by_id = {row.image_id: row for row in second}
    alone = {row.image_id for row in first} ^ set(by_id)
    if alone:
        raise UserError(
            f"the two files are not of the same images: {len(first)} and {len(second)} rows, "
            f"{len(alone)} images are in one alone, such as {min(alone)}; evaluate both on one set"
        )
    from scipy.stats import binomtest  # takes a second to import

    counts = {(a, b): 0 for a in (True, False) for b in (True, False)}
    only_first, only_second = [], []
    for row in first:
        other = by_id[row.image_id]
        if row.label != other.label:
            raise UserError(
                f"image {row.image_id} is a {row.label!r} in the first file and a "
                f"{other.label!r} in the second: evaluate both on one data set"
            )
        counts[row.is_correct, other.is_correct] += 1
        if row.is_correct != other.is_correct:
            (only_first if row.is_correct else only_second).append((row, other))
    differing = len(only_first) + len(only_second)
    p_value = float(binomtest(len(only_first), differing).pvalue) if differing else 1.0
    return Comparison(counts, only_first, only_second, p_value)


def write_comparison(path: str, pairs: Sequence[tuple[Prediction, Prediction]]) -> None:
    """Write images with what both classifiers say, the first as "a" and the second as "b"."""
    header = ("image_id", "name", "label", "prediction_a", "probability_a", "prediction_b",
              "probability_b")  # fmt: skip
    rows = [
        (a.image_id, a.name, a.label, a.prediction, a.probability, b.prediction, b.probability)
        for a, b in pairs
    ]
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    write_rows(path, header, rows)


def _prediction(row: dict, path: str, line: int) -> Prediction:
    try:
        probability = float(row["probability"])
    except (TypeError, ValueError):
        raise UserError(
            f"{path}, line {line}: expected a number as probability, got {row['probability']!r}; "
            "evaluate again"
        ) from None
    return Prediction(row["image_id"], row["name"], row["label"], row["prediction"], probability)
