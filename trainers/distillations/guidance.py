"""Guidance distillation: one evaluation of the UNet at each step, instead of two.

The base with the adapter predicts what the base alone predicts with classifier-free guidance:

    L = |eps_A(z_t, t, c) - [eps(z_t, t, 0) + g (eps(z_t, t, c) - eps(z_t, t, 0))]|^2

as in AGD (Jensen & Sadat 2025, arXiv 2503.07274, section 4; cristianpjensen/agd). z_t lies on the
base's own guided sampling trajectories, so no pictures are needed.

Deliberate deviations: the adapter is a plain LoRA whose input does not include g, so that its file
loads anywhere; g is fixed in training. A strength s then acts like a guidance of about
1 + s (g - 1). Trajectories are not stored but computed while the adapter learns, each with a prompt
of its own.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from studio.adapters.speed import Sampling
from trainers.engine.from_prompts.distillation import Distillation

if TYPE_CHECKING:
    from torch import Tensor

    from trainers.engine.from_prompts.distillation import Lesson


@dataclass(frozen=True)
class Guidance(Distillation):
    """Guidance in one evaluation: half the time at every step, with any sampler."""

    @property
    def sampling(self) -> Sampling:
        """No guidance, since the adapter has it; any sampler and any number of steps."""
        return Sampling("guidance distilled", guidance=1.0)

    def loss(self, lesson: "Lesson") -> "Tensor":
        """The squared error of the student's prediction, a scalar."""
        point = lesson.point
        predicted = lesson.student(point.latents, point.timesteps)
        return (predicted - point.guided).square().mean()
