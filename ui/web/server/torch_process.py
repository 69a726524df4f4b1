"""Run what needs PyTorch, such as opening adapters, in a separate process.

The server itself never imports PyTorch, so it stays small and quick. A file that fills the memory
ends that process and not the page.
"""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context, parent_process
from threading import Lock, Thread, Timer
from typing import ParamSpec, TypeVar

import psutil

from studio.errors import BadInput

P = ParamSpec("P")
R = TypeVar("R")
IDLE = 60.0  # seconds without a call after which the process ends; it takes seconds to start


class TorchProcess:
    """The process. It starts with the first call and runs one call at a time."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._pool: ProcessPoolExecutor | None = None
        self._id: int | None = None
        self._timer: Timer | None = None

    def call(self, function: Callable[P, R], *args: P.args, **given: P.kwargs) -> R:
        """Call a module's function in the process; the first call takes seconds.

        Raises BadInput where the function does, and where the process dies.
        """
        with self._lock:
            if self._timer:
                self._timer.cancel()
            try:
                if self._pool is None:
                    context = get_context("spawn")
                    self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_start)
                    self._id = self._pool.submit(os.getpid).result()
                return self._pool.submit(_run, function, *args, **given).result()
            except BrokenProcessPool:
                self._pool = None
                raise BadInput("there is not enough memory for this") from None
            finally:
                self._timer = Timer(IDLE, self._let_go)
                self._timer.daemon = True
                self._timer.start()

    def end(self) -> None:
        """End the process at once. A running call raises BadInput; the next one starts it again."""
        if self._id is not None:
            with suppress(psutil.NoSuchProcess):
                psutil.Process(self._id).kill()

    def _let_go(self) -> None:
        with self._lock:
            pool, self._pool = self._pool, None
        if pool:
            pool.shutdown()


run_in_process = TorchProcess().call  # one process for all calls that nobody needs to break off


def _run(function: Callable[P, R], *args: P.args, **given: P.kwargs) -> R:
    try:
        return function(*args, **given)
    except BadInput as error:
        raise BadInput(str(error)) from None  # a subclass may not survive pickling


def _start() -> None:
    """Give way to the server on the CPU, and end with it, even if the server is killed."""
    if hasattr(os, "nice"):
        os.nice(5)
    parent = parent_process()
    assert parent

    def wait() -> None:
        parent.join()
        os._exit(0)

    Thread(target=wait, daemon=True).start()
