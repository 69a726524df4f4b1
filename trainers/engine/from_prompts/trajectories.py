"""The base's own guided trajectories, from noise to pictures, computed while a student learns.

Each place of a step (see prompt_loss.py) has one trajectory at a time, with a prompt of its own. It
is sampled by DDIM (Song et al. 2021, eq. 12) with classifier-free guidance and has `length`
evaluations of the teacher. A round is `length` steps of the training. In a round, each place trains
on every point of its trajectory once, in a random order. Meanwhile the trajectories of the next
round advance by one evaluation at each step. So the teacher's work is even, and a trajectory is
kept for two rounds at most.

A round depends only on the seed and on its number, so a resumed training computes the same again,
bit for bit.
"""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field

import torch
from torch import Tensor

from trainers.engine.data.randomness import generator_for
from trainers.engine.objective import Objective

Teacher = Callable[[Tensor, int, Sequence[str]], Tensor]
"""Latents [B, 4, h, w], a timestep and B prompts -> the guided prediction [B, 4, h, w]."""


@dataclass(frozen=True, eq=False)
class Points:
    """One point of each of B trajectories, and a later point of the same trajectory.

    latents, timesteps: the point, [B, 4, h, w] and [B], int64. following, following_timesteps: the
    later point. guided: the teacher's prediction at `latents`. prompts: B.
    """

    latents: Tensor
    timesteps: Tensor
    guided: Tensor
    following: Tensor
    following_timesteps: Tensor
    prompts: tuple[str, ...]


@dataclass(eq=False)
class Round:
    """The trajectories of a round, as far as they are computed.

    timesteps: length + 1 numbers; the last is 0, for clean latents. latents: those of each point
    so far, [S, 4, h, w] for S places. guided: the teacher's prediction at each point except for the
    newest. prompts: S, in the order of the places.
    """

    timesteps: list[int]
    prompts: list[str]
    latents: list[Tensor]
    guided: list[Tensor] = field(default_factory=list)


@dataclass(eq=False)
class Trajectories:
    """The trajectories of this process's places.

    places: this process's places. of: the number of places of all processes. shape: that of one
    place's latents. batch: how many latents the teacher takes at once.
    shifted: shift the timesteps of each round at random, so that in time all are trained on;
    otherwise all rounds have those of the trailing spacing.
    leaps: whether the later point of `Points` is any later one, or the next.
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
        """Compute the round of a step, and one more evaluation of the next round.

        step: counted from 0. last: the number of steps of the training.
        """
        number, within = divmod(step, self.length)
        self._rounds = {n: round_ for n, round_ in self._rounds.items() if n >= number}
        self._extend(number, self.length)
        if (number + 1) * self.length < last:
            self._extend(number + 1, within + 1)

    def points(self, step: int, places: Sequence[int]) -> Points:
        """The points that these places train on in a step. Call `advance` for the step first."""
        number, within = divmod(step, self.length)
        round_ = self._rounds[number]
        rows = [self.places.index(place) for place in places]
        pairs = [self._point_and_later(number, place, within) for place in places]
        at, later = (list(zip(points, rows, strict=True)) for points in zip(*pairs, strict=True))
        device = self.diffusion.signal.device
        return Points(
            latents=torch.stack([round_.latents[point][row] for point, row in at]),
            timesteps=torch.tensor([round_.timesteps[point] for point, _ in at], device=device),
            guided=torch.stack([round_.guided[point][row] for point, row in at]),
            following=torch.stack([round_.latents[point][row] for point, row in later]),
            following_timesteps=torch.tensor(
                [round_.timesteps[point] for point, _ in later], device=device
            ),
            prompts=tuple(round_.prompts[row] for row in rows),
        )

    def _point_and_later(self, number: int, place: int, within: int) -> tuple[int, int]:
        """Indices of the point that a place trains on, and of the later point.

        number: of the round. within: the step's number in the round.
        """
        generator = generator_for(self.seed, "points", number, place)
        point = int(torch.randperm(self.length, generator=generator)[within])
        if not self.leaps:
            return point, point + 1
        generator = generator_for(self.seed, "leap", number, place, within)
        return point, int(torch.randint(point + 1, self.length + 1, (), generator=generator))

    def _extend(self, number: int, evaluations: int) -> None:
        """Evaluate the teacher on a round until it has this many evaluations."""
        if number not in self._rounds:
            self._rounds[number] = self._begin(number)
        round_ = self._rounds[number]
        while len(round_.guided) < evaluations:
            point = len(round_.guided)
            timestep, following = round_.timesteps[point : point + 2]
            latents = round_.latents[point]
            parts = [slice(n, n + self.batch) for n in range(0, len(self.places), self.batch)]
            guided = torch.cat(
                [self.teacher(latents[part], timestep, round_.prompts[part]) for part in parts]
            )
            round_.latents.append(self.diffusion.ddim_step(guided, latents, timestep, following))
            round_.guided.append(guided)

    def _begin(self, number: int) -> Round:
        prompts, noise = [], []
        for place in self.places:
            prompts.append(nth_prompt(self.prompts, number * self.of + place, seed=self.seed))
            generator = generator_for(self.seed, "trajectory", number, place)
            noise.append(torch.randn(*self.shape, generator=generator))
        latents = torch.stack(noise).to(self.diffusion.signal.device)
        return Round(self._timesteps(number), prompts, [latents])

    def _timesteps(self, number: int) -> list[int]:
        """The timesteps of a round's points, from the last one down, and 0 for clean latents."""
        first, *others = self.diffusion.trailing(self.length)
        shift = 0
        if self.shifted:
            spacing = round(len(self.diffusion.signal) / self.length)
            generator = generator_for(self.seed, "timesteps", number)
            shift = int(torch.randint(spacing, (), generator=generator))
        return [first, *(max(0, timestep - shift) for timestep in others)]


def nth_prompt(prompts: Sequence[str], number: int, *, seed: int) -> str:
    """The prompt of picture `number`: all prompts come once, shuffled, before any comes again."""
    epoch, index = divmod(number, len(prompts))
    order = torch.randperm(len(prompts), generator=generator_for(seed, "order", epoch))
    return prompts[int(order[index])]
