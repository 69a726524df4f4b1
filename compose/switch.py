"""LoRA Switch: one adapter at a time; every few steps it is the next one's turn.

Zhong et al. 2024, arXiv 2402.16843: at step t, counted from 1, the active adapter is
floor(((t - 1) mod N tau) / tau) + 1. github.com/maszhongming/Multi-LoRA-Composition. One evaluation
a step.

Turns may be unequal: `turns` gives the steps of each, or `weigh` "trigger" divides the N tau steps
of a round by how much each adapter's trigger words change the text embedding (W-Switch, arXiv
2606.03792, whose code is not published; compose/engine/texts/trigger_effects.py). That paper keeps
the last steps for a character; here the turns go on in a circle.

Deliberate deviations from the authors' code. It changes adapters at the end of a step, so that its
first adapter has one step more than in the paper. And it encodes the prompt once, with the first
adapter's text encoder; here it is encoded with the text encoder of the adapter whose turn it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from compose.engine.method import InTurn, MethodAdapter, Mix, Part, check_places
from studio.errors import BadInput
from studio.requests.recipe import AtLeastOne
from studio.requests.validation import check as check_options
from studio.requests.validation import option

if TYPE_CHECKING:
    from studio.adapters.adapter import Adapter


@dataclass(frozen=True)
class Switch:
    """Adapters take turns; without adapters, the plain base.

    order: numbers of the shot's adapters, from 1; an adapter listed twice has two turns.
    turns: the steps of each turn, in that order; by default `interval` for each.
    """

    interval: AtLeastOne = option(5, "steps in a turn")
    order: tuple[int, ...] = option(
        (), "the order of turns, by adapter number from 1; default: as they are listed"
    )
    turns: tuple[AtLeastOne, ...] = option(
        (), "steps of each turn, such as 7,3,5; default: the interval for all"
    )
    weigh: Literal["equal", "trigger"] = option(
        "equal", "longer turns for trigger words that change the prompt's meaning more"
    )

    def check(self, adapters: "Sequence[Adapter]") -> None:
        """Every adapter must have a turn."""
        check_options(self)
        check_places("order", self.order, len(adapters))
        absent = set(range(1, len(adapters) + 1)) - set(self.order)
        if self.order and absent:
            raise BadInput(f"order: adapter {min(absent)} has no turn; leave it out of the mix.")
        count = len(self.order or adapters)
        if self.turns and len(self.turns) != count:
            raise BadInput(f"turns: {len(self.turns)} are given, and there are {count} turns.")
        if self.weigh == "trigger" and (self.turns or self.order):
            raise BadInput("weigh: trigger decides on the turns itself; leave turns and order out.")

    def weighed(self, effects: Sequence[float]) -> "Switch":
        """The same method with turns in proportion to `effects`; a round keeps its steps."""
        turns = apportion(effects, self.interval * len(effects))
        return replace(self, weigh="equal", turns=turns)

    def prepare(self, adapters: Sequence[MethodAdapter], steps: int) -> InTurn:
        order = [at - 1 for at in self.order] or range(len(adapters))
        mixes = [Mix((Part(at, adapters[at].strength),)) for at in order] or [Mix(())]
        turns = self.turns or (self.interval,) * len(mixes)
        return InTurn(
            tuple(mix for mix, turn in zip(mixes, turns, strict=True) for _ in range(turn))
        )


def apportion(shares: Sequence[float], count: int) -> tuple[int, ...]:
    """`count` divided into whole numbers in proportion to `shares`, each 1 or more.

    By largest remainders (Hamilton's method).
    """
    spare, total = count - len(shares), sum(shares)
    quotas = [spare * (share / total if total else 1 / len(shares)) for share in shares]
    parts = [1 + int(quota) for quota in quotas]
    by_remainder = sorted(range(len(shares)), key=lambda at: int(quotas[at]) - quotas[at])
    for at in by_remainder[: count - sum(parts)]:
        parts[at] += 1
    return tuple(parts)
