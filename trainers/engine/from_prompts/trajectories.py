"""The base's own guided trajectories, from noise to pictures, made while a student learns.

Each place of a batch has a trajectory at a time, of a prompt of its own: DDIM (Song et al. 2021,
eq. 12) with classifier-free guidance, `length` evaluations long. A round is as many steps of the
training, in which every point of the trajectories comes once, in an order of its own for each
place. Meanwhile those of the next round advance by one evaluation a step. So the teacher's work is
even, and nothing is kept for longer than two rounds.

What a round holds depends on the seed and on its number alone, so a resumed training makes it again
bit for bit.
"""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field

import torch
from torch import Tensor

from trainers.engine.data.randomness import generator_for
from trainers.engine.objective import Objective

Teacher = Callable[[Tensor, int, Sequence[str]], Tensor]
"""The guided prediction for latents [B, 4, h, w] at a timestep, of B prompts: [B, 4, h, w]."""


@dataclass(frozen=True, eq=False)
class Points:
    """A point of each of B trajectories, and a later one.

    latents, following: [B, 4, h, w]. timesteps, following_timesteps: [B], int64. guided: what the
    teacher predicts at `latents`. prompts: B.
    """

    latents: Tensor
    timesteps: Tensor
    guided: Tensor
    following: Tensor
    following_timesteps: Tensor
    prompts: tuple[str, ...]


@dataclass(eq=False)
class Round:
    """The trajectories of a round, as far as they are made.

    timesteps: [length + 1], the last that of clean latents. latents: of each point made,
    [S, 4, h, w]. guided: of each but the newest. prompts: S, in the order of the places.
    """

    timesteps: list[int]
    prompts: list[str]
    latents: list[Tensor]
    guided: list[Tensor] = field(default_factory=list)


@dataclass(eq=False)
class Trajectories:
    """Those of some places of a batch.

    places: their numbers. of: how many all processes have. shape: of one place's latents. batch:
    how many the teacher takes at once. shifted: whether rounds have timesteps of their own, so that
    in time every one comes; otherwise all have those of the trailing spacing.
    """

    teacher: Teacher
    diffusion: Objective
    prompts: Sequence[str]
    _: KW_ONLY
    places: Sequence[int]
    of: int
    shape: tuple[int, int, int]
    length: int
    batch: int
    shifted: bool
    leaps: bool
    seed: int
    _rounds: dict[int, Round] = field(default_factory=dict, init=False)

    def advance(self, step: int, *, last: int) -> None:
        """Make what the step after `step` others needs, and a part of what follows.

        last: the number of all steps of the training.
        """
        number, within = divmod(step, self.length)
        self._rounds = {n: one for n, one in self._rounds.items() if n >= number}
        self._extend(number, self.length)
        if (number + 1) * self.length < last:
            self._extend(number + 1, within + 1)

    def points(self, step: int, places: Sequence[int]) -> Points:
        """Of this step and these of the places, once it has been advanced to."""
        number, within = divmod(step, self.length)
        made = self._rounds[number]
        rows = [self.places.index(place) for place in places]
        turns = [self._turn(number, place, within) for place in places]
        now, then = (list(zip(points, rows, strict=True)) for points in zip(*turns, strict=True))
        device = self.diffusion.signal.device
        return Points(
            latents=torch.stack([made.latents[at][row] for at, row in now]),
            timesteps=torch.tensor([made.timesteps[at] for at, _ in now], device=device),
            guided=torch.stack([made.guided[at][row] for at, row in now]),
            following=torch.stack([made.latents[at][row] for at, row in then]),
            following_timesteps=torch.tensor([made.timesteps[at] for at, _ in then], device=device),
            prompts=tuple(made.prompts[row] for row in rows),
        )

    def _turn(self, number: int, place: int, within: int) -> tuple[int, int]:
        """Which point of its trajectory this place has so far into a round, and which later one."""
        generator = generator_for(self.seed, "points", number, place)
        at = int(torch.randperm(self.length, generator=generator)[within])
        if not self.leaps:
            return at, at + 1
        generator = generator_for(self.seed, "leap", number, place, within)
        return at, int(torch.randint(at + 1, self.length + 1, (), generator=generator))

    def _extend(self, number: int, evaluations: int) -> None:
        """Go on with a round until its teacher was evaluated so often."""
        if number not in self._rounds:
            self._rounds[number] = self._begin(number)
        made = self._rounds[number]
        while len(made.guided) < evaluations:
            at = len(made.guided)
            now, then = made.timesteps[at : at + 2]
            parts = [slice(n, n + self.batch) for n in range(0, len(self.places), self.batch)]
            guided = torch.cat(
                [self.teacher(made.latents[at][one], now, made.prompts[one]) for one in parts]
            )
            made.latents.append(self.diffusion.ddim_step(guided, made.latents[at], now, then))
            made.guided.append(guided)

    def _begin(self, number: int) -> Round:
        prompts, noise = [], []
        for place in self.places:
            prompts.append(nth_prompt(self.prompts, number * self.of + place, seed=self.seed))
            generator = generator_for(self.seed, "trajectory", number, place)
            noise.append(torch.randn(*self.shape, generator=generator))
        latents = torch.stack(noise).to(self.diffusion.signal.device)
        return Round(self._timesteps(number), prompts, [latents])

    def _timesteps(self, number: int) -> list[int]:
        """From the last timestep down, and 0 for clean latents."""
        first, *others = self.diffusion.trailing(self.length)
        shift = 0
        if self.shifted:
            spacing = round(len(self.diffusion.signal) / self.length)
            generator = generator_for(self.seed, "timesteps", number)
            shift = int(torch.randint(spacing, (), generator=generator))
        return [first, *(max(0, one - shift) for one in others)]


def nth_prompt(prompts: Sequence[str], number: int, *, seed: int) -> str:
    """The prompt of a picture that is drawn: each comes once before any comes again."""
    epoch, at = divmod(number, len(prompts))
    order = torch.randperm(len(prompts), generator=generator_for(seed, "order", epoch))
    return prompts[int(order[at])]
