"""Figures of here beside the paper's, as Markdown and CSV."""

from collections.abc import Sequence
from statistics import mean, stdev

from .runs import Line


def markdown_rows(lines: Sequence[Line], figures: Sequence[str]) -> list[str]:
    """A Markdown table: the first figure with differences and gains, the others beside it.

    Where no row has figures of a paper, there are only those of here.
    """
    has_paper = any(line.paper or line.paper_gains for line in lines)
    rows = [_cells(line, figures, has_paper) for line in lines]
    titles = list(rows[0])
    texts = [titles, *(row.values() for row in rows)]
    heading, *rest = (f"| {' | '.join(row)} |" for row in texts)
    return [heading, "|" + "---|" * len(titles), *rest]


def _cells(line: Line, figures: Sequence[str], has_paper: bool) -> dict[str, str]:
    main, *others = figures
    values, paper, gains = line.ours[main], line.paper.get(main), line.gains[main]
    is_known = values and paper is not None
    gain = _text(mean(gains) if gains else None, "+.1f")
    cells = {"row": line.name + (f" ({line.note})" if line.note else "")}
    if has_paper:
        cells |= {
            f"paper's {main}": _text(paper),
            f"our {main}": spread(values),
            "difference": _text(mean(values) - paper if is_known else None, "+.1f"),
            "paper's gain": _text(line.paper_gains.get(main), "+.1f"),
            "our gain": gain,
        }
        for name in others:
            beside = f"{_text(line.paper.get(name))} / {spread(line.ours[name])}"
            cells[f"{name}: paper's / ours"] = beside
    else:
        cells |= {main: spread(values), "gain": gain}
        cells |= {name: spread(line.ours[name]) for name in others}
    minutes = f"{line.seconds / 60:.1f}" if line.seconds else "—"
    return cells | {"seeds": str(len(values)), "minutes": minutes}


def csv_rows(lines: Sequence[Line], figures: Sequence[str]) -> list[list[str]]:
    """A heading and, for each row and figure, the values with all their digits."""
    rows = [["row", "figure", "paper", "ours_mean", "ours_sd", "difference", "paper_gain",
             "our_gain", "seeds", "values"]]  # fmt: skip
    for line in lines:
        for figure in figures:
            values, paper = line.ours[figure], line.paper.get(figure)
            gains = line.gains[figure]
            numbers = (
                paper,
                mean(values) if values else None,
                stdev(values) if len(values) > 1 else None,
                mean(values) - paper if values and paper is not None else None,
                line.paper_gains.get(figure),
                mean(gains) if gains else None,
            )
            rows.append([
                line.name, figure, *("" if n is None else repr(round(n, 6)) for n in numbers),
                str(len(values)), " ".join(repr(round(value, 6)) for value in values),
            ])  # fmt: skip
    return rows


def spread(values: Sequence[float]) -> str:
    """Mean and, of several values, the sample's standard deviation, with one decimal."""
    if not values:
        return "—"
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def _text(value: float | None, form: str = "") -> str:
    return "—" if value is None else format(value, form)
