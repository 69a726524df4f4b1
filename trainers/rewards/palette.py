"""A reward for a palette."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import MinLen

from studio.errors import BadInput
from studio.requests.validation import option
from trainers.engine.from_prompts.alignment import Alignment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True)
class Palette(Alignment):
    """Pictures in a few colours only."""

    colours: Annotated[tuple[str, ...], MinLen(1)] = option(
        ("black", "white"), "the colours, by name or as #ff8800"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._rgb()  # raises BadInput for an unknown colour

    def score(self, pixels: "Tensor", prompts: "Sequence[str]") -> "Tensor":
        """Minus the mean distance of a pixel to the nearest of the colours, in RGB."""
        import torch

        colours = torch.tensor(self._rgb(), device=pixels.device) / 255  # -> [N, 3]
        difference = pixels[:, None] - colours[None, :, :, None, None]  # -> [B, N, 3, H, W]
        squared = difference.square().sum(2).amin(1)
        return -(squared + 1e-6).sqrt().mean(dim=(1, 2))

    def _rgb(self) -> list[tuple[int, ...]]:
        from PIL import ImageColor

        try:
            return [ImageColor.getrgb(name)[:3] for name in self.colours]
        except ValueError as error:
            raise BadInput(f"colours: {error}; write a name or #rrggbb") from error
