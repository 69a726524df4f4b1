"""The lock on the device: pictures are rendered between the steps of a training.

A training and a picture at once would each take more than twice as long: a GPU lacks the memory
bandwidth, a CPU the cores. And somebody waits for the picture. So a training releases the device
between two steps whenever a picture waits for it; a picture holds it until it is done. Both locks
belong to the operating system, which releases them when a process is killed.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from filelock import Timeout

from studio.queue.worker import queue_lock
from studio.workspace import Workspace


class DeviceLock:
    """One process's handle on the lock."""

    def __init__(self, space: Workspace) -> None:
        self._device = queue_lock(space, "turn")  # the names that older workers use
        self._picture_waits = queue_lock(space, "wish")

    @contextmanager
    def for_training(self) -> Iterator[None]:
        """Held while a training makes its steps; call `give_way` between them."""
        with self._device:
            yield

    def give_way(self) -> None:
        """Let a waiting picture go first; returns when the training holds the device again."""
        try:
            with self._picture_waits.acquire(timeout=0):
                return
        except Timeout:
            self._device.release()
        with self._picture_waits:
            pass
        self._device.acquire()

    @contextmanager
    def for_picture(self) -> Iterator[None]:
        """Held while pictures are rendered."""
        with self._picture_waits, self._device:
            yield
