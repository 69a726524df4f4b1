"""LoRA Composite: every adapter by itself at every step, and the mean of what they predict.

Zhong et al. 2024, arXiv 2402.16843: the mean over adapters j of
eps_j(z, no prompt) + g (eps_j(z, prompt) - eps_j(z, no prompt)).
github.com/maszhongming/Multi-LoRA-Composition, pipeline_0.26.3.py. N evaluations a step.

Deliberate deviations from the authors' code: each adapter's own text-encoder change encodes the
prompt for its pass (`shared_text` sums them all for every pass, as there); and the mean is taken
without guidance too, where the authors' code keeps the last adapter's prediction only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from compose.engine.method import Eps, MethodAdapter, Mix, Part

if TYPE_CHECKING:
    from torch import Tensor

    from studio.adapters.adapter import Adapter


@dataclass(frozen=True)
class Composite:
    """The mean of the adapters' predictions; no adapter at all is the plain base."""

    shared_text: bool = field(
        default=False,
        metadata={"help": "read the prompt once, with the text encoders of all adapters merged"},
    )

    def check(self, adapters: "Sequence[Adapter]") -> None:
        """Any number of adapters of any kind can be averaged."""

    def prepare(self, adapters: Sequence[MethodAdapter], steps: int) -> "Composited":
        parts = tuple(Part(at, one.strength) for at, one in enumerate(adapters))
        text = parts if self.shared_text else None
        return Composited(tuple(Mix((part,), text) for part in parts) or (Mix(()),))


@dataclass(frozen=True)
class Composited:
    """A mix for each adapter, all of them at every step."""

    mixes: tuple[Mix, ...]

    def predict(self, step: int, eps: Eps) -> "Tensor":
        """The mean over the mixes, summed in their order."""
        first, *others = self.mixes
        total = eps(first)
        for mix in others:
            total = total + eps(mix)
        return total / len(self.mixes)
