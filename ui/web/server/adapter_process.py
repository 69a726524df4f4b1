"""What opens adapters is done in a process of its own.

The server stays small and quick, since it never imports PyTorch, and a file made to fill the
memory ends that process and not the page.
"""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from threading import Lock, Thread, Timer
from typing import ParamSpec, TypeVar

from studio.errors import BadInput

__all__ = ["apart"]

P = ParamSpec("P")
R = TypeVar("R")
KEPT = 60.0  # seconds that the process waits for more, since its start takes some


class _Process:
    """The process, while there is one; it does one thing at a time."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._pool: ProcessPoolExecutor | None = None
        self._ending: Timer | None = None

    def call(self, work: Callable[P, R], *args: P.args, **given: P.kwargs) -> R:
        """Do it there; BrokenProcessPool where the process died of it."""
        with self._lock:
            if self._ending:
                self._ending.cancel()
            if self._pool is None:
                context = get_context("spawn")
                self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_follow)
            try:
                return self._pool.submit(work, *args, **given).result()
            except BrokenProcessPool:
                self._pool = None
                raise
            finally:
                self._ending = Timer(KEPT, self._end)
                self._ending.daemon = True
                self._ending.start()

    def _end(self) -> None:
        with self._lock:
            pool, self._pool = self._pool, None
        if pool:
            pool.shutdown()


_process = _Process()


def apart(work: Callable[P, R], *args: P.args, **given: P.kwargs) -> R:
    """Call a function of a module in another process; the first call takes seconds.

    Raises what the function raises, and BadInput where the process died of it.
    """
    try:
        return _process.call(work, *args, **given)
    except BrokenProcessPool:
        raise BadInput("the file could not be opened: there is not enough memory") from None


def _follow() -> None:
    """End with the server, also when that is killed."""
    parent = parent_process()
    assert parent

    def wait() -> None:
        parent.join()
        os._exit(0)

    Thread(target=wait, daemon=True).start()
