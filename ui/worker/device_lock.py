"""The lock on the device: pictures are rendered between the steps of a training.

A training and a picture at once would each take more than twice as long: a GPU lacks the memory
bandwidth, a CPU the cores. And somebody waits for the picture. So a training releases the device
between two steps whenever a picture waits for it; a picture holds it until it is done. Both locks
belong to the operating system, which releases them when a process is killed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from studio.queue.job import State
from studio.queue.worker import queue_lock
from studio.workspace import Workspace

LOOK = 0.3  # seconds between two looks, while one waits, at whether the job is to end
Asked = Callable[[], State | None]


def _never() -> None:
    return None


class DeviceLock:
    """One process's handle on the lock.

    asked: tells the state in which the job is to end, so that one that waits can be stopped; what
    waited gives that state then, and does not hold the device. None: the device is held.
    """

    def __init__(self, space: Workspace) -> None:
        self._device = queue_lock(space, "turn")  # the names that older workers use
        self._picture_waits = queue_lock(space, "wish")

    @contextmanager
    def for_training(self, asked: Asked = _never) -> Iterator[State | None]:
        """Held while a training makes its steps; call `give_way` between them."""
        try:
            yield _acquire(self._device, asked)
        finally:
            self._device.release()

    def give_way(self, asked: Asked = _never) -> State | None:
        """Let a waiting picture go first; returns when the training holds the device again."""
        try:
            with self._picture_waits.acquire(timeout=0):
                return None
        except Timeout:
            self._device.release()
        if ended := _acquire(self._picture_waits, asked):
            return ended
        self._picture_waits.release()
        return _acquire(self._device, asked)

    @contextmanager
    def for_picture(self, asked: Asked = _never) -> Iterator[State | None]:
        """Held while pictures are rendered."""
        try:
            yield _acquire(self._picture_waits, asked) or _acquire(self._device, asked)
        finally:
            self._device.release()
            self._picture_waits.release()


def _acquire(lock: FileLock, asked: Asked) -> State | None:
    while True:
        try:
            lock.acquire(timeout=LOOK)
            return None
        except Timeout:
            if ended := asked():
                return ended
