"""Render many shots on one base: groups are denoised as batches, and decoded in the background.

The rows of a batch don't influence one another: each has its own noise, from its own seed, its own
text and its own mix, and schedulers work element by element. But matrix products of other sizes
round differently, so a picture differs in its last bits from that of `render`, and from the same
shot in another group. A group of one shot gives the same bits as `render`.
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
    """A picture is finished. number: the place of its shot among all shots."""

    number: int
    shot: Shot
    picture: Image.Image


@dataclass(frozen=True, eq=False)
class Failed:
    """A shot can't be made; the other shots go on. reason: one sentence."""

    number: int
    shot: Shot
    reason: str


@dataclass(frozen=True, eq=False)
class GroupStep:
    """A denoising step of a group is done."""

    group: Group
    step: int
    steps: int
    _paint: Callable[[], Image.Image] = field(repr=False)

    def preview(self) -> Image.Image:
        """A preview of the group's first picture; costs a small matrix product, no decoder."""
        return self._paint()


Event = GroupStep | Made | Failed


def render_many(base: "Base", shots: Iterable[Shot]) -> Iterator[Made | Failed]:
    """Make the pictures of many shots, in the fastest order.

    Shots of one size, scheduler and number of steps run as one batch, whatever their adapters. An
    adapter's file is read once for all shots. A shot that can't be made gives a Failed, not an
    exception.
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
    """Make the pictures of groups one after another; one is decoded while the next is denoised.

    shots: with their sizes set; groups refer to them by place. on_picture: called with each Made as
    soon as it is decoded, mostly in another thread and during a step of the next group; the same
    Made is yielded after that step.
    """
    base.fingerprint()  # computed here, while no weight is changed
    pool = ThreadPoolExecutor(1, thread_name_prefix="decode")
    with kept_heap(base), pool, cache_of(base).for_many():
        decoding = _Decoder(base, None if base.offload else pool, on_picture)
        renderer = _Renderer(base, shots, cache, decoding)
        groups = list(groups)
        last = _last_named(shots, groups)
        try:
            for at, group in enumerate(groups):
                for event in renderer.events(group):
                    yield event
                    yield from decoding.done()
                # The last group's adapters are kept: another call may begin with them.
                if at + 1 < len(groups):
                    cache.release({file for file, then in last.items() if then == at})
            yield from decoding.done(wait=True)
        finally:
            pool.shutdown(cancel_futures=True)


def _last_named(shots: Sequence[Shot], groups: Sequence[Group]) -> dict[str, int]:
    """The place of the last group that uses an adapter's file, by the file's name in the shots."""
    return {
        str(adapter): at
        for at, group in enumerate(groups)
        for number in group.numbers
        for adapter, _ in shots[number].adapters
        if not isinstance(adapter, Adapter)
    }


class _Renderer:
    """Makes the latents of groups, and hands them to the decoder."""

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
        """Yield a group's steps; return its latents [N, 4, h, w]."""
        side, limits = runs[0].latent_side, cache_of(self.base).most_rows
        limits[side] = min(group.rows, limits.get(side, group.rows))
        latents = torch.empty(0)
        for step in denoise_batch(runs):
            latents = step.latents
            yield GroupStep(group, step.step, step.steps, step.preview)
        return latents


class _Decoder:
    """Decodes latents: in a thread, or without one when the picture is asked for."""

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
        future = None
        if self.thread:
            future = self.thread.submit(self._made, number, shot, latents, alone=False)
        self.waiting.append((number, shot, latents, future))

    def done(self, *, wait: bool = False) -> Iterator[Made | Failed]:
        """The pictures that are ready, in the order they were added; with `wait`, all of them."""
        while self.waiting:
            number, shot, latents, future = self.waiting[0]
            if not (wait or future is None or future.done()):
                return
            self.waiting.popleft()
            try:
                yield self._decoded(number, shot, latents, future)
            except REASONS as error:
                yield Failed(number, shot.shot, why_not_made(error))

    def _decoded(
        self, number: int, shot: ResolvedShot, latents: Tensor, future: Future[Made] | None
    ) -> Made:
        """The thread's picture. Where memory ran out in the thread, decode once more here."""
        if future is None:
            return self._made(number, shot, latents)
        try:
            return future.result()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        return self._made(number, shot, latents)  # the UNet rests now: there may be enough memory

    def _made(
        self, number: int, shot: ResolvedShot, latents: Tensor, *, alone: bool = True
    ) -> Made:
        picture = decode(self.base, shot, latents, alone=alone)
        made = Made(number, shot.shot, picture)
        if self.on_picture:
            self.on_picture(made)
        return made
