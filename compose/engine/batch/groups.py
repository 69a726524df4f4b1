"""Which of many shots run as one batch.

A batch has one size of picture, one scheduler and one number of steps. Shots of one mix come
first: their changed weights are folded once for all of them. What is left over of several mixes
shares a batch too, each row wearing its own (compose/engine/batched_layers.py), unless that was
measured to be slower than one mix after another.

Groups follow from the shots and from what is written in a Spread, never from the clock or from
what was made before: the same shots make the same groups, and a picture the same bits.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from studio.requests.shot import method_name

if TYPE_CHECKING:
    from studio.requests.shot import Shot

__all__ = ["ROWS", "Group", "Spread", "group_shots", "mix_of", "side_of"]

ROWS = 2  # of a shot in most batches: with the prompt and without
T = TypeVar("T")


@dataclass(frozen=True)
class Spread:
    """How a batch is spent. size: shots of a group, by "64x64", the pixels of a picture. apart:
    the kinds of group that are made mix by mix; see Group."""

    size: dict[str, int] = field(default_factory=dict)
    apart: frozenset[str] = frozenset()

    def lacking(self, shots: "Sequence[Shot]") -> "list[Shot]":
        """Those of a size that it says nothing of."""
        return [shot for shot in shots if side_of(shot) not in self.size]


@dataclass(frozen=True)
class Group:
    """Shots that run as one batch. numbers: their places among all, in the order of rows.

    kind: such as "64x64, 8 shots of 3 mixes"; groups of a kind cost about the same. rows: at most,
    of one evaluation of the UNet.
    """

    numbers: tuple[int, ...]
    kind: str
    rows: int


def group_shots(shots: "Sequence[Shot]", spread: Spread) -> list[Group]:
    """All the shots in groups, in the order in which they are best made.

    shots: with their sizes, see `studio.requests.resolved_shot.with_size`.
    """
    found: list[Group] = []
    for numbers in _sorted(range(len(shots)), [_batch_of(shot) for shot in shots]):
        side = side_of(shots[numbers[0]])
        size = spread.size.get(side, 1)
        left: list[int] = []
        for same in _sorted(numbers, [mix_of(shots[at]) for at in numbers]):
            whole = len(same) // size * size
            found += [_group(shots, part, size) for part in _parts(same[:whole], size)]
            left += same[whole:]
        for part in _parts(left, size):
            group = _group(shots, part, size)
            if group.kind in spread.apart:
                mixes = _sorted(part, [mix_of(shots[at]) for at in part])
                found += [_group(shots, same, size) for same in mixes]
            else:
                found.append(group)
    return found


def side_of(shot: "Shot") -> str:
    """The pixels of a picture, such as "64x64"."""
    return f"{shot.width}x{shot.height}"


def mix_of(shot: "Shot") -> Hashable:
    """Equal for shots that wear the same at every step."""
    named = (
        (str(one) if isinstance(one, str | Path) else one, strength)
        for one, strength in shot.adapters
    )
    return tuple(named), method_name(shot.method), shot.method


def _batch_of(shot: "Shot") -> Hashable:
    """Equal for shots that can be one batch: they have their timesteps in common."""
    part = None if shot.init_image is None else shot.steps_run
    return shot.width, shot.height, shot.steps, part, shot.scheduler


def _group(shots: "Sequence[Shot]", numbers: Sequence[int], size: int) -> Group:
    mixes = len({mix_of(shots[at]) for at in numbers})
    count = f"{len(numbers)} {'shot' if len(numbers) == 1 else 'shots'}"
    among = "one mix" if mixes == 1 else f"{mixes} mixes"
    kind = f"{side_of(shots[numbers[0]])}, {count} of {among}"
    return Group(tuple(numbers), kind, size * ROWS)


def _sorted(items: Iterable[T], keys: Iterable[Hashable]) -> Iterator[list[T]]:
    """Items of equal keys together, in the order in which the keys come first."""
    found: dict[Hashable, list[T]] = {}
    for item, key in zip(items, keys, strict=True):
        found.setdefault(key, []).append(item)
    return iter(found.values())


def _parts(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (numbers[at : at + size] for at in range(0, len(numbers), size))
