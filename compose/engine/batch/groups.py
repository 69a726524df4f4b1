"""Which of many shots run as one batch.

A batch has one size of picture, one sampler and one number of steps. Shots of one mix come first:
their changed weights are computed once for all of them. What is left over of several mixes shares a
batch too, each row with weights of its own (compose/engine/weights/batched_layers.py).

Groups follow from the shots and from how many of them the memory holds, never from the clock or
from what was made before: the same shots make the same groups, and a picture the same bits.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from studio.requests.shot import method_name

if TYPE_CHECKING:
    from studio.requests.shot import Shot

ROWS = 2  # of a shot in most batches: with the prompt and without
T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """Shots that run as one batch.

    numbers: their places among all shots, in the order of rows. rows: at most, in one evaluation of
    the UNet.
    """

    numbers: tuple[int, ...]
    rows: int


def group_shots(shots: "Sequence[Shot]", sizes: Mapping[str, int]) -> list[Group]:
    """All the shots in groups, in the order in which they are best made.

    shots: with their sizes, see `studio.requests.resolved_shot.with_size`. sizes: shots in a batch
    by the size of their pictures, see `batch_sizes`; 1 where a size is missing.
    """
    found: list[Group] = []
    for numbers in _grouped(range(len(shots)), [_batch_key(shot) for shot in shots]):
        size = sizes.get(pixels(shots[numbers[0]]), 1)
        left: list[int] = []
        for same in _grouped(numbers, [mix_key(shots[at]) for at in numbers]):
            whole = len(same) // size * size
            found += _chunks(same[:whole], size)
            left += same[whole:]
        found += _chunks(left, size)
    return found


def pixels(shot: "Shot") -> str:
    """The size of a shot's picture, such as "64x64"."""
    return f"{shot.width}x{shot.height}"


def mix_key(shot: "Shot") -> Hashable:
    """Equal for shots with the same changed weights at every step."""
    adapters = (
        (str(one) if isinstance(one, str | Path) else one, strength)
        for one, strength in shot.adapters
    )
    return tuple(adapters), method_name(shot.method), shot.method, shot.regions


def _batch_key(shot: "Shot") -> Hashable:
    """Equal for shots that have their timesteps in common, so that they can be one batch."""
    part = None if shot.init_image is None else (shot.steps_run, shot.mask is None)
    larger = shot.second_pass, shot.passes
    finds = getattr(shot.method, "finds", False)
    return shot.width, shot.height, shot.steps, part, shot.scheduler, shot.spacing, larger, finds


def _grouped(items: Iterable[T], keys: Iterable[Hashable]) -> Iterator[list[T]]:
    """Items of equal keys together, in the order in which the keys come first."""
    found: dict[Hashable, list[T]] = {}
    for item, key in zip(items, keys, strict=True):
        found.setdefault(key, []).append(item)
    return iter(found.values())


def _chunks(numbers: Sequence[int], size: int) -> Iterator[Group]:
    return (
        Group(tuple(numbers[at : at + size]), size * ROWS) for at in range(0, len(numbers), size)
    )
