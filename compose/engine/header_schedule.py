"""A schedule from the headers of the adapters' files alone, without tensors and without PyTorch.

The page draws it in milliseconds, however large the base is. K-LoRA chooses by the weights
themselves; it, and whatever else needs them, raises `NeedsWeights`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from compose.engine.method import (
    Call,
    Eps,
    Halves,
    Plan,
    method_of,
    needs_text,
    phases,
    shares_of,
)
from compose.engine.schedule import Schedule, evaluations_of, scheduled
from studio.adapters.blora_blocks import layers_of_half, split_half, trained_blocks
from studio.adapters.describe import find_adapter_file
from studio.adapters.formats.metadata import read_info
from studio.adapters.formats.survey import survey
from studio.adapters.safetensors_header import read_header
from studio.errors import BadInput
from studio.json_value import JSON
from studio.requests.speed import with_speed

if TYPE_CHECKING:
    from torch import Tensor

    from studio.adapters.adapter import Adapter
    from studio.requests.shot import Shot


class NeedsWeights(Exception):
    """What a method does with these adapters depends on their weights."""


def outline(shot: "Shot") -> Schedule:
    """What `compose.schedule` tells of a shot whose adapters are files, from their headers.

    Raises BadInput as that does, and NeedsWeights where headers do not tell it.
    """
    shot.check()
    shot, _ = with_speed(shot)
    told = [HeaderAdapter(_header(str(file)), float(strength)) for file, strength in shot.adapters]
    mixed = [one for one in told if one.header.deltas or not one.header.embeddings]
    method = method_of(shot)
    method.check([one.adapter for one in mixed])
    if needs_text(method):
        raise NeedsWeights
    calls, weights = [], []
    for phase, steps in phases(method, shot.passes):
        asks, counted = _recorded(phase.prepare(mixed, steps), steps)
        calls, weights = calls + asks, weights + counted
    names = [one.header.name for one in mixed]
    return scheduled(names, mixed, calls, weights, times=evaluations_of(method, shot))


@dataclass(frozen=True)
class _Header:
    """Stands for an Adapter of which only the header was read: it has layers, but no deltas."""

    name: str
    kind: str
    deltas: Mapping[str, None]
    embeddings: Mapping[str, object]
    recipe: Mapping[str, JSON]


@dataclass(frozen=True)
class HeaderAdapter:
    """An adapter of which only the header was read; see MethodAdapter."""

    header: _Header
    strength: float

    @property
    def adapter(self) -> "Adapter":
        return cast("Adapter", self.header)

    def changed(self) -> Sequence[str]:
        return list(self.header.deltas)

    def change(self, layer: str) -> "Tensor":
        raise NeedsWeights

    def size(self, layer: str, k: int) -> "Tensor":
        raise NeedsWeights


def _header(text: str) -> _Header:
    name, half = split_half(text)
    path = find_adapter_file(Path(name))
    header = read_header(path)
    contents, facts = survey(header, path), read_info(header.metadata, path)
    layers = contents.layers
    if half:
        trained = trained_blocks(facts.base, facts.family or contents.family, facts.recipe)
        layers = layers_of_half(half, layers, trained)
        if not layers:
            raise BadInput(f"the adapter {path.stem} has no {half} half")
    called = f"{facts.name or path.stem} {half}".rstrip()
    return _Header(
        called, facts.kind, dict.fromkeys(layers), contents.embeddings, dict(facts.recipe)
    )


@dataclass(frozen=True)
class _Sum:
    """Stands for a prediction: the weight of each evaluation in it, by its number in the step."""

    parts: Mapping[int, float] = field(default_factory=dict)

    def __add__(self, other: object) -> "_Sum":
        if isinstance(other, _Sum):
            keys = [*self.parts, *(key for key in other.parts if key not in self.parts)]
            mine, theirs = self.parts, other.parts
            return _Sum({key: mine.get(key, 0.0) + theirs.get(key, 0.0) for key in keys})
        return NotImplemented

    def __mul__(self, factor: object) -> "_Sum":
        if isinstance(factor, int | float):
            return _Sum({key: factor * part for key, part in self.parts.items()})
        return NotImplemented

    __rmul__ = __mul__

    def __sub__(self, other: object) -> "_Sum":
        return self + -1 * other if isinstance(other, _Sum) else NotImplemented

    def __truediv__(self, divisor: object) -> "_Sum":
        if isinstance(divisor, int | float):
            return _Sum({key: part / divisor for key, part in self.parts.items()})
        return NotImplemented


def _recorded(plan: Plan, steps: int) -> tuple[list[list[Call]], list[list[float]]]:
    """The calls of a plan at every step, and the weight of each answer in the prediction."""
    calls: list[list[Call]] = []
    weights: list[list[float]] = []

    def answer(call: Call) -> "Tensor | Halves":
        calls[-1].append(call)
        unit = cast("Tensor", _Sum({len(calls[-1]) - 1: 1.0}))
        return unit if call.guided else Halves(unit, unit, 1.0)

    for step in range(steps):
        calls.append([])
        try:
            predicted: object = plan.predict(step, Eps(answer, shares_of(plan)))
        except (AttributeError, TypeError) as error:  # more than a weighted sum
            raise NeedsWeights from error
        assert isinstance(predicted, _Sum)
        weights.append([predicted.parts.get(at, 0.0) for at in range(len(calls[-1]))])
    return calls, weights
