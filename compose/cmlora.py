"""CMLoRA: every adapter predicts at every step; one leads, the others reuse their deep features.

Zou et al. 2025, arXiv 2502.04923 (ICLR), github.com/Yqcca/CMLoRA, pipeline_offline.py. With N
adapters the prediction is the mean of w_j eps_j: the leading adapter weighs w0 = N - 1/2 times as
much as another, and the weights sum to N. Adapters of high frequency lead in the first 120 / 220
of the steps, those of low frequency afterwards. At refresh steps, every 2nd at the start and the
end and every 3rd from 0.375 to 0.875 of the steps, the turn passes to the next adapter, which is
evaluated in full; all others reuse the deep features of their own last full evaluation (DeepCache,
compose/engine/deep_features.py). About 0.35 N + 0.3 evaluations a step, see
compose/engine/schedule.py.

The authors' code never reuses anything at its default interval, and where it does, the adapters of
low frequency keep the features of the first step; its split is step 120 whatever the number of
steps, its weights never decay as they are meant to, and the prompt is encoded once. Here every
adapter's features are renewed when its turn comes; of the adapters that may lead in a phase, the
one whose turn came last does; the split is a share of the steps; decay counts; and each adapter's
own text-encoder change encodes the prompt for its pass.

The paper leaves open which adapters are of low frequency. Here they are those whose profile
(compose/engine/detail_profile.py) says that they smooth pictures; without profiles all adapters
lead in turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Lt

from compose.engine.method import Eps, MethodAdapter, Mix, Part, check_places
from studio.errors import BadInput
from studio.requests.recipe import Count, Share
from studio.requests.validation import check as check_options
from studio.requests.validation import option

if TYPE_CHECKING:
    from torch import Tensor

    from studio.adapters.adapter import Adapter

MIDDLE = (0.375, 0.875)  # shares of the steps between which the paper's intervals are longer


@dataclass(frozen=True)
class CMLoRA:
    """The weighted mean of the adapters' predictions; without adapters, the base's prediction.

    order, low: numbers of the shot's adapters, from 1. By default both follow the adapters'
    profiles, if every adapter has one. interval: steps from one refresh to the next, 0 for the
    paper's; at 1 every evaluation is a full one.
    """

    order: tuple[int, ...] = option(
        (), "the order in which adapters lead, by number from 1; default: by their profiles"
    )
    low: tuple[int, ...] = option(
        (), "adapters that lead late, such as a background; default: by their profiles"
    )
    split: Share = option(120 / 220, "share of the steps after which the late adapters lead")
    interval: Count = option(0, "steps in a turn; at 0 the paper's 2, 3 and 2")
    cache: bool = option(True, "faster: keep deep features from turn to turn")
    lead: Annotated[float, Ge(1)] | None = option(
        None, "weight of the leading adapter; others have 1; default: their number + 0.5"
    )
    decay: Annotated[float, Ge(0), Lt(1)] = option(
        0.0, "how fast that weight falls with each turn: 0.5 takes off 1/2, then 1/4"
    )

    def check(self, adapters: "Sequence[Adapter]") -> None:
        """Any number of adapters of any kind can be averaged."""
        check_options(self)
        count = len(adapters)
        check_places("order", self.order, count)
        check_places("low", self.low, count)
        if self.order and sorted(self.order) != list(range(1, count + 1)):
            raise BadInput(f"order: every adapter from 1 to {count} is to stand there once.")

    def prepare(self, adapters: Sequence[MethodAdapter], steps: int) -> "Rounds":
        mixes = tuple(Mix((Part(at, adapter.strength),)) for at, adapter in enumerate(adapters))
        if not mixes:
            return Rounds((Mix(()),), (Round(frozenset([0]), (1.0,)),) * steps)
        order, low = self._roles(adapters)
        everyone = frozenset(order)
        caching = self.cache and self.interval != 1 and len(mixes) > 1
        rounds = []
        turn, last = -1, dict.fromkeys(order, -1)  # the number of each adapter's last turn
        for step in range(steps):
            fresh = frozenset() if caching else everyone
            if self._refreshes(step, steps):
                turn += 1
                last[order[turn % len(order)]] = turn
                fresh |= everyone if step == 0 else {order[turn % len(order)]}
            late = step / steps > self.split
            leading = [at for at in order if (at in low) == late] or order
            leader = max(leading, key=lambda at: last[at])  # before any turn, the first in `order`
            rounds.append(Round(fresh, self._weights(leader, turn, len(mixes))))
        return Rounds(mixes, tuple(rounds))

    def _roles(self, adapters: Sequence[MethodAdapter]) -> tuple[list[int], set[int]]:
        """The order of turns, and the adapters that lead late; both as places from 0."""
        places = list(range(len(adapters)))
        rises = [each.adapter.recipe.get("frequency_rise") for each in adapters]
        known = [rise for rise in rises if isinstance(rise, float)]
        profiled = len(known) == len(places)
        order = [at - 1 for at in self.order]
        if not order:
            order = sorted(places, key=lambda at: -known[at]) if profiled else places
        low = {at - 1 for at in self.low}
        if not low and profiled:
            low = {at for at in places if known[at] < 0}
        return order, low

    def _refreshes(self, step: int, steps: int) -> bool:
        if self.interval:
            return step % self.interval == 0
        start, end = (int(share * steps) for share in MIDDLE)
        if step < start:
            return step % 2 == 0
        return (step - start) % 3 == 0 if step < end else (step - end) % 2 == 0

    def _weights(self, leader: int, turn: int, count: int) -> tuple[float, ...]:
        """w_j of every adapter at a turn, counted from 0; the weights sum to `count`."""
        lead = count - 0.5 if self.lead is None else self.lead
        lead = max(1.0, lead - sum(self.decay**at for at in range(1, turn + 1)))
        other = count / (lead + count - 1)
        return tuple(lead * other if at == leader else other for at in range(count))


@dataclass(frozen=True)
class Round:
    """What happens in one step.

    fresh: the adapters that are evaluated in full. weights: of each adapter's prediction.
    """

    fresh: frozenset[int]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Rounds:
    """The plan: one mix for each adapter, and one Round for each step."""

    mixes: tuple[Mix, ...]
    rounds: tuple[Round, ...]

    def predict(self, step: int, eps: Eps) -> "Tensor":
        """The weighted mean, summed in the adapters' order."""
        now = self.rounds[step]
        predicted = [
            weight * eps(mix, None if at in now.fresh else mix)
            for at, (mix, weight) in enumerate(zip(self.mixes, now.weights, strict=True))
        ]
        return sum(predicted[1:], predicted[0]) / len(predicted)
