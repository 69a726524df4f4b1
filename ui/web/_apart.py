"""What opens adapters is done in a process of its own.

The server stays small and quick, since it never imports PyTorch, and a file made to fill the
memory ends that process and not the page.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from threading import Lock
from typing import ParamSpec, TypeVar

from studio.errors import BadInput

__all__ = ["apart"]

P = ParamSpec("P")
R = TypeVar("R")
ONE = Lock()  # at a time: each takes a core, and the memory of an adapter


def apart(work: Callable[P, R], *args: P.args, **given: P.kwargs) -> R:
    """Call a function of a module in another process, which ends with it; takes seconds.

    Raises what the function raises, and BadInput where the process died of it.
    """
    with ONE, ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        try:
            return process.submit(work, *args, **given).result()
        except BrokenProcessPool:
            raise BadInput("the file could not be opened: there is not enough memory") from None
