"""A schedule from the headers of the adapters' files alone, without tensors and without PyTorch.

So the page draws it in milliseconds, however large the base is. A method that needs the weights, as
K-LoRA does for its choice, raises `NeedsWeights`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from compose.engine.method import method_of, needs_text
from compose.engine.schedule import Schedule, Units, scheduled
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
    try:
        return scheduled(method, shot, mixed, cast(Units, np.eye))
    except (AttributeError, TypeError) as error:  # it does more than weigh predictions
        raise NeedsWeights from error


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
