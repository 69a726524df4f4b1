"""LCM-LoRA: four to eight steps in the place of some twenty-five guided ones.

Latent consistency distillation (Luo et al. 2023, arXiv 2310.04378, algorithm 1) into a LoRA
(arXiv 2311.05556), as diffusers' train_lcm_distill_lora_sdxl.py has it. From one point of a guided
trajectory of the base alone, the base with the adapter, f, is to point to the same clean latents as
from a later one, at less noise:

    L = sqrt(|f(z_t, t) - stopgrad f(z_s, s)|^2 + c^2) - c,  s < t

    f(z, t) = c_skip z + c_out x(z, t)
    c_skip = d^2 / ((10 t)^2 + d^2),  c_out = 10 t / sqrt((10 t)^2 + d^2),  d = 0.5

Deliberate deviations: no pictures. Both points lie on a trajectory that the base made, so the
teacher's evaluations serve for all of its points. s is any later point, down to the picture itself,
where f is the identity: compared with neighbours alone, what is right at the end takes as many
steps to reach the beginning as the trajectory has. The guidance is one number, not drawn from a
range, as a LoRA is told none.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from studio.adapters.speed import Sampling
from studio.requests.recipe import Positive
from studio.requests.validation import option
from trainers.engine.from_prompts.distillation import Distillation

if TYPE_CHECKING:
    from torch import Tensor

    from trainers.engine.from_prompts.distillation import Lesson

SCALING, SIGMA = 10.0, 0.5  # of diffusers' LCMScheduler


@dataclass(frozen=True)
class LCM(Distillation):
    """Latent consistency: pictures in four to eight steps without guidance."""

    huber: Positive = option(0.001, "c of the Huber loss")

    rows: ClassVar[int] = 3
    leaps: ClassVar[bool] = True

    @property
    def sampling(self) -> Sampling:
        """diffusers' LCM sampler at the steps of the distillation."""
        return Sampling("LCM", scheduler="lcm", steps=4, guidance=1.0)

    def loss(self, lesson: "Lesson") -> "Tensor":
        """The mean pseudo-Huber distance of f at two points, a scalar."""
        import torch

        point = lesson.point
        here = self._clean(lesson, point.latents, point.timesteps)
        with torch.no_grad():
            there = self._clean(lesson, point.following, point.following_timesteps)
        return ((here - there).square() + self.huber**2).sqrt().mean() - self.huber

    def _clean(self, lesson: "Lesson", latents: "Tensor", timesteps: "Tensor") -> "Tensor":
        predicted = lesson.student(latents, timesteps)
        clean = lesson.diffusion.clean(predicted, latents, timesteps)
        scaled = (SCALING * timesteps.view(-1, 1, 1, 1)) ** 2
        total = scaled + SIGMA**2
        return SIGMA**2 / total * latents + (scaled / total).sqrt() * clean
