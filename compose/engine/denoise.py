"""A shot's noise becomes latents, step by step.

The evaluations that a method will ask for are known before the first step (`record`). So all
evaluations of a step run together, as rows of one batch where that is faster
(compose/engine/evaluate.py).

The base's weights are changed only while the UNet runs. Whenever the caller has control, also after
an early stop, every weight of the base is bit for bit its own.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from compose.engine.evaluate import evaluate
from compose.engine.method import Call
from compose.engine.picture_run import PictureRun, start_run
from compose.engine.sampler import Scheduler, timesteps_of, with_own_noise
from compose.engine.weights.render_cache import cache_of
from studio.requests.resolved_shot import ResolvedShot, resolve

if TYPE_CHECKING:
    from studio.bases.base import Base
    from studio.requests.shot import Shot


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the UNet predicted in a step. latents: what it was given; both are [N, 4, h, w]."""

    base: "Base"
    latents: Tensor
    predicted: Tensor
    timestep: int

    @cached_property
    def clean(self) -> Tensor:
        """The finished latents that this prediction points to; computed when they are asked for.

        What every scheduler gives the UNet is sqrt(a) x + sqrt(1 - a) noise, a = alphas_cumprod.
        """
        share = self.base.alphas_cumprod[self.timestep]
        signal, noise = share.sqrt(), (1 - share).sqrt()
        if self.base.prediction_type == "v_prediction":
            return signal * self.latents - noise * self.predicted
        return (self.latents - noise * self.predicted) / signal


@dataclass(frozen=True, eq=False)
class Step:
    """A denoising step was made.

    step: how many are done, up to `steps`. latents: [1, 4, h, w] float32, as the scheduler left
    them.
    """

    step: int
    steps: int
    latents: Tensor
    _prediction: Prediction = field(repr=False)
    _paint: Callable[[Tensor], Image.Image] = field(repr=False)

    @property
    def clean(self) -> Tensor:
        """What the model now takes the finished latents to be, [1, 4, h, w]."""
        return self._prediction.clean

    def preview(self) -> Image.Image:
        """`clean` in colour, in the picture's size; costs a small matrix product, no decoder."""
        return self._paint(self.clean)


@dataclass(frozen=True, eq=False)
class Done:
    """All steps were made. latents: [1, 4, h, w] float32, to be decoded."""

    steps: int
    latents: Tensor


def denoise(base: "Base", shot: "Shot | ResolvedShot") -> Generator[Step | Done, None, None]:
    """Make a shot's latents: a Step after each denoising step, then one Done.

    To cancel, stop iterating. Raises BadInput at once for a shot that can't be made on this base.
    """
    resolved = resolve(shot, base)
    scheduler, timesteps = timesteps_of(base, resolved.shot)
    run = start_run(base, resolved)
    drop_unused([run])
    return _progress(run, scheduler, timesteps)


def _progress(
    run: "PictureRun", scheduler: Scheduler, timesteps: Tensor
) -> Generator[Step | Done, None, None]:
    steps = len(run.calls)
    events = denoise_steps([run], scheduler, timesteps)
    for step, (latents, prediction) in enumerate(events, start=1):
        yield Step(step, steps, latents, prediction, run.paint)
    yield Done(steps, latents)  # pyright: ignore[reportPossiblyUnboundVariable]


def drop_unused(runs: "Sequence[PictureRun]") -> None:
    """Before the first of these shots' steps: let go of what only other shots needed."""
    cache_of(runs[0].base).steady = all(step == run.calls[0] for run in runs for step in run.calls)
    calls = [(run, call) for run in runs for step in run.calls for call in step]
    cache_of(runs[0].base).release(
        {run.mixed_weights(call.mix, unet=True) for run, call in calls},
        {run.mixed_weights(call.mix, unet=False) for run, call in calls},
    )


def denoise_steps(
    runs: "Sequence[PictureRun]", scheduler: Scheduler, timesteps: Tensor
) -> Iterator[tuple[Tensor, Prediction]]:
    """After each step the latents of these shots, [N, 4, h, w], and what the UNet predicted.

    runs: of one base and size, for which scheduler and timesteps are the same. timesteps: on the
    CPU, as the scheduler's own tables are, so that no step waits for the device.
    """
    order = scheduler.order  # of a second-order scheduler a step is two timesteps
    base = runs[0].base
    seeds = [run.shot.seed for run in runs]
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    with torch.no_grad():
        starts = [
            _start(base, run.resolved, scheduler, timesteps, draw)
            for run, draw in zip(runs, draws, strict=True)
        ]
        latents = torch.cat(starts)
    advance = with_own_noise(scheduler, latents, seeds=seeds, draws=draws)
    times = list(zip(timesteps, timesteps.to(base.device), timesteps.tolist(), strict=True))
    for step in range(len(runs[0].calls)):
        with torch.no_grad():  # not over the yield, which would switch gradients off for others
            for timestep, on_device, number in times[step * order : (step + 1) * order]:
                scaled = scheduler.scale_model_input(latents, timestep)
                predicted = _predict(runs, scaled, on_device, step)
                prediction = Prediction(base, scaled, predicted, round(number))
                latents = advance(predicted, timestep, latents, return_dict=False)[0]
        yield latents, prediction  # pyright: ignore[reportPossiblyUnboundVariable]


def _predict(runs: "Sequence[PictureRun]", scaled: Tensor, timestep: Tensor, step: int) -> Tensor:
    """The guided predictions [N, 4, h, w]; all evaluations of a step run together."""
    rows = scaled.split(1)
    asked = [
        (at, call, run.evaluation(call, row, timestep))
        for at, (run, row) in enumerate(zip(runs, rows, strict=True))
        for call in run.calls[step]
    ]
    found = evaluate(runs[0].base, [question for _, _, question in asked])
    answers: list[dict[Call, Tensor]] = [{} for _ in runs]
    for (at, call, _), answer in zip(asked, found, strict=True):
        answers[at][call] = runs[at].guided(call, answer)
    return torch.cat(
        [
            run.plan.predict(step, run.eps(row, timestep, answers))
            for run, row, answers in zip(runs, rows, answers, strict=True)
        ]
    )


def _start(
    base: "Base",
    shot: ResolvedShot,
    scheduler: Scheduler,
    timesteps: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """The first latents [1, 4, h, w] float32: noise, or the initial picture with noise on it."""
    shape = (1, 4, shot.height // base.latent_factor, shot.width // base.latent_factor)
    noise = torch.randn(shape, generator=generator).to(base.device)  # drawn on the CPU, always
    if shot.init_image is None:
        return noise * scheduler.init_noise_sigma
    picture = shot.init_image.convert("RGB")
    resized = picture.resize((shot.width, shot.height), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(resized)).movedim(-1, 0)[None].contiguous() / 255
    # The mode of the VAE's posterior, not a draw: the noise above is the seed's first.
    latents = base.encode_pictures(2 * pixels - 1, sample=False)
    return scheduler.add_noise(latents, noise, timesteps[:1])
