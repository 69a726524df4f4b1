"""Does what needs PyTorch, such as opening adapters, in a process of its own.

The server stays small and quick, since it never imports PyTorch. A file that fills the memory ends
that process and not the page.
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
IDLE = 60.0  # seconds that the process waits for more, since its start takes some


class TorchProcess:
    """The process, started when it is needed; it does one thing at a time."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._pool: ProcessPoolExecutor | None = None
        self._id: int | None = None
        self._timer: Timer | None = None

    def call(self, function: Callable[P, R], *args: P.args, **given: P.kwargs) -> R:
        """Call a module's function there; the first call takes seconds.

        Raises BadInput as the function does, and where the process dies of it.
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
        """End it at once; a call that waits for it raises BadInput. The next one starts it anew."""
        if self._id is not None:
            with suppress(psutil.NoSuchProcess):
                psutil.Process(self._id).kill()

    def _let_go(self) -> None:
        with self._lock:
            pool, self._pool = self._pool, None
        if pool:
            pool.shutdown()


run_in_process = TorchProcess().call  # where nobody needs to end it


def _run(function: Callable[P, R], *args: P.args, **given: P.kwargs) -> R:
    try:
        return function(*args, **given)
    except BadInput as error:
        raise BadInput(str(error)) from None  # what kinds of it know besides cannot be sent


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
