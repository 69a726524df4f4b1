"""A seamless tile."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainers.engine.from_prompts.alignment import Alignment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True)
class Tile(Alignment):
    """Edges that meet: the picture can be laid side by side without a seam."""

    def score(self, pixels: "Tensor", prompts: "Sequence[str]") -> "Tensor":
        """Minus the mean difference of opposite edges."""
        across = (pixels[..., 0] - pixels[..., -1]).abs().mean(dim=(1, 2))
        down = (pixels[..., 0, :] - pixels[..., -1, :]).abs().mean(dim=(1, 2))
        return -(across + down) / 2
