"""The lock on the device: pictures are rendered between the steps of a training.

Running at once, a training and a picture would each take more than twice as long: a GPU lacks the
memory bandwidth, a CPU the cores. And somebody waits for the picture. So a training releases the
device between two steps whenever a picture waits for it, and a picture holds it until it is done.
The locks are the operating system's, which releases them when a process is killed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from studio.queue.job import State
from studio.queue.worker import queue_lock
from studio.workspace import Workspace

LOOK = 0.3  # seconds between two checks, while a job waits for the device, whether it must end
Asked = Callable[[], State | None]


def _never() -> None:
    return None


class DeviceLock:
    """One process's handle on the lock.

    asked: returns the state in which the job must end, or None; it is called while the job waits
    for the device. The methods return that state if the wait was ended by it, without the device;
    they return None once the device is held.
    """

    def __init__(self, space: Workspace) -> None:
        self._device = queue_lock(space, "turn")  # both names are those of older workers' locks
        self._picture_waits = queue_lock(space, "wish")

    @contextmanager
    def for_training(self, asked: Asked = _never) -> Iterator[State | None]:
        """Hold the device for a training within the block; call `give_way` between its steps."""
        try:
            yield _acquire(self._device, asked)
        finally:
            self._device.release()

    def give_way(self, asked: Asked = _never) -> State | None:
        """Lend the device to a waiting picture, if any; return when the training holds it again."""
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
        """Hold the device for rendering pictures within the block."""
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
