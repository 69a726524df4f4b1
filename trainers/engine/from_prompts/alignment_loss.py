"""AlignProp (Prabhudesai et al. 2023, arXiv 2310.03739): a reward's gradient through the sampler.

The gradient of -R(picture of z_0) flows back through the decoder and the last steps of DDIM into a
LoRA. Earlier steps have no gradients, so memory does not grow with their number. A reward is easily
overdone, and the authors stop by eye. Here a penalty keeps each picture near to the one that the
base draws from the same noise: a distance beyond `limit` costs ten times its amount.

    L = -mean R + 10 mean max(0, d - limit),  d = |z_0 - z_0'| / |z_0'|,  z_0' from the base alone

Deliberate deviations: DDIM without added noise; a fixed number of steps with gradients; and a fixed
round of pictures that is repeated, so that the base draws each only once.
"""

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

import torch
from torch import Tensor

from trainers.engine.data.randomness import generator_for
from trainers.engine.from_prompts.alignment import Alignment
from trainers.engine.from_prompts.prompt_loss import PromptLoss
from trainers.engine.from_prompts.trajectories import nth_prompt

BEYOND = 10.0  # factor of a distance beyond the limit


class AlignmentLoss(PromptLoss[Alignment]):
    """The loss of an alignment: minus the reward of the pictures that a step draws."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # Latents that the base draws alone, by the pictures of a batch.
        self._of_base: dict[tuple[int, ...], Tensor] = {}
        # Rewards and distances of the current step's pictures.
        self._rewards: list[float] = []
        self._distances: list[float] = []

    def begin(self, done: int) -> None:
        """Called before each step. done: how many steps were taken."""
        super().begin(done)
        self._rewards, self._distances = [], []

    @property
    def measured(self) -> dict[str, float]:
        """The mean reward of this process's pictures, and their mean distance from the base's."""
        return {"reward": fmean(self._rewards), "distance": fmean(self._distances)}

    def loss(self, rows: Sequence[int], *, clean: bool = False) -> Tensor:
        """The mean loss of these rows, a scalar with gradients. clean: not used here."""
        round_ = -(-self.kind.pictures // self.of) * self.of
        numbers = tuple((self.done * self.of + row) % round_ for row in rows)
        prompts = [nth_prompt(self.prompts, number, seed=self.recipe.seed) for number in numbers]
        if numbers not in self._of_base:
            with self.base_alone():
                self._of_base[numbers] = self.draw(numbers, prompts, learning=0)
        of_base = self._of_base[numbers]
        drawn = self.draw(numbers, prompts, learning=self.kind.last)
        pixels = torch.cat([self.base.decode_with_gradients(row) for row in drawn.split(1)])
        scores = self.kind.score(pixels, prompts)
        distances = (drawn - of_base).flatten(1).norm(dim=1) / of_base.flatten(1).norm(dim=1)
        self._rewards += scores.tolist()
        self._distances += distances.tolist()
        return BEYOND * (distances - self.kind.limit).clamp(min=0).mean() - scores.mean()

    def draw(self, numbers: Sequence[int], prompts: Sequence[str], *, learning: int) -> Tensor:
        """Draw latents [B, 4, h, w] by DDIM.

        numbers: the pictures' numbers, which seed their noise. learning: how many steps, at the
        end, have gradients.
        """
        noise = [
            torch.randn(*self.shape, generator=generator_for(self.recipe.seed, "noise", number))
            for number in numbers
        ]
        latents, steps = torch.stack(noise).to(self.base.device), self.kind.sampling_steps
        for step, (timestep, following) in enumerate(pairwise(self.diffusion.trailing(steps))):
            with torch.set_grad_enabled(step >= steps - learning):
                guided = self.guided(latents, timestep, prompts, self.kind.guidance)
                latents = self.diffusion.ddim_step(guided, latents, timestep, following)
        return latents
