"""A schedule from the headers of the adapters' files alone, without tensors and without PyTorch.

So the page draws it in milliseconds, however large the base is. A method that needs the weights, as
K-LoRA does for its choice, raises `NeedsWeights`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from compose.engine.method import Call, Plan, method_of, needs_text, phases, record_step
from compose.engine.schedule import Schedule, evaluations_of, scheduled
from studio.adapters.adapter_header import outline_adapter
from studio.adapters.formats.metadata import AdapterOutline
from studio.requests.speed import with_speed

if TYPE_CHECKING:
    from torch import Tensor

    from studio.adapters.adapter import Adapter
    from studio.requests.shot import Shot


class NeedsWeights(Exception):
    """The schedule depends on the adapters' weights; headers are not enough."""


def outline(shot: "Shot") -> Schedule:
    """The schedule of a shot whose adapters are files, as `compose.schedule`, from their headers.

    Raises BadInput as `compose.schedule` does, and NeedsWeights where headers are not enough.
    """
    shot.check()
    shot, _ = with_speed(shot)
    outlined = [
        OutlinedAdapter(outline_adapter(str(one)), float(weight)) for one, weight in shot.adapters
    ]
    mixed = [one for one in outlined if one.outline.deltas or not one.outline.embeddings]
    method = method_of(shot)
    method.check([one.adapter for one in mixed])
    if needs_text(method):
        raise NeedsWeights
    calls, weights = [], []
    for phase, steps in phases(method, shot.passes):
        asks, counted = _recorded(phase.prepare(mixed, steps), steps)
        calls, weights = calls + asks, weights + counted
    names = [one.outline.name or one.outline.path.stem for one in mixed]
    return scheduled(names, mixed, calls, weights, times=evaluations_of(method, shot))


@dataclass(frozen=True)
class OutlinedAdapter:
    """An adapter of which only the header was read; see MethodAdapter."""

    outline: AdapterOutline
    strength: float

    @property
    def adapter(self) -> "Adapter":
        return cast("Adapter", self.outline)

    def changed(self) -> Sequence[str]:
        return list(self.outline.deltas)

    def change(self, layer: str) -> "Tensor":
        raise NeedsWeights

    def size(self, layer: str, k: int) -> "Tensor":
        raise NeedsWeights


@dataclass(frozen=True)
class _Sum:
    """A weighted sum of predictions, in place of a tensor.

    parts: the weight of each evaluation, by the evaluation's number in the step.
    """

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
    for step in range(steps):
        try:
            asked, predicted = record_step(plan, step, lambda at: cast("Tensor", _Sum({at: 1.0})))
        except (AttributeError, TypeError) as error:  # the plan does more than a weighted sum
            raise NeedsWeights from error
        parts = cast(_Sum, predicted).parts
        calls.append(asked)
        weights.append([parts.get(at, 0.0) for at in range(len(asked))])
    return calls, weights
