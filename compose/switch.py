"""LoRA Switch: one adapter at a time, another one every few steps.

Zhong et al. 2024, arXiv 2402.16843: at step t, counted from 1, the active adapter is
floor(((t - 1) mod N tau) / tau) + 1. github.com/maszhongming/Multi-LoRA-Composition. One evaluation
a step.

Deliberate deviations from the authors' code: it turns to the next adapter at the end of a step, so
that its first adapter has one step more than the paper says; and it encodes the prompt once with
the first adapter's text encoder, where here each adapter's own change encodes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from compose.engine.method import Eps, MethodAdapter, Mix, Part, check_places
from studio.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

    from studio.adapters.adapter import Adapter


@dataclass(frozen=True)
class Switch:
    """Adapters take turns; no adapter at all is the plain base.

    order: places among the shot's adapters, from 1; one that stands there twice has two turns.
    """

    interval: int = field(default=5, metadata={"help": "steps in a turn"})
    order: tuple[int, ...] = field(
        default=(),
        metadata={
            "help": "the order of turns, by adapter number from 1; default: as they are listed"
        },
    )

    def check(self, adapters: "Sequence[Adapter]") -> None:
        """Every adapter must have a turn."""
        if self.interval < 1:
            raise BadInput(f"interval: {self.interval} is no number of steps; 1 is the least.")
        check_places("order", self.order, len(adapters))
        absent = set(range(1, len(adapters) + 1)) - set(self.order)
        if self.order and absent:
            raise BadInput(f"order: adapter {min(absent)} has no turn; leave it out of the mix.")

    def prepare(self, adapters: Sequence[MethodAdapter], steps: int) -> "Switched":
        turns = [at - 1 for at in self.order] or range(len(adapters))
        mixes = tuple(Mix((Part(at, adapters[at].strength),)) for at in turns)
        return Switched(mixes or (Mix(()),), self.interval)


@dataclass(frozen=True)
class Switched:
    """The mixes in the order of their turns."""

    mixes: tuple[Mix, ...]
    interval: int

    def predict(self, step: int, eps: Eps) -> "Tensor":
        """One evaluation, of the adapter whose turn it is."""
        return eps(self.mixes[step // self.interval % len(self.mixes)])
