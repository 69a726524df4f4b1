"""LCM-LoRA: four to eight steps, instead of some twenty-five guided ones.

Latent consistency distillation (Luo et al. 2023, arXiv 2310.04378, algorithm 1) into a LoRA
(arXiv 2311.05556), as in diffusers' train_lcm_distill_lora_sdxl.py. The base alone makes a guided
trajectory. At each of its points, the base with the adapter, f, shall predict the same clean
latents as at a later point with less noise:

    L = sqrt(|f(z_t, t) - stopgrad f(z_s, s)|^2 + c^2) - c,  s < t

    f(z, t) = c_skip z + c_out x(z, t)
    c_skip = d^2 / ((10 t)^2 + d^2),  c_out = 10 t / sqrt((10 t)^2 + d^2),  d = 0.5

Deliberate deviations: no pictures are needed. Both points lie on a trajectory that the base made,
so one series of the teacher's evaluations serves all of its points. s is any later point, down to
the picture itself, where f is the identity. If points were compared with their neighbours only,
what f learns at the end would need as many training steps to reach the beginning as the trajectory
has points. The guidance is one number, not drawn from a range, since a LoRA has no input for it.
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
        """diffusers' LCM sampler with four steps, and no guidance."""
        return Sampling("LCM", scheduler="lcm", steps=4, guidance=1.0)

    def loss(self, lesson: "Lesson") -> "Tensor":
        """The mean pseudo-Huber distance of f at two points, a scalar."""
        import torch

        point = lesson.point
        clean = self._clean(lesson, point.latents, point.timesteps)
        with torch.no_grad():
            target = self._clean(lesson, point.following, point.following_timesteps)
        return ((clean - target).square() + self.huber**2).sqrt().mean() - self.huber

    def _clean(self, lesson: "Lesson", latents: "Tensor", timesteps: "Tensor") -> "Tensor":
        """f(z, t): the clean latents that the student predicts, [B, 4, h, w]."""
        predicted = lesson.student(latents, timesteps)
        clean = lesson.diffusion.clean(predicted, latents, timesteps)
        scaled = (SCALING * timesteps.view(-1, 1, 1, 1)) ** 2
        total = scaled + SIGMA**2
        return SIGMA**2 / total * latents + (scaled / total).sqrt() * clean
