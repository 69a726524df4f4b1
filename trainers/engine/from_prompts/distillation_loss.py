"""The loss of a distillation, whose teacher is the base itself.

The teacher is the base with the student's deltas detached, so there is no second UNet.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from trainers.engine.distributed import places_of_rank
from trainers.engine.from_prompts.distillation import Distillation, Lesson
from trainers.engine.from_prompts.prompt_loss import PromptLoss
from trainers.engine.from_prompts.trajectories import Trajectories
from trainers.engine.objective import gather_texts


class DistillationLoss(PromptLoss[Distillation]):
    """The loss of a distillation: that of the student at points of the teacher's trajectories."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.trajectories = Trajectories(
            self._teach,
            self.diffusion,
            self.prompts,
            places=places_of_rank(self.accelerator, 0, self.of),
            of=self.of,
            shape=self.shape,
            length=self.kind.teacher_steps,
            batch=self.recipe.batch,
            shifted=self.kind.shifted,
            leaps=self.kind.leaps,
            seed=self.recipe.seed,
        )

    def begin(self, done: int) -> None:
        """Evaluate the teacher for the next step. done: number of steps taken."""
        super().begin(done)
        self.trajectories.advance(done, last=self.recipe.steps)

    def loss(self, rows: Sequence[int], *, clean: bool = False) -> Tensor:
        """The mean loss of these rows, a scalar with gradients. clean: not used here."""
        points = self.trajectories.points(self.done, rows)
        text = gather_texts(self.cache, points.prompts, self.base.device)

        def student(latents: Tensor, timesteps: Tensor) -> Tensor:
            with self.accelerator.autocast():
                return self.base.predict(latents, timesteps, text)

        return self.kind.loss(Lesson(points, student, self.diffusion))

    @torch.no_grad()
    def _teach(self, latents: Tensor, timestep: int, prompts: Sequence[str]) -> Tensor:
        """The guided prediction of the base without deltas."""
        with self.base_alone():
            return self.guided(latents, timestep, prompts, self.kind.guidance)
