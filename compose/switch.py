"""LoRA Switch: one adapter at a time, another one every few steps.

Zhong et al. 2024, arXiv 2402.16843: at step t, counted from 1, the active adapter is
floor(((t - 1) mod N tau) / tau) + 1. github.com/maszhongming/Multi-LoRA-Composition. One evaluation
a step.

Turns may be unequal: `turns` says the steps of each, or `weigh` "trigger" deals out the N tau steps
of a round by how much each adapter's trigger words change the text embedding (W-Switch, arXiv
2606.03792, whose code is not published; compose/engine/texts/trigger_effects.py). There the last
steps are a character's; here turns go round as before.

Deliberate deviations from the authors' code: it turns to the next adapter at the end of a step, so
that its first adapter has one step more than the paper says; and it encodes the prompt once with
the first adapter's text encoder, where here each adapter's own change encodes it.
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
    """Adapters take turns; no adapter at all is the plain base.

    order: places among the shot's adapters, from 1; one that stands there twice has two turns.
    turns: the steps of each turn, in that order; `interval` for all where none are given.
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
        """Turns by what each adapter's trigger words change; a round keeps its steps."""
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
    """So many whole things dealt out by shares (Hamilton's method), at least one for each."""
    spare, total = count - len(shares), sum(shares)
    quotas = [spare * (share / total if total else 1 / len(shares)) for share in shares]
    found = [1 + int(quota) for quota in quotas]
    by_remainder = sorted(range(len(shares)), key=lambda at: int(quotas[at]) - quotas[at])
    for at in by_remainder[: count - sum(found)]:
        found[at] += 1
    return tuple(found)
