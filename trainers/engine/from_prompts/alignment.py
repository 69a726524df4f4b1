"""`Alignment`, a kind that learns from a reward for the base's pictures. No PyTorch here."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Le

from studio.errors import BadInput
from studio.requests.recipe import AtLeastOne, Positive
from studio.requests.validation import option
from trainers.engine.from_prompts.prompt_kind import PromptKind
from trainers.engine.kind import SMALL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from studio.bases.base import Base
    from studio.bases.info import BaseInfo
    from studio.requests.recipe import Recipe


@dataclass(frozen=True)
class Alignment(PromptKind):
    """A low-rank change that moves the base's pictures towards a reward.

    Each file of trainers/rewards/ defines `score`, and `check_files` where it reads files.
    """

    limit: Positive = option(
        0.4, "how far a picture may move from the base's own, as a share of its latents"
    )
    pictures: AtLeastOne = option(
        32, "number of different pictures to learn from; rounded up to whole steps"
    )
    guidance: Annotated[float, Ge(1)] = option(5.0, "guidance scale of the pictures")
    sampling_steps: Annotated[int, Ge(1), Le(1000)] = option(8, "denoising steps of a picture")
    last: AtLeastOne = option(2, "number of denoising steps, at the end, with gradients")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.last > self.sampling_steps:
            raise BadInput(
                f"last must be at most sampling_steps ({self.sampling_steps}); it is {self.last}"
            )

    def score(self, pixels: "Tensor", prompts: "Sequence[str]") -> "Tensor":
        """A score for each picture, [B], with gradients to the pixels. Higher is better.

        pixels: [B, 3, H, W], float32 in 0 .. 1. prompts: that of each picture.
        """
        raise NotImplementedError

    def evaluations(self, recipe: "Recipe") -> tuple[float, float]:
        """As in `PromptKind`. The base alone also draws each picture once, without gradients."""
        rows = 1 if self.guidance == 1 else 2
        drawn = recipe.steps * recipe.batch * recipe.accumulation
        by_base = self.sampling_steps * min(1, self.pictures / drawn)
        return rows * self.last, rows * (self.sampling_steps - self.last + by_base)

    def published(self, base: "Base | BaseInfo") -> dict[str, object]:
        """Our own settings. The authors train 20 epochs, on four GPUs with 128 pictures a step."""
        if base.size <= SMALL:
            return {"steps": 60, "batch": 2, "lr": 3e-4}
        return {"steps": 200, "batch": 1, "accumulation": 4, "lr": 3e-4, "checkpointing": True}
