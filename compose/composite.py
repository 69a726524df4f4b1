"""LoRA Composite: at every step each adapter predicts by itself, and the mean is taken.

Zhong et al. 2024, arXiv 2402.16843: the mean over adapters j of
eps_j(z, no prompt) + g (eps_j(z, prompt) - eps_j(z, no prompt)).
github.com/maszhongming/Multi-LoRA-Composition, pipeline_0.26.3.py. N evaluations a step.

The mean may be weighted: by `weights`, or with `weigh` "trigger" by how much each adapter's trigger
words change the text embedding (W-Composite, arXiv 2606.03792, whose code is not published;
compose/engine/texts/trigger_effects.py).

Deliberate deviations from the authors' code. For each adapter's evaluation the prompt is encoded
with that adapter's change to the text encoder alone; `shared_text` sums the changes of all adapters
instead, as the authors do. The mean is taken without guidance too; the authors' code then keeps
only the last adapter's prediction.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from compose.engine.method import Eps, MethodAdapter, Mix, Part
from studio.errors import BadInput
from studio.requests.recipe import Amount
from studio.requests.validation import check as check_options
from studio.requests.validation import option

if TYPE_CHECKING:
    from torch import Tensor

    from studio.adapters.adapter import Adapter


@dataclass(frozen=True)
class Composite:
    """The mean of the adapters' predictions; without adapters, the base's prediction."""

    shared_text: bool = option(
        False, "read the prompt once, with the text encoders of all adapters merged"
    )
    weights: tuple[Amount, ...] = option(
        (), "weight of each adapter in the mean, such as 2,1; default: equal"
    )
    weigh: Literal["equal", "trigger"] = option(
        "equal", "more weight for trigger words that change the prompt's meaning more"
    )

    def check(self, adapters: "Sequence[Adapter]") -> None:
        """Any number of adapters of any kind can be averaged."""
        check_options(self)
        if self.weights and len(self.weights) != len(adapters):
            raise BadInput(
                f"weights: {len(self.weights)} are given, and there are {len(adapters)} adapters."
            )
        if self.weights and sum(self.weights) == 0:
            raise BadInput("weights: give one above 0.")
        if self.weigh == "trigger" and self.weights:
            raise BadInput("weigh: trigger decides on the weights itself; leave weights out.")

    def weighed(self, effects: Sequence[float]) -> "Composite":
        """The same method with `effects` as weights, or equal weights where all effects are 0."""
        return replace(self, weigh="equal", weights=tuple(effects) if any(effects) else ())

    def prepare(self, adapters: Sequence[MethodAdapter], steps: int) -> "Composited":
        parts = tuple(Part(at, adapter.strength) for at, adapter in enumerate(adapters))
        text = parts if self.shared_text else None
        mixes = tuple(Mix((part,), text) for part in parts) or (Mix(()),)
        # Weights sum to their number: equal weights are 1 each, and multiplying changes no bit.
        mean = sum(self.weights) / len(mixes)
        return Composited(mixes, tuple(w / mean for w in self.weights) or (1.0,) * len(mixes))


@dataclass(frozen=True)
class Composited:
    """The plan: every mix is evaluated at every step; `weights` are those of their predictions."""

    mixes: tuple[Mix, ...]
    weights: tuple[float, ...]

    def predict(self, step: int, eps: Eps) -> "Tensor":
        """The weighted mean over the mixes, summed in the order of `mixes`."""
        first, *others = (
            weight * eps(mix) for mix, weight in zip(self.mixes, self.weights, strict=True)
        )
        return sum(others, first) / len(self.mixes)
