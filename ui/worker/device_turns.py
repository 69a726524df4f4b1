"""Taking turns on the device: pictures go between the steps of a training.

A training and a picture at once would each take more than twice as long, on a GPU for want of
memory bandwidth and on a CPU for want of cores, and whoever looks at a picture waits. So the
training holds the turn for a step at a time, and hands it over whenever a picture is wished for;
a picture takes it from its first step to its last. Both are locks of the operating system, which
a killed process gives back.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from filelock import Timeout

from studio.queue.worker import lane_lock
from studio.workspace import Workspace

__all__ = ["Turn"]


class Turn:
    """A process's share in taking turns."""

    def __init__(self, space: Workspace) -> None:
        self._turn = lane_lock(space, "turn")
        self._wish = lane_lock(space, "wish")

    @contextmanager
    def for_training(self) -> Iterator[None]:
        """Held while a training's steps are made; `hand_over` is called between them."""
        with self._turn:
            yield

    def hand_over(self) -> None:
        """Let a picture go first if one is wished for; returns when it is the training's turn."""
        try:
            with self._wish.acquire(timeout=0):
                return
        except Timeout:
            self._turn.release()
        with self._wish:
            pass
        self._turn.acquire()

    @contextmanager
    def for_picture(self) -> Iterator[None]:
        """Held while a picture is made."""
        with self._wish, self._turn:
            yield
