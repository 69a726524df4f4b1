"""What many evaluations take and let go again stays with the process until the last is made.

The UNet's intermediate results are megabytes large and live for milliseconds. glibc gives memory
of this size back to the system again and again, which has to fill it with zeros each time: up to a
sixth of the time on a CPU, and the more the longer a batch has been running. Python's collector
likewise looks at everything there is again and again when hundreds of adapters' files bring many
new objects; what was there before is left out.
"""

import ctypes
import gc
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

__all__ = ["kept_heap"]

# Of glibc's malloc.h, and the most that it takes for the second.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
SEPARATE = 32 * 2**20  # bytes from which on a tensor is mapped by itself, and unmapped
MOST_FREE = 2**30  # bytes


@contextmanager
def kept_heap() -> Iterator[None]:
    """Until the block is left, keep up to a gigabyte of what was freed; then give it back."""
    libc = _glibc()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        if libc:
            libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    """glibc, told to keep what is freed; None on other systems."""
    if platform.libc_ver()[0] != "glibc":
        return None
    libc = ctypes.CDLL(None)
    libc.mallopt(TRIM_THRESHOLD, MOST_FREE)
    libc.mallopt(MMAP_THRESHOLD, SEPARATE)
    return libc
