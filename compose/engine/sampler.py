"""diffusers' schedulers as the engine uses them: their timesteps, and the noise that they add.

A sampler of second order evaluates the UNet twice a step, so that of N steps there are 2N - 1
timesteps. Methods count steps, never evaluations.
"""

from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Protocol, cast

import torch
from diffusers.schedulers.scheduling_dpmsolver_sde import BrownianTreeNoiseSampler
from torch import Tensor

from studio.errors import BadInput

if TYPE_CHECKING:
    from studio.bases.base import Base
    from studio.requests.shot import Shot

Advance = Callable[..., tuple[Tensor, ...]]


class Scheduler(Protocol):
    """What all of diffusers' schedulers have in common."""

    order: int
    timesteps: Tensor

    @property
    def init_noise_sigma(self) -> float | Tensor: ...

    def set_timesteps(self, steps: int, *, device: torch.device) -> None: ...

    def set_begin_index(self, begin_index: int) -> None: ...

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor: ...

    def add_noise(self, original: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor: ...

    def step(
        self,
        predicted: Tensor,
        timestep: Tensor,
        sample: Tensor,
        *,
        generator: torch.Generator | list[torch.Generator] = ...,
        return_dict: bool,
    ) -> tuple[Tensor, ...]: ...


class BrownianScheduler(Protocol):
    """A scheduler whose noise is a path over noise levels, as DPMSolverSDEScheduler's."""

    sigmas: Tensor
    noise_sampler: Callable[[Tensor, Tensor], Tensor] | None


def timesteps_of(base: "Base", shot: "Shot", *, second: bool = False) -> tuple[Scheduler, Tensor]:
    """A scheduler set to the shot's steps, and the timesteps to run.

    They are the last part of all for a picture to start from, and for a second pass.

    Both stay on the CPU: a scheduler reads its tables at every step, and must not wait for a GPU.
    Raises BadInput for steps and a spacing that the base's own scheduler can't have.
    """
    scheduler = cast(Scheduler, base.scheduler(shot.scheduler, shot.spacing))
    try:
        scheduler.set_timesteps(shot.steps, device=torch.device("cpu"))
    except ValueError as error:  # such as more than LCM's distillation had
        raise BadInput(f"steps: {base.name} can't make {shot.steps}: {error}") from error
    timesteps = scheduler.timesteps
    if shot.init_image is None and not second:
        return scheduler, timesteps
    left_out = (shot.steps - shot.passes[second]) * scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(left_out)
    return scheduler, timesteps[left_out:]


def with_own_noise(
    scheduler: Scheduler, latents: Tensor, *, seeds: Sequence[int], draws: Sequence[torch.Generator]
) -> Advance:
    """The scheduler's step, where noise that it adds comes from each row's own seed.

    So a row is the same alone and in a batch. Noise is drawn on the CPU, as the first latents'.

    latents: [N, 4, h, w], those of the first step. draws: one for each row, after the first noise.
    """
    if hasattr(scheduler, "noise_sampler"):
        _seed_paths(cast(BrownianScheduler, scheduler), latents, seeds)
    if "generator" in signature(scheduler.step).parameters:
        return partial(scheduler.step, generator=list(draws) if len(draws) > 1 else draws[0])
    return scheduler.step


def _seed_paths(scheduler: BrownianScheduler, latents: Tensor, seeds: Sequence[int]) -> None:
    """A Brownian path for each row, over all noise levels but the last, which is none."""
    levels = scheduler.sigmas[scheduler.sigmas > 0]
    # torchsde warns of levels that lie outside by rounding; a path has six digits.
    least, most = (round(one.item(), 6) for one in (levels.min(), levels.max()))
    paths = BrownianTreeNoiseSampler(latents.cpu(), least, most, list(seeds))

    def noise(level: Tensor, following: Tensor) -> Tensor:
        begin, end = (min(max(one.item(), least), most) for one in (level, following))
        return paths(begin, end).to(latents.device)

    scheduler.noise_sampler = noise
