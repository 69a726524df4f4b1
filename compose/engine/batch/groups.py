"""Groups of shots that run as one batch.

All shots of a batch have the same picture size, sampler and number of steps. Shots of one mix are
grouped first, as their changed weights are computed once for all of them. The shots left over from
several mixes then share batches, each row with its own weights
(compose/engine/weights/batched_layers.py).

Groups depend only on the shots and on how many of them fit in memory, never on time or on earlier
pictures: the same shots make the same groups, and so a picture has the same bits each time.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from studio.requests.shot import method_name

if TYPE_CHECKING:
    from studio.requests.shot import Shot

ROWS = 2  # rows of a shot in most batches: with the prompt and without
T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """Shots that run as one batch.

    numbers: the places of these shots among all shots, in the order of their rows. rows: the most
    rows in one run of the UNet.
    """

    numbers: tuple[int, ...]
    rows: int


def group_shots(shots: "Sequence[Shot]", sizes: Mapping[str, int]) -> list[Group]:
    """All shots in groups, in the fastest order.

    shots: with their sizes set by `studio.requests.resolved_shot.with_size`. sizes: the number of
    shots in a batch for each picture size, from `batch_sizes`; 1 where a size is missing.
    """
    groups: list[Group] = []
    for numbers in _grouped(range(len(shots)), [_batch_key(shot) for shot in shots]):
        size = sizes.get(pixels(shots[numbers[0]]), 1)
        left: list[int] = []
        for same in _grouped(numbers, [mix_key(shots[at]) for at in numbers]):
            whole = len(same) // size * size
            groups += _chunks(same[:whole], size)
            left += same[whole:]
        groups += _chunks(left, size)
    return groups


def pixels(shot: "Shot") -> str:
    """The size of a shot's picture, such as "64x64"."""
    return f"{shot.width}x{shot.height}"


def mix_key(shot: "Shot") -> Hashable:
    """A key that is equal for shots with the same changed weights at every step."""
    adapters = (
        (str(one) if isinstance(one, str | Path) else one, strength)
        for one, strength in shot.adapters
    )
    return tuple(adapters), method_name(shot.method), shot.method, shot.regions


def _batch_key(shot: "Shot") -> Hashable:
    """A key that is equal for shots with the same size and timesteps: they can be one batch."""
    part = None if shot.init_image is None else (shot.steps_run, shot.mask is None)
    larger = shot.second_pass, shot.passes
    finds = getattr(shot.method, "finds", False)
    return shot.width, shot.height, shot.steps, part, shot.scheduler, shot.spacing, larger, finds


def _grouped(items: Iterable[T], keys: Iterable[Hashable]) -> Iterator[list[T]]:
    """Lists of the items with equal keys, ordered by each key's first item."""
    groups: dict[Hashable, list[T]] = {}
    for item, key in zip(items, keys, strict=True):
        groups.setdefault(key, []).append(item)
    return iter(groups.values())


def _chunks(numbers: Sequence[int], size: int) -> Iterator[Group]:
    return (
        Group(tuple(numbers[at : at + size]), size * ROWS) for at in range(0, len(numbers), size)
    )
