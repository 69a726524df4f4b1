"""Merge: all adapters at once, at every step.

W' = W + sum of strength x dW, the exact sum, as `set_adapters` of diffusers mixes LoRAs: nothing is
divided by the number of adapters, and no cross terms between factors arise (peft's `linear`
combination has them). A text encoder's weights are summed in the same way. One evaluation a step.

Deliberate deviation: strength multiplies the whole change, also of DoRA, whose change is not linear
in its factors; peft scales the factors inside DoRA's norm.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compose._method import Eps, Ingredient, Mix, Part

if TYPE_CHECKING:
    from torch import Tensor

    from studio.adapter import Adapter

__all__ = ["Merge"]


@dataclass(frozen=True)
class Merge:
    """The sum of all changes; no adapter at all is the plain base."""

    def check(self, adapters: "Sequence[Adapter]") -> None:
        """Any number of adapters of any kind can be summed."""

    def prepare(self, adapters: Sequence[Ingredient], steps: int) -> "Merged":
        parts = (Part(at, one.strength) for at, one in enumerate(adapters))
        return Merged(Mix(tuple(parts)))


@dataclass(frozen=True)
class Merged:
    """One mix for all steps."""

    mix: Mix

    def predict(self, step: int, eps: Eps) -> "Tensor":
        """One evaluation, whatever the step."""
        return eps(self.mix)
