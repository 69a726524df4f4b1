"""What the losses of kinds that learn from prompts share: batches of places, and the base."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import cycle
from typing import Generic, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor

from studio.adapters.delta import detached
from studio.bases.base import Base
from studio.requests.recipe import Recipe
from trainers.engine.data.batches import Batch
from trainers.engine.data.cache import Cache
from trainers.engine.from_prompts.prompt_kind import PromptKind
from trainers.engine.kind import StepPlan
from trainers.engine.objective import Objective, gather_texts

K = TypeVar("K", bound=PromptKind)


@dataclass(eq=False)
class PromptLoss(Generic[K]):
    """From places of a batch to a loss there; as `BatchLoss` for pictures.

    cache: of the prompts' embeddings. layers: those that carry the deltas. shape: of one picture's
    latents. of: how many places the batches of a step have.
    """

    kind: K
    base: Base
    recipe: Recipe
    prompts: Sequence[str]
    cache: Cache
    accelerator: Accelerator
    layers: Collection[str]

    def __post_init__(self) -> None:
        self.diffusion = Objective.of(self.base)
        side = (self.recipe.size or self.base.size) // self.base.latent_factor
        self.shape = (4, side, side)
        self.of = self.recipe.batch * self.recipe.accumulation
        self.done = 0

    @property
    def measured(self) -> dict[str, float]:
        """Nothing but the loss."""
        return {}

    def batches(self) -> Iterator[Batch]:
        """The places of each batch of a step, without end."""
        size = self.recipe.batch
        return cycle([Batch(tuple(range(at, at + size))) for at in range(0, self.of, size)])

    def begin(self, done: int) -> None:
        """Called before each step. done: how many steps were taken."""
        self.done = done

    def draw_rows(
        self,
        numbers: Sequence[int],
        places: Collection[int],
        generator: torch.Generator,
        plan: StepPlan,
    ) -> Sequence[int]:
        """The places of a batch that are this process's own."""
        return [numbers[place] for place in places]

    def base_alone(self) -> AbstractContextManager[None]:
        """Inside the block the base has no deltas."""
        return detached(self.base.layers(), self.layers)

    def guided(
        self, latents: Tensor, timestep: int, prompts: Sequence[str], guidance: float
    ) -> Tensor:
        """The prediction under classifier-free guidance, [B, 4, h, w]; one evaluation at 1."""
        without = [] if guidance == 1 else [""] * len(prompts)
        text = gather_texts(self.cache, [*without, *prompts], self.base.device)
        latents = torch.cat([latents, latents]) if without else latents
        with self.accelerator.autocast():
            predicted = self.base.predict(latents, timestep, text)
        if not without:
            return predicted
        plain, prompted = predicted.chunk(2)
        return plain + guidance * (prompted - plain)
