"""Many shots on one base: groups of them denoise as one batch, and are decoded meanwhile.

Every row of a batch is denoised by itself: its noise comes from its own seed, its text and its mix
are its own, and schedulers work element by element. Matrix products of other sizes round
differently, so a picture differs in its last bits from `render`'s and from the same shot in another
group. A group of one gives the same bits as `render`.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from compose.engine.batch.adapter_cache import AdapterCache
from compose.engine.batch.allocator import kept_heap
from compose.engine.batch.groups import Group, group_shots
from compose.engine.batch.memory_limit import REASONS, batch_sizes, why_not_made
from compose.engine.denoise import denoise_batch
from compose.engine.picture_run import PictureRun, start_run
from compose.engine.render import decode
from compose.engine.weights.render_cache import cache_of
from studio.adapters.adapter import Adapter
from studio.errors import BadInput
from studio.out_of_memory import is_out_of_memory
from studio.requests.adapter_tags import find_adapter, take_adapter_tags
from studio.requests.resolved_shot import ResolvedShot, with_size
from studio.requests.shot import Shot

if TYPE_CHECKING:
    from studio.bases.base import Base


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


@dataclass(frozen=True, eq=False)
class GroupStep:
    """A group has made a denoising step."""

    group: Group
    step: int
    steps: int
    _paint: Callable[[], Image.Image] = field(repr=False)

    def preview(self) -> Image.Image:
        """The first picture of the group as it forms; costs a small matrix product, no decoder."""
        return self._paint()


Event = GroupStep | Made | Failed


def render_many(base: "Base", shots: Iterable[Shot]) -> Iterator[Made | Failed]:
    """Make the pictures of many shots, in the order in which that is fastest.

    Shots of one size, scheduler and number of steps run as one batch, whatever their adapters; a
    file that several of them name is read once. A shot that can't be made is a Failed among the
    Made.
    """
    numbers: list[int] = []
    sized: list[Shot] = []
    for number, shot in enumerate(shots):
        try:
            sized.append(with_size(take_adapter_tags(shot, find_adapter), base))
            numbers.append(number)
        except BadInput as error:
            yield Failed(number, shot, str(error))
    cache = AdapterCache(base)
    groups = group_shots(sized, batch_sizes(base, sized, cache))
    for event in render_groups(base, sized, groups, cache):
        if isinstance(event, Made | Failed):
            yield replace(event, number=numbers[event.number])


def render_groups(
    base: "Base",
    shots: Sequence[Shot],
    groups: Iterable[Group],
    cache: AdapterCache,
    *,
    on_picture: Callable[[Made], None] | None = None,
) -> Generator[Event, None, None]:
    """Make the pictures of groups one after another, decoding one while the next denoises.

    shots: with their sizes; groups hold their places. on_picture: is given every picture as soon as
    it is decoded, mostly in another thread and during a step of the next group, after which the
    same Made is yielded.
    """
    base.fingerprint()  # is computed while nothing is folded
    pool = ThreadPoolExecutor(1, thread_name_prefix="decode")
    with kept_heap(base), pool, cache_of(base).for_many():
        decoding = _Decoder(base, None if base.offload else pool, on_picture)
        making = _Renderer(base, shots, cache, decoding)
        groups = list(groups)
        last = _last_named(shots, groups)
        try:
            for at, group in enumerate(groups):
                for event in making.events(group):
                    yield event
                    yield from decoding.done()
                # The last one's adapters stay: another call may begin with them.
                if at + 1 < len(groups):
                    cache.release({file for file, then in last.items() if then == at})
            yield from decoding.done(wait=True)
        finally:
            pool.shutdown(cancel_futures=True)


def _last_named(shots: Sequence[Shot], groups: Sequence[Group]) -> dict[str, int]:
    """Of each adapter's file, as shots name it, the place of the last group that wants it."""
    return {
        str(adapter): at
        for at, group in enumerate(groups)
        for number in group.numbers
        for adapter, _ in shots[number].adapters
        if not isinstance(adapter, Adapter)
    }


class _Renderer:
    """Groups on their way to latents."""

    def __init__(
        self, base: "Base", shots: Sequence[Shot], cache: AdapterCache, decoding: "_Decoder"
    ) -> None:
        self.base, self.shots, self.cache, self.decoding = base, shots, cache, decoding

    def events(self, group: Group) -> Iterator[Event]:
        """Denoise a group."""
        runs: dict[int, PictureRun] = {}
        for number in group.numbers:
            try:
                runs[number] = start_run(self.base, self.cache.resolve(self.shots[number]))
            except REASONS as error:
                yield Failed(number, self.shots[number], why_not_made(error))
        if not runs:
            return
        try:
            latents = yield from self._denoise(group, list(runs.values()))
        except REASONS as error:
            reason = why_not_made(error)
            yield from (Failed(number, run.shot, reason) for number, run in runs.items())
            return
        for at, (number, run) in enumerate(runs.items()):
            self.decoding.add(number, run.resolved, latents[at : at + 1])

    def _denoise(self, group: Group, runs: Sequence[PictureRun]) -> Generator[Event, None, Tensor]:
        """A group's latents [N, 4, h, w]."""
        side, limits = runs[0].latent_side, cache_of(self.base).most_rows
        limits[side] = min(group.rows, limits.get(side, group.rows))
        latents = torch.empty(0)
        for step in denoise_batch(runs):
            latents = step.latents
            yield GroupStep(group, step.step, step.steps, step.preview)
        return latents


class _Decoder:
    """Pictures on their way from latents; in a thread, or where there is none when asked for."""

    def __init__(
        self,
        base: "Base",
        thread: ThreadPoolExecutor | None,
        on_picture: Callable[[Made], None] | None,
    ) -> None:
        self.base, self.thread, self.on_picture = base, thread, on_picture
        self.waiting: deque[tuple[int, ResolvedShot, Tensor, Future[Made] | None]] = deque()

    def add(self, number: int, shot: ResolvedShot, latents: Tensor) -> None:
        """Latents [1, 4, h, w] to be decoded."""
        found = None
        if self.thread:
            found = self.thread.submit(self._made, number, shot, latents, alone=False)
        self.waiting.append((number, shot, latents, found))

    def done(self, *, wait: bool = False) -> Iterator[Made | Failed]:
        """What is ready, in the order in which it was given; all there is with `wait`."""
        while self.waiting:
            number, shot, latents, found = self.waiting[0]
            if not (wait or found is None or found.done()):
                return
            self.waiting.popleft()
            try:
                yield self._found(number, shot, latents, found)
            except REASONS as error:
                yield Failed(number, shot.shot, why_not_made(error))

    def _found(
        self, number: int, shot: ResolvedShot, latents: Tensor, found: Future[Made] | None
    ) -> Made:
        if found is None:
            return self._made(number, shot, latents)
        try:
            return found.result()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        return self._made(number, shot, latents)  # now that the UNet rests there may be room

    def _made(
        self, number: int, shot: ResolvedShot, latents: Tensor, *, alone: bool = True
    ) -> Made:
        picture = decode(self.base, shot, latents, alone=alone)
        made = Made(number, shot.shot, picture)
        if self.on_picture:
            self.on_picture(made)
        return made
