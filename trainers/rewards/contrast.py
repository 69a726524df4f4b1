"""A reward for a contrast."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Le

from studio.requests.validation import option
from trainers.engine.from_prompts.alignment import Alignment
from trainers.rewards._luminance import luminance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True)
class Contrast(Alignment):
    """A contrast that all pictures have."""

    target: Annotated[float, Ge(0), Le(0.5)] = option(
        0.3, "standard deviation of the luminance, from 0 to 0.5"
    )

    def score(self, pixels: "Tensor", prompts: "Sequence[str]") -> "Tensor":
        """Minus the distance of the luminance's standard deviation from the target."""
        return -(luminance(pixels).flatten(1).std(dim=1) - self.target).abs()
