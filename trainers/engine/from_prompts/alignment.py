"""`Alignment`, a kind that learns from a reward of what the base draws. No PyTorch here."""

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
    """A low-rank change that moves the base's pictures to a reward.

    A file of trainers/rewards/ has `score`, and `check_files` where it reads files.
    """

    limit: Positive = option(
        0.4, "how far a picture may move from the base's own, as a share of its latents"
    )
    pictures: AtLeastOne = option(
        32, "different pictures to learn from, each drawn many times; rounded up to whole steps"
    )
    guidance: Annotated[float, Ge(1)] = option(5.0, "guidance scale of the pictures")
    sampling_steps: Annotated[int, Ge(1), Le(1000)] = option(8, "denoising steps of a picture")
    last: AtLeastOne = option(2, "steps, the last ones, that the gradient goes through")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.last > self.sampling_steps:
            raise BadInput(
                f"last must be at most sampling_steps ({self.sampling_steps}); it is {self.last}"
            )

    def score(self, pixels: "Tensor", prompts: "Sequence[str]") -> "Tensor":
        """A number for each picture, higher is better: [B], with gradients to the pixels.

        pixels: [B, 3, H, W], float32 in 0 .. 1. prompts: of each.
        """
        raise NotImplementedError

    def evaluations(self, recipe: "Recipe") -> tuple[float, float]:
        """The last ones learn; the base's own pictures are drawn once each."""
        rows = 1 if self.guidance == 1 else 2
        drawn = recipe.steps * recipe.batch * recipe.accumulation
        own = self.sampling_steps * min(1, self.pictures / drawn)
        return rows * self.last, rows * (self.sampling_steps - self.last + own)

    def published(self, base: "Base | BaseInfo") -> dict[str, object]:
        """Ours: the authors train 20 epochs of 128 pictures a step on four GPUs."""
        if base.size <= SMALL:
            return {"steps": 60, "batch": 2, "lr": 3e-4}
        return {"steps": 200, "batch": 1, "accumulation": 4, "lr": 3e-4, "checkpointing": True}
