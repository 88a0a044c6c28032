"""A conversion in words: what matched, what did not, and which config keys belong to it."""

import shlex
from collections.abc import Iterable, Mapping

from ..errors import quoted
from .name_map import Conversion


def format_report(conversion: Conversion, current: Mapping[str, object]) -> str:
    """Counts and names of matched, missing, unexpected and reshaped tensors, then config keys.

    Args:
        current: the config's values of ``name_map.structure`` and ``settings``.
    """
    missing = [*conversion.absent, *conversion.missing]
    shapes = [
        f"{name} {list(theirs)} -> {list(ours)}"
        for name, (theirs, ours) in conversion.reshaped.items()
    ]
    unexpected = [*conversion.unexpected, *conversion.foreign]
    # Of what is left out, counters of batches are the most and the least interesting.
    unused = sorted(conversion.unused, key=lambda name: name.endswith("num_batches_tracked"))
    rows = [
        ("matched", f"{conversion.num_matched} of the model's {conversion.num_model} tensors"),
        ("missing", _counted(missing)),
        ("unexpected", _counted(unexpected)),
        ("other shape", _counted(conversion.other_shape)),
        ("reshaped", _listed(shapes)),
        ("left alone", f"{_counted(conversion.unfilled)} (of the model, by plan)"),
        ("left out", f"{_counted(unused)} (of the file, by plan)"),
    ]
    lines = [conversion.name_map.source, *(f"  {label:<12}{text}" for label, text in rows)]
    keys = conversion.name_map.structure | conversion.name_map.settings
    if keys:
        lines.append("  config keys that belong to these weights; with a star: not in this config")
    for key, value in keys.items():
        is_same = same(value, current[key])
        lines.append(f"  {' ' if is_same else '*'} {assignment(key, value)}")
    lines += [f"  note: {note}" for note in conversion.name_map.notes]
    return "\n".join(lines)


def assignment(key: str, value: object) -> str:
    """A key and its value as they stand on a command line."""
    return f"{key} {shlex.quote(str(value))}"


def same(value: object, other: object) -> bool:
    """Whether two config values are equal; a list and a tuple may be."""
    if isinstance(value, list | tuple) and isinstance(other, list | tuple):
        return len(value) == len(other) and all(map(same, value, other))
    return value == other


def _counted(names: Iterable[str]) -> str:
    names = list(names)
    return f"{len(names)}: {quoted(names, 4)}" if names else "0"


def _listed(texts: list[str]) -> str:
    more = f" and {len(texts) - 4} more" if len(texts) > 4 else ""
    return f"{len(texts)}: {', '.join(texts[:4])}{more}" if texts else "0"
