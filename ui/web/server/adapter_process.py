"""Does what needs PyTorch, such as opening adapters, in a process of its own.

The server stays small and quick, since it never imports PyTorch. A file that fills the memory ends
that process and not the page.
"""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from threading import Lock, Thread, Timer
from typing import ParamSpec, TypeVar

from studio.errors import BadInput

P = ParamSpec("P")
R = TypeVar("R")
IDLE = 60.0  # seconds that the process waits for more, since its start takes some


class _Process:
    """The process, started when it is needed; it does one thing at a time."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._pool: ProcessPoolExecutor | None = None
        self._timer: Timer | None = None

    def call(self, function: Callable[P, R], *args: P.args, **given: P.kwargs) -> R:
        """Call a function there. Raises BrokenProcessPool if the process died of it."""
        with self._lock:
            if self._timer:
                self._timer.cancel()
            if self._pool is None:
                context = get_context("spawn")
                self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_start)
            try:
                return self._pool.submit(function, *args, **given).result()
            except BrokenProcessPool:
                self._pool = None
                raise
            finally:
                self._timer = Timer(IDLE, self._end)
                self._timer.daemon = True
                self._timer.start()

    def _end(self) -> None:
        with self._lock:
            pool, self._pool = self._pool, None
        if pool:
            pool.shutdown()


_process = _Process()


def run_in_process(function: Callable[P, R], *args: P.args, **given: P.kwargs) -> R:
    """Call a module's function in another process; the first call takes seconds.

    Raises what the function raises, and BadInput if the process died of it.
    """
    try:
        return _process.call(function, *args, **given)
    except BrokenProcessPool:
        raise BadInput("there is not enough memory for this") from None


def _start() -> None:
    """The server's pages come first. The process ends with the server, even if that is killed."""
    if hasattr(os, "nice"):
        os.nice(5)
    parent = parent_process()
    assert parent

    def wait() -> None:
        parent.join()
        os._exit(0)

    Thread(target=wait, daemon=True).start()
