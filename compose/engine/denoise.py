"""Denoising: from a shot's noise to its latents, step by step.

The evaluations that a method asks for are known before the first step (`record`). So all
evaluations of a step run together, as rows of one batch where that is faster
(compose/engine/evaluate.py).

The base's weights are changed only while the UNet runs. Whenever the caller has control, also after
an early stop, every weight of the base has its own bits.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import prod
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from compose.engine.evaluate import evaluate
from compose.engine.gpu.memory import room_for_weights
from compose.engine.method import Call, Halves, Mix
from compose.engine.picture_run import PictureRun, start_run
from compose.engine.sampler import Scheduler, timesteps_of, with_own_noise
from compose.engine.start import outside_of, start_of
from compose.engine.weights.render_cache import cache_of
from studio.bases.device import has_own_memory
from studio.requests.resolved_shot import ResolvedShot, resolve

if TYPE_CHECKING:
    from studio.bases.base import Base
    from studio.requests.shot import Shot


@dataclass(frozen=True, eq=False)
class Prediction:
    """The UNet's prediction in a step. latents: its scaled input; both are [N, 4, h, w]."""

    base: "Base"
    latents: Tensor
    predicted: Tensor
    timestep: int

    @cached_property
    def clean(self) -> Tensor:
        """The finished latents, estimated from this prediction.

        With every scheduler the UNet's input is sqrt(a) x + sqrt(1 - a) noise, a = alphas_cumprod.
        """
        share = self.base.alphas_cumprod[self.timestep]
        signal, noise = share.sqrt(), (1 - share).sqrt()
        if self.base.prediction_type == "v_prediction":
            return signal * self.latents - noise * self.predicted
        return (self.latents - noise * self.predicted) / signal


@dataclass(frozen=True, eq=False)
class Step:
    """A denoising step is done.

    step: the number of steps done, up to `steps`. latents: the scheduler's result, [N, 4, h, w]
    float32, of one picture or of all pictures of a batch. In a second pass h and w are larger.
    """

    step: int
    steps: int
    latents: Tensor
    _prediction: Prediction = field(repr=False)
    _paint: Callable[[Tensor], Image.Image] = field(repr=False)

    @property
    def clean(self) -> Tensor:
        """The finished latents as the model estimates them at this step, [N, 4, h, w]."""
        return self._prediction.clean

    def preview(self) -> Image.Image:
        """A preview of the first picture in its full size, from `clean`, without the VAE."""
        return self._paint(self.clean[:1])


@dataclass(frozen=True, eq=False)
class Done:
    """All steps are done. latents: [1, 4, h, w] float32, ready to be decoded."""

    steps: int
    latents: Tensor


def denoise(base: "Base", shot: "Shot | ResolvedShot") -> Generator[Step | Done, None, None]:
    """Make a shot's latents: a Step after each denoising step, then one Done.

    To cancel, stop iterating. Raises BadInput at once for a shot that can't be made on this base.
    """
    return _progress(denoise_batch([start_run(base, resolve(shot, base))]))


def _progress(steps: Iterator[Step]) -> Generator[Step | Done, None, None]:
    for step in steps:
        yield step
    yield Done(step.steps, step.latents)  # pyright: ignore[reportPossiblyUnboundVariable]


def denoise_batch(runs: Sequence[PictureRun]) -> Iterator[Step]:
    """Make the latents of several shots in one batch: the first pass, then the second if any.

    runs: the first passes of the shots, all with the same base, size and timesteps. Raises BadInput
    before the first step where two adapters have different embeddings for one word.
    """
    with cache_of(runs[0].base).lock:
        passes = _with_second(runs)
        finding = [run.finding for run in runs if run.finding is not None]
        drop_unused([run for same in (*passes, finding) for run in same])
    return _in_turns(runs[0].base, _denoise_passes(passes, finding))


def _in_turns(base: "Base", steps: Generator[Step, None, None]) -> Iterator[Step]:
    """The steps; each waits until no other thread is in a step on this base."""
    lock = cache_of(base).lock
    with closing(steps):
        while True:
            with lock:
                step = next(steps, None)
            if step is None:
                return
            yield step


def _with_second(runs: Sequence[PictureRun]) -> list[Sequence[PictureRun]]:
    """The first passes of these shots and, if the shots have one, the second passes."""
    if runs[0].resolved.enlarged is None:
        return [runs]
    return [runs, [start_run(run.base, run.resolved, second=True) for run in runs]]


def _denoise_passes(
    passes: Sequence[Sequence[PictureRun]], finding: Sequence[PictureRun]
) -> Generator[Step, None, None]:
    """The steps of all passes, after the steps in which regions are found, if there are any."""
    base = passes[0][0].base
    done, steps, latents = 0, sum(len(same[0].calls) for same in (*passes, finding) if same), None
    if finding:
        sampler, draws = timesteps_of(base, finding[0].shot), _draws(finding)
        for latents, prediction in _denoise_pass(finding, *sampler, draws, None):
            done += 1
            yield Step(done, steps, latents, prediction, finding[0].paint)
        passes = _with_second([_placed(run) for run in passes[0]])
    draws, latents = _draws(passes[0]), None
    for second, same in enumerate(passes):
        sampler, smaller = timesteps_of(base, same[0].shot, second=bool(second)), latents
        for latents, prediction in _denoise_pass(same, *sampler, draws, smaller):
            done += 1
            yield Step(done, steps, latents, prediction, same[0].paint)


def _placed(run: PictureRun) -> PictureRun:
    """The run of the picture itself, with the regions that its `finding` run found."""
    placed = start_run(run.base, run.placed())
    placed.contrast = run.finding and run.finding.contrast
    return placed


def _draws(runs: Sequence[PictureRun]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(run.shot.seed) for run in runs]


def drop_unused(runs: Sequence[PictureRun]) -> None:
    """Drop everything from the cache that these shots don't need, before their first step.

    Then set the limit of changed weights to keep, by the memory that is free on the device.
    """
    base, cache = runs[0].base, cache_of(runs[0].base)
    cache.steady = all(_mixes(step) == _mixes(run.calls[0]) for run in runs for step in run.calls)
    calls = [(run, call) for run in runs for step in run.calls for call in step]
    cache.release(
        {run.mixed_weights(call.mix, unet=True) for run, call in calls},
        {run.mixed_weights(call.mix, unet=False) for run, call in calls},
    )
    largest = max((run.latent_side for run in runs), key=prod)
    room = room_for_weights(base, largest, rows=2 * len(runs))
    cache.limit_weights(room, changes=not (base.low_memory or has_own_memory(base.device)))


def _mixes(calls: Sequence[Call]) -> list[Mix]:
    return [one.mix for one in calls]


def _denoise_pass(
    runs: Sequence[PictureRun],
    scheduler: Scheduler,
    timesteps: Tensor,
    draws: Sequence[torch.Generator],
    smaller: Tensor | None,
) -> Iterator[tuple[Tensor, Prediction]]:
    """After each step, the latents of these shots [N, 4, h, w] and the UNet's prediction.

    timesteps: on the CPU, as the scheduler's own tables are, so that no step waits for the device.
    draws: the generators of the shots' noise. smaller: in a second pass, the latents of the first.
    """
    order = scheduler.order  # a step of a second-order scheduler has two timesteps
    base = runs[0].base
    before = [None] * len(runs) if smaller is None else smaller.split(1)
    with torch.no_grad():
        starts = [
            start_of(run, scheduler, timesteps, draw, one)
            for run, draw, one in zip(runs, draws, before, strict=True)
        ]
        latents, outside = torch.cat([start.latents for start in starts]), outside_of(starts)
    seeds = [run.shot.seed for run in runs]
    advance = with_own_noise(scheduler, latents, seeds=seeds, draws=draws)
    times = list(zip(timesteps, timesteps.to(base.device), timesteps.tolist(), strict=True))
    for step in range(len(runs[0].calls)):
        begin, end = step * order, (step + 1) * order
        with torch.no_grad():  # ends before the yield: the caller may need gradients
            scale = partial(scheduler.scale_model_input, timestep=timesteps[begin])
            latents = _contrasted(runs, latents, times[begin][1], step, scale)
            for timestep, on_device, number in times[begin:end]:
                scaled = scheduler.scale_model_input(latents, timestep)
                predicted = _predict(runs, scaled, on_device, step)
                prediction = Prediction(base, scaled, predicted, round(number))
                latents = advance(predicted, timestep, latents, return_dict=False)[0]
            if outside:
                latents = outside.restored(latents, scheduler, timesteps[end : end + 1])
        yield latents, prediction  # pyright: ignore[reportPossiblyUnboundVariable]


def _contrasted(
    runs: Sequence[PictureRun],
    latents: Tensor,
    timestep: Tensor,
    step: int,
    scale: Callable[[Tensor], Tensor],
) -> Tensor:
    """The latents [N, 4, h, w]; those of shots with a contrast are moved, see Contrast."""
    if not any(run.contrast and run.contrast.acts(step) for run in runs):
        return latents
    return torch.cat(
        [
            run.contrast.moved(row, timestep, scale)
            if run.contrast and run.contrast.acts(step)
            else row
            for run, row in zip(runs, latents.split(1), strict=True)
        ]
    )


def _predict(runs: Sequence[PictureRun], scaled: Tensor, timestep: Tensor, step: int) -> Tensor:
    """The guided predictions [N, 4, h, w]; all evaluations of a step run together."""
    rows = scaled.split(1)
    asked = [
        (at, call, run.evaluation(call, row, timestep))
        for at, (run, row) in enumerate(zip(runs, rows, strict=True))
        for call in run.calls[step]
    ]
    found = evaluate(runs[0].base, [question for _, _, question in asked])
    answers: list[dict[Call, Tensor | Halves]] = [{} for _ in runs]
    for (at, call, _), answer in zip(asked, found, strict=True):
        answers[at][call] = runs[at].guided(call, answer)
    return torch.cat(
        [
            run.plan.predict(step, run.eps(row, timestep, answers))
            for run, row, answers in zip(runs, rows, answers, strict=True)
        ]
    )
