"""What pictures will cost: evaluations of the UNet, and seconds at the speed of earlier ones."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, lru_cache

import compose
from studio.bases.info import read_base_info
from studio.errors import BadInput
from studio.queue.client import list_jobs
from studio.queue.job import Job
from studio.requests.shot import Shot
from studio.workspace import Workspace
from ui.shared.queue_requests import drawing_of

LOOKED_AT = 30  # the latest finished jobs, from which the speed is taken


def evaluations(shots: Sequence[Shot]) -> float:
    """How many evaluations of the UNet the shots need, counted without opening an adapter."""
    return sum(
        _evaluations(replace(shot, prompt="", negative="", seed=0, base="")) for shot in shots
    )


def seconds_for(space: Workspace, shots: Sequence[Shot]) -> float | None:
    """How long the shots take at the speed of the last pictures on their bases.

    None where no recent job tells the speed on one of the bases.
    """
    total = 0.0
    done = list_jobs(space, states=("done",), kinds=("render", "batch"), limit=LOOKED_AT)
    for base in {shot.base for shot in shots}:
        speed = next(filter(None, (_speed(job, base) for job in done)), None)
        if speed is None:
            return None
        total += speed * _work([shot for shot in shots if shot.base == base])
    return total


def _speed(job: Job, base: str) -> float | None:
    """Seconds for a unit of `_work` in a job; None unless all its shots are on this base."""
    drawing = drawing_of(job)
    if not job.seconds or drawing.shot(0).base != base:  # saves reading thousands of shots
        return None
    shots = drawing.all_shots()
    work = _work(shots)
    return job.seconds / work if work and {shot.base for shot in shots} == {base} else None


def _work(shots: Sequence[Shot]) -> float:
    """The evaluations, in units of one without guidance at the base's own size.

    An evaluation with guidance counts twice, and larger pictures count by their pixels.
    """
    base_size = cache(_base_size)  # for this call only: a base that is added later gets a size
    return sum(
        evaluations([shot])
        * (2 if shot.guidance > 1 else 1)
        * _relative_size(shot, base_size(shot.base))
        for shot in shots
    )


def _relative_size(shot: Shot, base: int) -> float:
    """The pixels of a shot, on average over its steps, as a multiple of the base's own size.

    base: side of the base's own size, in pixels; 0 where it is not known.
    """
    first = (shot.width or base) * (shot.height or base) / base**2 if base else 1.0
    if shot.second_pass is None:
        return first
    steps, more = shot.passes
    return first * (steps + more * shot.second_pass**2) / (steps + more)


def _base_size(source: str) -> int:
    """The side of a base's own size, in pixels; 0 for a base that is not on this machine."""
    with suppress(BadInput):
        info = read_base_info(source)
        return info.size if info else 0
    return 0


@lru_cache(maxsize=4096)
def _evaluations(shot: Shot) -> float:
    """Evaluations of a shot. Fields that don't matter are at defaults, for hits in the cache."""
    plain = sum(shot.evaluations())
    if not shot.adapters:
        return plain
    try:
        return compose.outline(shot).cost
    except compose.NeedsWeights:
        return plain  # K-LoRA needs the weights; it evaluates each step once
