"""A reward for seamless tiles."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainers.engine.from_prompts.alignment import Alignment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True)
class Tile(Alignment):
    """Edges that match, so that copies of the picture join without a seam."""

    def score(self, pixels: "Tensor", prompts: "Sequence[str]") -> "Tensor":
        """Minus the mean difference of opposite edges."""
        across = (pixels[..., 0] - pixels[..., -1]).abs().mean(dim=(1, 2))
        down = (pixels[..., 0, :] - pixels[..., -1, :]).abs().mean(dim=(1, 2))
        return -(across + down) / 2
