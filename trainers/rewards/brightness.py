"""A reward for a brightness."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from studio.requests.recipe import Share
from studio.requests.validation import option
from trainers.engine.from_prompts.alignment import Alignment
from trainers.rewards._luminance import luminance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True)
class Brightness(Alignment):
    """A brightness that all pictures have."""

    target: Share = option(0.5, "mean luminance, from 0 (black) to 1 (white)")

    def score(self, pixels: "Tensor", prompts: "Sequence[str]") -> "Tensor":
        """Minus the distance of the mean luminance from the target."""
        return -(luminance(pixels).mean(dim=(1, 2)) - self.target).abs()
