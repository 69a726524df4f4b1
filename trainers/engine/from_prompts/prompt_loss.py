"""What the losses of kinds that learn from prompts share: their batches, and how they use the base.

A step of such a kind has places 0 to batch * accumulation - 1, in which it learns from one picture
each. Batches are made of places, and processes share them.
"""

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
    """The base class of the losses from prompts; `BatchLoss` is the loss on pictures.

    cache: holds the prompts' embeddings. layers: names of the layers with deltas.
    shape: that of one picture's latents. of: number of places in a step.
    done: number of steps taken.
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
        """Other measurements of the step, by name."""
        return {}

    def batches(self) -> Iterator[Batch]:
        """Endless batches of places; each step has the same."""
        size = self.recipe.batch
        starts = range(0, self.of, size)
        return cycle([Batch(tuple(range(start, start + size))) for start in starts])

    def begin(self, done: int) -> None:
        """Called before each step. done: number of steps taken."""
        self.done = done

    def draw_rows(
        self,
        numbers: Sequence[int],
        places: Collection[int],
        generator: torch.Generator,
        plan: StepPlan,
    ) -> Sequence[int]:
        """The places that this process computes. numbers: the batch's places; places: which."""
        return [numbers[place] for place in places]

    def base_alone(self) -> AbstractContextManager[None]:
        """Inside the block, the deltas are detached."""
        return detached(self.base.layers(), self.layers)

    def guided(
        self, latents: Tensor, timestep: int, prompts: Sequence[str], guidance: float
    ) -> Tensor:
        """The prediction with classifier-free guidance, [B, 4, h, w].

        A guidance of 1 needs no unconditional prediction.
        """
        empty = [] if guidance == 1 else [""] * len(prompts)
        text = gather_texts(self.cache, [*empty, *prompts], self.base.device)
        latents = torch.cat([latents, latents]) if empty else latents
        with self.accelerator.autocast():
            predicted = self.base.predict(latents, timestep, text)
        if not empty:
            return predicted
        unconditional, conditional = predicted.chunk(2)
        return unconditional + guidance * (conditional - unconditional)
