"""Many shots on one base: groups of them denoise as one batch, and are decoded meanwhile.

In a batch every row is denoised by itself: its noise is its seed's, its text and its mix are its
own, and what the scheduler does is done element by element. Matrix products of other sizes round
otherwise, so a picture differs from `render`'s in its last bits, as the same shot in another group
does; a group of one is `render` bit for bit.
"""

from collections import Counter, deque
from collections.abc import Generator, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from compose._denoise import Lent, denoised, settle, timesteps_of
from compose._evaluate import evaluate, most_rows
from compose._fold import kept_on
from compose._groups import ROWS, Group, Spread, group_shots, mix_of, side_of
from compose._render import develop
from compose._shelf import Shelf
from studio.errors import BadInput
from studio.shot import Shot

if TYPE_CHECKING:
    from studio.base import Base

__all__ = ["Advanced", "Failed", "Made", "Narrowed", "render_groups", "render_many", "spread_for"]

MOST_ON_GPU = 32  # rows; what more would gain is little beside the memory that it takes
WORTH_MEASURING = 4  # groups of a kind; fewer take less time than measuring them


@dataclass(frozen=True, eq=False)
class Made:
    """A picture is there. number: its shot's place among all."""

    number: int
    shot: Shot
    picture: Image.Image


@dataclass(frozen=True, eq=False)
class Failed:
    """A shot can't be made; the others go on. reason: one sentence."""

    number: int
    shot: Shot
    reason: str


@dataclass(frozen=True)
class Advanced:
    """A group has made a denoising step."""

    group: Group
    step: int
    steps: int


@dataclass(frozen=True)
class Narrowed:
    """There is no memory for as many rows as a group was to have: it is made in batches of these.

    Told before the group begins, or begins again, as its pictures' last bits depend on it.
    """

    group: Group
    rows: int


Event = Advanced | Made | Failed | Narrowed


def render_many(base: "Base", shots: Iterable[Shot]) -> Iterator[Made | Failed]:
    """Make the pictures of many shots, in the order in which that is fastest.

    Shots of one size, scheduler and number of steps run as one batch, whatever their adapters; a
    file that several of them name is read once. A shot that can't be made is a Failed among the
    Made. Raises BadInput where the size of one is impossible.
    """
    sized = [shot.sized(base) for shot in shots]
    shelf = Shelf(base)
    groups = group_shots(sized, spread_for(base, sized, shelf))
    for event in render_groups(base, sized, groups, shelf):
        if isinstance(event, Made | Failed):
            yield event


def spread_for(base: "Base", shots: Sequence[Shot], shelf: Shelf) -> Spread:
    """How these shots are best spent on this machine, measured where there are enough of them.

    shots: with their sizes. Raises BadInput for one to be measured that can't be made.
    """
    with kept_on(base).for_many(0):
        first = {side_of(shot): shot for shot in reversed(shots)}
        sizes = {side: _size(base, shelf, shot) for side, shot in first.items()}
        groups = group_shots(shots, Spread(sizes))
        count = Counter(group.kind for group in groups)
        apart = {
            group.kind
            for group in {group.kind: group for group in groups}.values()
            if count[group.kind] >= WORTH_MEASURING
            and _slower(base, shelf, [shots[at] for at in group.numbers])
        }
    return Spread(sizes, frozenset(apart))


def render_groups(
    base: "Base", shots: Sequence[Shot], groups: Iterable[Group], shelf: Shelf
) -> Iterator[Event]:
    """Make the pictures of groups one after another, decoding one while the next denoises.

    shots: with their sizes; groups hold their places.
    """
    base.fingerprint()  # is computed while nothing is folded
    texts = {text for shot in shots for text in (shot.prompt, shot.negative)}
    pool = ThreadPoolExecutor(1, thread_name_prefix="decode")
    with pool, kept_on(base).for_many(len(texts)):
        decoding = _Decoding(base, None if base.offload else pool)
        making = _Making(base, shots, shelf, decoding)
        try:
            for group in groups:
                for event in making.events(group):
                    yield event
                    yield from decoding.done()
            yield from decoding.done(wait=True)
        finally:
            pool.shutdown(cancel_futures=True)


class _Making:
    """Groups on their way to latents."""

    def __init__(
        self, base: "Base", shots: Sequence[Shot], shelf: Shelf, decoding: "_Decoding"
    ) -> None:
        self.base, self.shots, self.shelf, self.decoding = base, shots, shelf, decoding
        # Of a batch of latents of a size, where the memory was found to hold no more.
        self.most: dict[tuple[int, int], int] = {}

    def events(self, group: Group) -> Iterator[Event]:
        """Denoise a group, from its first step again where there was no memory for its rows."""
        lents: dict[int, Lent] = {}
        for number in group.numbers:
            try:
                lents[number] = _lent(self.base, self.shelf, self.shots[number])
            except BadInput as error:
                yield Failed(number, self.shots[number], str(error))
        latents = None
        while lents and latents is None:
            try:
                latents = yield from self._denoised(group, list(lents.values()))
            except (BadInput, torch.OutOfMemoryError) as error:
                for number, lent in lents.items():
                    yield Failed(number, lent.shot, _reason(error))
                return
        for at, (number, lent) in enumerate(lents.items()):
            assert latents is not None
            self.decoding.give(number, lent.shot, latents[at : at + 1])

    def _denoised(
        self, group: Group, lents: Sequence[Lent]
    ) -> Generator[Event, None, Tensor | None]:
        """A group's latents [N, 4, h, w]; None where the memory did not hold its rows."""
        side, limits = _side(self.base, lents[0].shot), kept_on(self.base).most_rows
        rows = limits[side] = min(group.rows, self.most.get(side, group.rows))
        if rows < group.rows:
            yield Narrowed(group, rows)
        settle(lents)
        scheduler, timesteps = timesteps_of(self.base, lents[0].shot)
        latents, step = None, 0
        for now, _ in denoised(lents, scheduler, timesteps):
            if limits[side] < rows:
                self.most[side] = limits[side]
                return None
            latents, step = now, step + 1
            yield Advanced(group, step, len(lents[0].asked))
        return latents


class _Decoding:
    """Pictures on their way from latents; in a thread, or where there is none when asked for."""

    def __init__(self, base: "Base", thread: ThreadPoolExecutor | None) -> None:
        self.base, self.thread = base, thread
        self.waiting: deque[tuple[int, Shot, Tensor, Future[Image.Image] | None]] = deque()

    def give(self, number: int, shot: Shot, latents: Tensor) -> None:
        """Latents [1, 4, h, w] to be decoded."""
        own = self.thread.submit(develop, self.base, shot, latents) if self.thread else None
        self.waiting.append((number, shot, latents, own))

    def done(self, *, wait: bool = False) -> Iterator[Made | Failed]:
        """What is ready, in the order in which it was given; all there is with `wait`."""
        while self.waiting:
            number, shot, latents, found = self.waiting[0]
            if not (wait or found is None or found.done()):
                return
            self.waiting.popleft()
            try:
                yield Made(number, shot, self._picture(shot, latents, found))
            except (BadInput, torch.OutOfMemoryError) as error:
                yield Failed(number, shot, _reason(error))

    def _picture(
        self, shot: Shot, latents: Tensor, found: Future[Image.Image] | None
    ) -> Image.Image:
        try:
            return develop(self.base, shot, latents) if found is None else found.result()
        except torch.OutOfMemoryError:
            if found is None:
                raise
        return develop(self.base, shot, latents)  # now that the UNet rests there may be room


def _size(base: "Base", shelf: Shelf, shot: Shot) -> int:
    """How many shots of this size are a group: as many as the memory holds rows for."""
    side = _side(base, shot)
    rows = most_rows(base, side)
    if rows is None:
        kept_on(base).most_rows[side] = MOST_ON_GPU
        try:
            _evaluate(base, [_lent(base, shelf, shot) for _ in range(MOST_ON_GPU // ROWS)])
        except torch.OutOfMemoryError as error:
            raise BadInput(f"{side_of(shot)}: {_reason(error)}") from error
        rows = kept_on(base).most_rows[side]
    return max(1, rows // ROWS)


def _slower(base: "Base", shelf: Shelf, shots: Sequence[Shot]) -> bool:
    """Whether shots of several mixes take longer in one batch than one mix after another."""
    if len({mix_of(shot) for shot in shots}) == 1:
        return False
    lents = [_lent(base, shelf, shot) for shot in shots]
    settle(lents)
    mixes: dict[Hashable, list[Lent]] = {}
    for lent, shot in zip(lents, shots, strict=True):
        mixes.setdefault(mix_of(shot), []).append(lent)
    together = _seconds(base, lents)
    return together > sum(_seconds(base, alike) for alike in mixes.values())


def _seconds(base: "Base", lents: Sequence[Lent]) -> float:
    """What the first step of these shots takes, when their weights are ready."""
    _evaluate(base, lents)
    begun = perf_counter()
    _evaluate(base, lents)
    return perf_counter() - begun


def _lent(base: "Base", shelf: Shelf, shot: Shot) -> Lent:
    scheduler, timesteps = timesteps_of(base, shot)
    return Lent(base, shelf.settled(shot), steps=-(-len(timesteps) // scheduler.order))


def _evaluate(base: "Base", lents: Sequence[Lent]) -> None:
    side = _side(base, lents[0].shot)
    _, timesteps = timesteps_of(base, lents[0].shot)
    asked = [
        lent.ask(call, latents, timesteps[0])
        for lent in lents
        for latents in [torch.zeros(1, 4, *side, device=base.device)]
        for call in lent.asked[0]
    ]
    for answer in evaluate(base, asked):
        answer.noise.sum().item()  # waits for the device


def _side(base: "Base", shot: Shot) -> tuple[int, int]:
    assert shot.width and shot.height
    return shot.height // base.latent_factor, shot.width // base.latent_factor


def _reason(error: Exception) -> str:
    if isinstance(error, BadInput):
        return str(error)
    return "there is no memory for even one: make it smaller, or give --offload or --vae-tiling."
