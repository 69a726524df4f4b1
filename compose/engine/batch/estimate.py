"""An estimate of a batch's time on this machine, from one measured step of its own shots."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from compose.engine.batch.adapter_cache import AdapterCache
from compose.engine.batch.groups import Group, mix_key, pixels
from compose.engine.batch.memory_limit import evaluate_first_step, why_not_made
from compose.engine.denoise import drop_unused
from compose.engine.picture_run import PictureRun, start_run
from compose.engine.render import decode
from compose.engine.sampler import timesteps_of
from compose.engine.weights.render_cache import cache_of
from studio.errors import BadInput
from studio.requests.resolved_shot import ResolvedShot
from studio.requests.shot import Shot

if TYPE_CHECKING:
    from studio.bases.base import Base


@dataclass(frozen=True)
class BatchEstimate:
    """The cost of a batch.

    evaluations: of the UNet; with and without the prompt is one. seconds: with the machine idle.
    """

    evaluations: int
    seconds: float


def estimate_batch(
    base: "Base", shots: Sequence[Shot], groups: Sequence[Group], cache: AdapterCache
) -> BatchEstimate:
    """The cost of these groups, from one step and one decoding measured for each picture size.

    shots: with their sizes set; groups refer to them by place. Raises BadInput for a shot that
    can't be made.
    """
    counts: dict[Hashable, tuple[int, float]] = {}
    evaluations, seconds = 0, 0.0
    with cache_of(base).for_many():
        for size in dict.fromkeys(pixels(shots[group.numbers[0]]) for group in groups):
            same_size = [one for one in groups if pixels(shots[one.numbers[0]]) == size]
            numbers = [number for group in same_size for number in group.numbers]
            needed = [_evaluations(base, shots[at], cache, counts) for at in numbers]
            largest = max(same_size, key=lambda group: len(group.numbers))
            runs = [start_run(base, cache.resolve(shots[at])) for at in largest.numbers]
            try:
                evaluation, decoding = _evaluation_seconds(base, runs), _decoding(base, runs[0])
            except (MemoryError, RuntimeError) as error:
                raise BadInput(f"{size}: {why_not_made(error)}") from error
            evaluations += sum(count for count, _ in needed)
            seconds += sum(work for _, work in needed) * evaluation + len(numbers) * decoding
    return BatchEstimate(evaluations, seconds)


def _evaluations(
    base: "Base", shot: Shot, cache: AdapterCache, counts: dict[Hashable, tuple[int, float]]
) -> tuple[int, float]:
    """A shot's evaluations, and the number of evaluations of first-pass size that take as long.

    counts: the results so far, as shots with the same mix and steps have the same counts.
    """
    sampling = shot.steps, shot.init_image and shot.denoise, shot.scheduler, shot.spacing
    key = mix_key(shot), sampling, shot.second_pass, shot.second_denoise
    if key not in counts:
        resolved = cache.resolve(shot)
        evaluations = _in_pass(base, resolved, second=False)
        counts[key] = evaluations, evaluations
        if resolved.enlarged is not None:
            width, height = resolved.enlarged
            larger = width * height / (resolved.width * resolved.height)
            more = _in_pass(base, resolved, second=True)
            counts[key] = evaluations + more, evaluations + more * larger
    return counts[key]


def _in_pass(base: "Base", resolved: ResolvedShot, *, second: bool) -> int:
    run = start_run(base, resolved, second=second)
    scheduler, timesteps = timesteps_of(base, resolved.shot, second=second)
    # The last step of a second-order scheduler has only one timestep.
    steps = timesteps.split(scheduler.order)
    finding = run.finding.calls if run.finding else []
    return sum(
        len(a) * len(t)
        for calls in (run.calls, finding)
        for a, t in zip(calls, steps, strict=False)
    )


def _evaluation_seconds(base: "Base", runs: Sequence[PictureRun]) -> float:
    """Seconds that one evaluation takes once the changed weights are prepared."""
    drop_unused(runs)
    evaluate_first_step(base, runs)
    begun = perf_counter()
    count = evaluate_first_step(base, runs)
    return (perf_counter() - begun) / count


def _decoding(base: "Base", run: PictureRun) -> float:
    """Seconds that decoding one picture takes."""
    side = run.latent_side
    latents = torch.zeros(1, 4, *side, device=base.device)
    begun = perf_counter()
    decode(base, run.resolved, latents)
    return perf_counter() - begun
