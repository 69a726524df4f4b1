"""What a batch will cost on this machine, measured on one step of its own shots."""

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
    """evaluations: of the UNet, with and without the prompt. seconds: on this machine, alone."""

    evaluations: int
    seconds: float


def estimate_batch(
    base: "Base", shots: Sequence[Shot], groups: Sequence[Group], cache: AdapterCache
) -> BatchEstimate:
    """What groups will cost, from one step and one decoding of each size of picture.

    shots: with their sizes; groups hold their places. Raises BadInput for what can't be made.
    """
    counts: dict[Hashable, tuple[int, float]] = {}
    evaluations, seconds = 0, 0.0
    with cache_of(base).for_many():
        for size in dict.fromkeys(pixels(shots[group.numbers[0]]) for group in groups):
            alike = [one for one in groups if pixels(shots[one.numbers[0]]) == size]
            numbers = [number for group in alike for number in group.numbers]
            needed = [_evaluations(base, shots[at], cache, counts) for at in numbers]
            largest = max(alike, key=lambda group: len(group.numbers))
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
    """Evaluations of a shot, and how many of the first pass's size take as long.

    Those of shots that are alike are counted once.
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
    # Of a second-order scheduler's last step there is one timestep only.
    steps = timesteps.split(scheduler.order)
    finding = run.finding.calls if run.finding else []
    return sum(
        len(a) * len(t)
        for calls in (run.calls, finding)
        for a, t in zip(calls, steps, strict=False)
    )


def _evaluation_seconds(base: "Base", runs: Sequence[PictureRun]) -> float:
    """Of one evaluation, when the weights are ready."""
    drop_unused(runs)
    evaluate_first_step(base, runs)
    begun = perf_counter()
    count = evaluate_first_step(base, runs)
    return (perf_counter() - begun) / count


def _decoding(base: "Base", run: PictureRun) -> float:
    side = run.latent_side
    latents = torch.zeros(1, 4, *side, device=base.device)
    begun = perf_counter()
    decode(base, run.resolved, latents)
    return perf_counter() - begun
