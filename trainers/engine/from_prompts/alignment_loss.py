"""AlignProp (Prabhudesai et al. 2023, arXiv 2310.03739): a reward's gradient through the sampler.

L = -R(picture of z_0) back through the decoder and the last steps of DDIM into a LoRA; earlier
steps are drawn without gradients, so that memory does not grow with their number. Rewards are
easily overdone, and the authors stop by eye: here each picture may differ from what the base draws
from the same noise by `limit` at most, and what is beyond costs ten times as much.

    L = -mean R + 10 mean max(0, d - limit),  d = |z_0 - z_0'| / |z_0'|, z_0' the base's own

Deliberate deviations: DDIM without added noise, the same number of steps with gradients each time,
and a round of pictures that comes again and again, which the base draws once.
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

BEYOND = 10.0  # what a distance beyond the limit costs


class AlignmentLoss(PromptLoss[Alignment]):
    """From places of a step to minus the reward of the pictures that are drawn there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # What the base draws alone, batch by batch, as a resumed run does again.
        self._of_base: dict[tuple[int, ...], Tensor] = {}
        self._rewards: list[float] = []  # of the step at hand, as are the distances
        self._distances: list[float] = []

    def begin(self, done: int) -> None:
        """Called before each step. done: how many steps were taken."""
        super().begin(done)
        self._rewards, self._distances = [], []

    @property
    def measured(self) -> dict[str, float]:
        """The mean reward of this process's pictures, and how far they are from the base's own."""
        return {"reward": fmean(self._rewards), "distance": fmean(self._distances)}

    def loss(self, rows: Sequence[int], *, clean: bool = False) -> Tensor:
        """The mean loss of these rows, a scalar with gradients. clean: is never asked for here."""
        round_ = -(-self.kind.pictures // self.of) * self.of
        numbers = tuple((self.done * self.of + row) % round_ for row in rows)
        prompts = [nth_prompt(self.prompts, one, seed=self.recipe.seed) for one in numbers]
        if numbers not in self._of_base:
            with self.base_alone():
                self._of_base[numbers] = self.draw(numbers, prompts, learning=0)
        own = self._of_base[numbers]
        drawn = self.draw(numbers, prompts, learning=self.kind.last)
        pixels = torch.cat([self.base.decode_with_gradients(one) for one in drawn.split(1)])
        scores = self.kind.score(pixels, prompts)
        distances = (drawn - own).flatten(1).norm(dim=1) / own.flatten(1).norm(dim=1)
        self._rewards += scores.tolist()
        self._distances += distances.tolist()
        return BEYOND * (distances - self.kind.limit).clamp(min=0).mean() - scores.mean()

    def draw(self, numbers: Sequence[int], prompts: Sequence[str], *, learning: int) -> Tensor:
        """Latents [B, 4, h, w] by DDIM, as many of the last steps with gradients.

        numbers: each has a noise of its own.
        """
        noise = [
            torch.randn(*self.shape, generator=generator_for(self.recipe.seed, "noise", number))
            for number in numbers
        ]
        latents, steps = torch.stack(noise).to(self.base.device), self.kind.sampling_steps
        for at, (now, then) in enumerate(pairwise(self.diffusion.trailing(steps))):
            with torch.set_grad_enabled(at >= steps - learning):
                guided = self.guided(latents, now, prompts, self.kind.guidance)
                latents = self.diffusion.ddim_step(guided, latents, now, then)
        return latents
