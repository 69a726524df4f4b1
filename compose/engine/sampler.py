"""diffusers' schedulers: the timesteps of a shot, and the noise that schedulers add.

A second-order sampler evaluates the UNet twice a step, so N steps have 2N - 1 timesteps. Methods
count steps, never evaluations.
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
    """The part of diffusers' schedulers that the engine uses."""

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
    """A scheduler whose noise is a Brownian path over noise levels, as DPMSolverSDEScheduler."""

    sigmas: Tensor
    noise_sampler: Callable[[Tensor, Tensor], Tensor] | None


def timesteps_of(base: "Base", shot: "Shot", *, second: bool = False) -> tuple[Scheduler, Tensor]:
    """A scheduler set to the shot's steps, and the timesteps to run.

    With a start picture, and in a second pass, only the last part of all timesteps is run. Both
    stay on the CPU: a scheduler reads its tables at every step, and must not wait for a GPU. Raises
    BadInput for steps or a spacing that the scheduler doesn't allow.
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
    """The scheduler's step function, drawing the noise of each row from the row's own seed.

    So a row is the same alone and in a batch. Noise is drawn on the CPU, as the first latents are.

    latents: those of the first step, [N, 4, h, w]. draws: one generator for each row, which has
    already drawn the first latents.
    """
    if hasattr(scheduler, "noise_sampler"):
        _seed_paths(cast(BrownianScheduler, scheduler), latents, seeds)
    if "generator" in signature(scheduler.step).parameters:
        return partial(scheduler.step, generator=list(draws) if len(draws) > 1 else draws[0])
    return scheduler.step


def _seed_paths(scheduler: BrownianScheduler, latents: Tensor, seeds: Sequence[int]) -> None:
    """Give the scheduler a Brownian path for each row, over all noise levels above 0."""
    levels = scheduler.sigmas[scheduler.sigmas > 0]
    # torchsde rounds to six digits, and warns of levels that then lie outside of the path.
    least, most = (round(one.item(), 6) for one in (levels.min(), levels.max()))
    paths = BrownianTreeNoiseSampler(latents.cpu(), least, most, list(seeds))

    def noise(level: Tensor, following: Tensor) -> Tensor:
        begin, end = (min(max(one.item(), least), most) for one in (level, following))
        return paths(begin, end).to(latents.device)

    scheduler.noise_sampler = noise
