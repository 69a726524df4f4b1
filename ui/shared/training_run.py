"""Sample pictures and stop signals while a training runs, on the command line and in workers."""

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from threading import Event
from types import FrameType
from typing import TYPE_CHECKING

import compose
from studio.requests.resolved_shot import resolve
from studio.requests.shot import Shot
from ui.shared.terminal import print_note

if TYPE_CHECKING:
    from PIL.Image import Image

    from studio.bases.base import Base

SMOOTHED = 20  # steps over which the loss is averaged for display


def draw_with(
    base: "Base",
    fields: Mapping[str, object] | None = None,
    *,
    between: Callable[[], object] = lambda: None,
) -> "Callable[[str, int], Image]":
    """A function that draws sample pictures as `studio generate` would, on the base in training.

    fields: fields of the samples' shots, see `trainers.drawn_with`. between: called after each
    denoising step; an exception that it raises ends the training.
    """
    usual = replace(Shot("", base=base.source), **(fields or {}))  # pyright: ignore[reportArgumentType]

    def draw(prompt: str, seed: int) -> "Image":
        shot = resolve(replace(usual, prompt=prompt, seed=seed), base)
        for event in compose.denoise(base, shot):
            between()
            if isinstance(event, compose.Done):
                return compose.decode(base, shot, event.latents)
        raise AssertionError("a picture ends with its latents")

    return draw


def interrupt_if(stop: Event) -> None:
    """End what is drawn where the flag is set: for `draw_with`, between the steps of samples."""
    if stop.is_set():
        raise KeyboardInterrupt


@contextmanager
def stopping(
    said: str = "Stopping after this step.", stop: Event | None = None
) -> Iterator[Callable[[], bool]]:
    """Within the block the first SIGINT or SIGTERM only sets a flag; call the value to read it.

    A second signal raises KeyboardInterrupt. said: printed at the first signal. stop: the flag, if
    others read it too.
    """
    stop = stop or Event()

    def note(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        print_note(f"{said} Press Ctrl-C again to stop at once.")

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
