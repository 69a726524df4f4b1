"""What pictures will cost: evaluations of the UNet, and seconds at the speed of the last ones."""

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

LOOKED_AT = 30  # jobs, of those that ended last


def evaluations(shots: Sequence[Shot]) -> float:
    """Evaluations of the UNet, told without opening an adapter."""
    return sum(
        _evaluations(replace(shot, prompt="", negative="", seed=0, base="")) for shot in shots
    )


def seconds_for(space: Workspace, shots: Sequence[Shot]) -> float | None:
    """How long the shots take at the speed of the last pictures on their bases.

    None where one of the bases was never drawn on.
    """
    found = 0.0
    done = list_jobs(space, states=("done",), kinds=("render", "batch"), limit=LOOKED_AT)
    for base in {shot.base for shot in shots}:
        speed = next(filter(None, (_speed(job, base) for job in done)), None)
        if speed is None:
            return None
        found += speed * _work([shot for shot in shots if shot.base == base])
    return found


def _speed(job: Job, base: str) -> float | None:
    """Seconds of an evaluation of a picture of the base's own size; None where a job tells none."""
    drawing = drawing_of(job)
    if not job.seconds or drawing.shot(0).base != base:  # before thousands of shots are read
        return None
    shots = drawing.all_shots()
    work = _work(shots)
    return job.seconds / work if work and {shot.base for shot in shots} == {base} else None


def _work(shots: Sequence[Shot]) -> float:
    """Evaluations of pictures of the base's own size; each counts twice where there is guidance."""
    base_size = cache(_base_size)  # not for longer: it is not known until the base is there
    return sum(
        evaluations([shot])
        * (2 if shot.guidance > 1 else 1)
        * _relative_size(shot, base_size(shot.base))
        for shot in shots
    )


def _relative_size(shot: Shot, base: int) -> float:
    """How many times as many pixels as in a picture of the base's own size, in a step's mean.

    base: pixels of that size's side; 0 where it is not known.
    """
    first = (shot.width or base) * (shot.height or base) / base**2 if base else 1.0
    if shot.second_pass is None:
        return first
    steps, more = shot.passes
    return first * (steps + more * shot.second_pass**2) / (steps + more)


def _base_size(source: str) -> int:
    """Pixels of a side; 0 for a base that is not here yet, or not any more."""
    with suppress(BadInput):
        info = read_base_info(source)
        return info.size if info else 0
    return 0


@lru_cache(maxsize=4096)
def _evaluations(shot: Shot) -> float:
    """shot: without what makes no difference to it, so that alike shots are counted once."""
    plain = sum(shot.evaluations())
    if not shot.adapters:
        return plain
    try:
        return compose.outline(shot).cost
    except compose.NeedsWeights:
        return plain  # K-LoRA, which evaluates each step once
