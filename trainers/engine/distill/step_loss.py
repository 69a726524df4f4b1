"""The loss of a step of a distillation: the base as its own teacher.

The teacher is the base with the student's deltas taken off, so there is no second UNet.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import cycle

import torch
from accelerate import Accelerator
from torch import Tensor

from studio.adapters.delta import detached
from studio.bases.base import Base
from studio.requests.recipe import Recipe
from trainers.engine.data.batches import Batch
from trainers.engine.data.cache import Cache
from trainers.engine.distill.distillation import Distillation, Lesson
from trainers.engine.distill.trajectories import Trajectories
from trainers.engine.distributed import places_of_rank
from trainers.engine.kind import StepPlan
from trainers.engine.objective import Objective, gather_texts


class DistillationLoss:
    """From places of a batch to the loss of the student there; as `BatchLoss` for pictures.

    layers: those that carry the student's deltas.
    """

    def __init__(
        self,
        kind: Distillation,
        base: Base,
        recipe: Recipe,
        prompts: Sequence[str],
        cache: Cache,
        *,
        accelerator: Accelerator,
        layers: Collection[str],
    ) -> None:
        self.kind, self.base, self.recipe, self.cache = kind, base, recipe, cache
        self.accelerator, self.layers = accelerator, layers
        self.diffusion = Objective(
            base.alphas_cumprod,
            prediction_type=base.prediction_type,
            min_snr=0,
            device=base.device,
        )
        side = (recipe.size or base.size) // base.latent_factor
        of = recipe.batch * recipe.accumulation
        self.trajectories = Trajectories(
            self._teach,
            self.diffusion,
            prompts,
            places=places_of_rank(accelerator, 0, of),
            of=of,
            shape=(4, side, side),
            length=kind.teacher_steps,
            batch=recipe.batch,
            shifted=kind.shifted,
            leaps=kind.leaps,
            seed=recipe.seed,
        )
        self.done = 0

    def batches(self) -> Iterator[Batch]:
        """The places of each batch of a step, without end."""
        size = self.recipe.batch
        starts = range(0, size * self.recipe.accumulation, size)
        return cycle([Batch(tuple(range(start, start + size))) for start in starts])

    def begin(self, done: int) -> None:
        """Evaluate the teacher for the step that has so many before it."""
        self.done = done
        self.trajectories.advance(done, last=self.recipe.steps)

    def draw_rows(
        self,
        numbers: Sequence[int],
        places: Collection[int],
        generator: torch.Generator,
        plan: StepPlan,
    ) -> Sequence[int]:
        """The places of a batch that are this process's own."""
        return [numbers[place] for place in places]

    def loss(self, rows: Sequence[int], *, clean: bool = False) -> Tensor:
        """The mean loss of these rows, a scalar with gradients. clean: of no distillation."""
        points = self.trajectories.points(self.done, rows)
        text = gather_texts(self.cache, points.prompts, self.base.device)

        def student(latents: Tensor, timesteps: Tensor) -> Tensor:
            with self.accelerator.autocast():
                return self.base.predict(latents, timesteps, text)

        return self.kind.loss(Lesson(points, student, self.diffusion))

    @torch.no_grad()
    def _teach(self, latents: Tensor, timestep: int, prompts: Sequence[str]) -> Tensor:
        """The untouched base's guided prediction."""
        text = gather_texts(self.cache, [""] * len(prompts) + [*prompts], self.base.device)
        with detached(self.base.layers(), self.layers), self.accelerator.autocast():
            both = self.base.predict(torch.cat([latents, latents]), timestep, text)
        without, prompted = both.chunk(2)
        return without + self.kind.guidance * (prompted - without)
