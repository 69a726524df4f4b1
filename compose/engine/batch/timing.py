"""What many shots cost on this machine: how they are best spent in batches, and how long it takes.

Measured on the first step of the shots themselves, with their own texts and adapters.
"""

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from compose.engine.batch.adapter_cache import Shelf
from compose.engine.batch.groups import ROWS, Group, Spread, group_shots, mix_of, side_of
from compose.engine.denoise import Lent, settle, timesteps_of
from compose.engine.evaluate import evaluate, most_rows
from compose.engine.render import develop
from compose.engine.weight_cache import kept_on
from studio.errors import BadInput
from studio.out_of_memory import is_out_of_memory
from studio.requests.resolved_shot import ResolvedShot
from studio.requests.shot import Shot

if TYPE_CHECKING:
    from studio.bases.base import Base

__all__ = ["REASONS", "Expected", "expect", "latent_side", "lent_to", "said", "spread_for"]

MOST_ON_GPU = 32  # rows; what more would gain is little beside the memory that it takes
# Denoising steps that groups of a kind make in all: measuring a kind takes the time of a few.
WORTH_MEASURING = 100
# Mixes are made one after another where that takes less than this much of the time that one batch
# takes: on a machine with other work to do, what was measured may be so far off.
CLEARLY = 0.9
REASONS = (BadInput, MemoryError, RuntimeError)  # why a shot is not made, where `said` has a word


@dataclass(frozen=True)
class Expected:
    """evaluations: of the UNet, with and without the prompt. seconds: on this machine, alone."""

    evaluations: int
    seconds: float


def spread_for(base: "Base", shots: Sequence[Shot], shelf: Shelf) -> Spread:
    """How these shots are best spent on this machine, measured where there are enough of them.

    shots: with their sizes; one that can't be made is passed over.
    """
    with kept_on(base).for_many(0):
        sizes = {
            side: _size(base, shelf, [shot for shot in shots if side_of(shot) == side])
            for side in dict.fromkeys(map(side_of, shots))
        }
        groups = group_shots(shots, Spread(sizes))
        steps: Counter[str] = Counter()
        for group in groups:
            steps[group.kind] += shots[group.numbers[0]].steps
        apart = {
            group.kind
            for group in {group.kind: group for group in groups}.values()
            if steps[group.kind] >= WORTH_MEASURING
            and _slower(base, shelf, [shots[at] for at in group.numbers])
        }
    return Spread(sizes, frozenset(apart))


def expect(base: "Base", shots: Sequence[Shot], groups: Sequence[Group], shelf: Shelf) -> Expected:
    """What groups will cost, from one step and one decoding of each size of picture.

    shots: with their sizes; groups hold their places. Raises BadInput for what can't be made.
    """
    counts: dict[Hashable, int] = {}
    total, seconds = 0, 0.0
    with kept_on(base).for_many(0):
        for side in dict.fromkeys(side_of(shot) for shot in shots):
            alike = [group for group in groups if side_of(shots[group.numbers[0]]) == side]
            if not alike:
                continue
            asked = sum(
                _asked(base, shelf, shots[at], counts) for one in alike for at in one.numbers
            )
            lents = [lent_to(base, shelf, shots[at]) for at in max(alike, key=_length).numbers]
            settle(lents)
            try:
                each = _seconds(base, lents) / sum(len(lent.asked[0]) for lent in lents)
                decoding = _decoding(base, lents[0])
            except (MemoryError, RuntimeError) as error:
                raise BadInput(f"{side}: {said(error)}") from error
            total += asked
            seconds += asked * each + sum(map(_length, alike)) * decoding
    return Expected(total, seconds)


def _length(group: Group) -> int:
    return len(group.numbers)


def _asked(base: "Base", shelf: Shelf, shot: Shot, counts: dict[Hashable, int]) -> int:
    """Evaluations of a shot; those of shots that are alike are counted once."""
    key = mix_of(shot), shot.steps, shot.init_image and shot.denoise, shot.scheduler
    if key not in counts:
        lent = lent_to(base, shelf, shot)
        scheduler, timesteps = timesteps_of(base, shot)
        # Of a second-order scheduler's last step there is one timestep only.
        turns = timesteps.split(scheduler.order)
        counts[key] = sum(len(a) * len(t) for a, t in zip(lent.asked, turns, strict=True))
    return counts[key]


def _decoding(base: "Base", lent: Lent) -> float:
    latents = torch.zeros(1, 4, *latent_side(base, lent.resolved), device=base.device)
    begun = perf_counter()
    develop(base, lent.resolved, latents)
    return perf_counter() - begun


def _size(base: "Base", shelf: Shelf, shots: Sequence[Shot]) -> int:
    """How many of these shots of one size are a group: as many as the memory holds rows for."""
    side = latent_side(base, shots[0])
    rows = most_rows(base, side)
    if rows is None:
        limits, lents = kept_on(base).most_rows, _lendable(base, shelf, shots)
        limits[side] = MOST_ON_GPU
        try:
            for _, lent in islice(lents, 1):
                _evaluate(base, [lent] * (MOST_ON_GPU // ROWS))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            limits[side] = ROWS
        rows = limits[side]
    return max(1, rows // ROWS)


def _slower(base: "Base", shelf: Shelf, shots: Sequence[Shot]) -> bool:
    """Whether shots of several mixes take clearly longer in one batch than mix after mix.

    Mix after mix is folded into the weights, so those of as many shots all take the same time.
    """
    if len({mix_of(shot) for shot in shots}) == 1:
        return False
    mixes: dict[Hashable, list[Lent]] = {}
    for shot, lent in _lendable(base, shelf, shots):
        mixes.setdefault(mix_of(shot), []).append(lent)
    if len(mixes) < 2:
        return False
    lents = [lent for alike in mixes.values() for lent in alike]
    settle(lents)
    sizes = Counter(len(alike) for alike in mixes.values())
    one = {len(alike): alike for alike in mixes.values()}
    try:
        together = _seconds(base, lents)
        apart = sum(count * _seconds(base, one[size]) for size, count in sizes.items())
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return apart < CLEARLY * together


def _lendable(base: "Base", shelf: Shelf, shots: Sequence[Shot]) -> Iterator[tuple[Shot, Lent]]:
    """The shots that can be made, and the base lent to them."""
    for shot in shots:
        with suppress(BadInput):
            yield shot, lent_to(base, shelf, shot)


def _seconds(base: "Base", lents: Sequence[Lent]) -> float:
    """What the first step of these shots takes, when their weights are ready."""
    _evaluate(base, lents)
    begun = perf_counter()
    _evaluate(base, lents)
    return perf_counter() - begun


def lent_to(base: "Base", shelf: Shelf, shot: Shot) -> Lent:
    scheduler, timesteps = timesteps_of(base, shot)
    return Lent(base, shelf.resolve(shot), steps=-(-len(timesteps) // scheduler.order))


def _evaluate(base: "Base", lents: Sequence[Lent]) -> None:
    side = latent_side(base, lents[0].resolved)
    _, timesteps = timesteps_of(base, lents[0].shot)
    asked = [
        lent.ask(call, latents, timesteps[0])
        for lent in lents
        for latents in [torch.zeros(1, 4, *side, device=base.device)]
        for call in lent.asked[0]
    ]
    for answer in evaluate(base, asked):
        answer.noise.sum().item()  # waits for the device


def latent_side(base: "Base", shot: Shot | ResolvedShot) -> tuple[int, int]:
    assert shot.width and shot.height
    return shot.height // base.latent_factor, shot.width // base.latent_factor


def said(error: Exception) -> str:
    """Why a shot can't be made. Raises an error that is no such reason again."""
    if isinstance(error, BadInput):
        return str(error)
    if not is_out_of_memory(error):
        raise error
    return "there is no memory for even one: make it smaller, or give --offload or --vae-tiling."
