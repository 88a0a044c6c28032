"""Which tensor of a file fills which tensor of a model: no name is guessed, none is passed over."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor, nn

from ..errors import UserError, quoted

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        tensors: its weights by name.
        config_text: the config that mmdetection writes beside them, "" if there is none.
        sha256: of the file, or its first digits; "" if it is not known.
    """

    tensors: Mapping[str, Tensor]
    config_text: str = ""
    sha256: str = ""


class Entry(NamedTuple):
    """Where one tensor of the model comes from.

    Attributes:
        sources: names in the file.
        make: makes the tensor of these; None takes the only one as it is.
    """

    sources: tuple[str, ...]
    make: Callable[..., Tensor] | None = None


@dataclass
class NameMap:
    """Everything that is known about the files of one architecture.

    Attributes:
        source: what the file is, for messages.
        entries: by the model's names.
        unused: names in the file that the model has no use for.
        optional: the model's names that may stay as they are, and that a model need not have.
        structure: config keys that decide which tensors a model has, with this file's values.
        settings: other config keys that belong to the weights.
        notes: what else has to be known about them, one sentence each.
    """

    source: str
    entries: dict[str, Entry] = field(default_factory=dict)
    unused: set[str] = field(default_factory=set)
    optional: set[str] = field(default_factory=set)
    structure: dict[str, object] = field(default_factory=dict)
    settings: dict[str, object] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def take(self, old: str, new: str, parts: Iterable[str] = ("weight", "bias")) -> None:
        """Rename the parts of the file's module ``old`` to those of the model's ``new``."""
        for part in parts:
            self.entries[f"{new}.{part}"] = Entry((f"{old}.{part}",))

    def make(
        self,
        old: str,
        new: str,
        function: Callable[..., Tensor],
        parts: Iterable[str] = ("weight", "bias"),
    ) -> None:
        """As :meth:`take`, and change each part by ``function``."""
        for part in parts:
            self.entries[f"{new}.{part}"] = Entry((f"{old}.{part}",), function)

    def leave(self, old: str, new: str, parts: Iterable[str] = ("weight", "bias")) -> None:
        """Neither use the file's module ``old`` nor fill the model's ``new``."""
        self.unused |= {f"{old}.{part}" for part in parts}
        self.optional |= {f"{new}.{part}" for part in parts}

    def fill_only(self, prefix: str | tuple[str, ...], model: nn.Module | None) -> None:
        """Leave everything of the model whose name begins otherwise as it is."""
        if model is not None:
            self.optional |= {name for name in model.state_dict() if not name.startswith(prefix)}


@dataclass
class Conversion:
    """Weights under a model's names, and how they compare with what the file and the model have.

    Attributes:
        name_map: by which they were converted.
        weights: for ``MODEL.WEIGHTS``.
        num_model: how many tensors the model has; None if it is not known.
        num_matched: how many of them the weights fill.
        reshaped: shape in the file and shape of tensors that were made of one of another shape.
        unused: of the file's tensors those that the map leaves out.
        unfilled: of the model's tensors those that the map leaves out.
        absent: tensors that the map needs and the file lacks.
        unexpected: tensors of the file that the map does not know.
        foreign: converted tensors that the model lacks.
        missing: tensors of the model that nothing fills although the map does not leave them out.
        other_shape: shape in the file, or after the conversion, and shape in the model, if known.
    """

    name_map: NameMap
    weights: dict[str, Tensor] = field(default_factory=dict)
    num_model: int | None = None
    num_matched: int = 0
    reshaped: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    unfilled: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    other_shape: dict[str, tuple[Shape, Shape | None]] = field(default_factory=dict)

    @property
    def problem(self) -> str:
        """What keeps the weights from being the model's, in one line; "" if nothing does."""
        shapes = [
            f"{name} ({list(ours)}{'' if wanted is None else f', in the model {list(wanted)}'})"
            for name, (ours, wanted) in self.other_shape.items()
        ]
        kinds = (
            ("the file has no tensor", self.absent),
            ("nothing is known of the file's", self.unexpected),
            ("the model has no tensor", self.foreign),
            ("nothing fills the model's", self.missing),
        )
        parts = [f"{words} {quoted(names, 3)}" for words, names in kinds if names]
        if shapes:
            more = f" and {len(shapes) - 3} more" if len(shapes) > 3 else ""
            parts.append(f"of another shape is {', '.join(shapes[:3])}{more}")
        if not parts:
            return ""
        return f"not the weights of this model ({self.name_map.source}): {'; '.join(parts)}"


def apply(name_map: NameMap, tensors: Mapping[str, Tensor], model: nn.Module | None) -> Conversion:
    """Convert a file's tensors, and compare what comes out with the model.

    Args:
        model: None if it is not known; then only the file is checked against the map.
    """
    result = Conversion(name_map)
    shapes = None if model is None else {k: tuple(v.shape) for k, v in model.state_dict().items()}
    used = set()
    for name, entry in name_map.entries.items():
        used |= set(entry.sources)
        lacking = [source for source in entry.sources if source not in tensors]
        is_optional = name in name_map.optional
        if is_optional and (lacking or (shapes is not None and name not in shapes)):
            continue
        if lacking:
            result.absent += lacking
            continue
        _convert(result, name, entry, [tensors[source] for source in entry.sources])
    result.absent = sorted(set(result.absent))
    filling = {s for n in result.weights for s in name_map.entries[n].sources}
    result.unused = [n for n in tensors if n in name_map.unused or n in used - filling]
    result.unexpected = [n for n in tensors if n not in used and n not in name_map.unused]
    if shapes is not None:
        _compare(result, shapes)
    return result


def _convert(result: Conversion, name: str, entry: Entry, sources: list[Tensor]) -> None:
    if entry.make is None:
        result.weights[name] = sources[0]
        return
    try:
        made = entry.make(*sources).contiguous()
    except (RuntimeError, IndexError):
        # A function that takes a tensor apart presupposes its shape.
        result.other_shape[name] = (tuple(sources[0].shape), None)
        return
    result.weights[name] = made
    if len(sources) == 1 and made.shape != sources[0].shape:
        result.reshaped[name] = (tuple(sources[0].shape), tuple(made.shape))


def _compare(result: Conversion, shapes: Mapping[str, Shape]) -> None:
    result.num_model = len(shapes)
    for name, value in result.weights.items():
        if name not in shapes:
            result.foreign.append(name)
        elif tuple(value.shape) != shapes[name]:
            result.other_shape[name] = (tuple(value.shape), shapes[name])
        else:
            result.num_matched += 1
    for name, (ours, _) in result.other_shape.items():
        result.other_shape[name] = (ours, shapes.get(name))
    reached = set(result.weights) | set(result.other_shape)
    for name in shapes:
        if name not in reached:
            left = result.unfilled if name in result.name_map.optional else result.missing
            left.append(name)


def require_model(source: str, model: nn.Module | None, wanted: type[nn.Module]) -> None:
    """Raise a :class:`UserError` if the source is not for this kind of model."""
    if not isinstance(model, wanted):
        given = "none was given" if model is None else f"this one has {type(model).__name__}"
        raise UserError(
            f"{source} needs a config (--config-file) with MODEL.META_ARCHITECTURE "
            f"{wanted.__name__}; {given}"
        )
