"""What many evaluations take and let go again stays with the process until the last is made.

The UNet's intermediate results are megabytes large and live for milliseconds. glibc gives memory
of this size back to the system again and again, which has to fill it with zeros each time: up to a
sixth of the time on a CPU, and the more the longer a batch has been running. Python's collector
likewise looks at everything there is again and again when hundreds of adapters' files bring many
new objects; what was there before is left out.
"""

import ctypes
import gc
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from studio.bases.base import Base

# Of glibc's malloc.h, and the most that it takes for the second.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
SEPARATE = 32 * 2**20  # bytes from which on a tensor is mapped by itself, and unmapped
MOST_FREE = 2**30  # bytes
USUAL = 128 * 2**10  # bytes, of both where nobody set them
CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@contextmanager
def kept_heap(base: "Base") -> Iterator[None]:
    """Until the block is left, keep up to a gigabyte of what was freed; then give it back.

    Only for a base on a CPU. It holds for the whole process, also while a generator that is inside
    the block waits. The allocator is left alone where the user's environment says how it is to be,
    the collector where somebody has frozen objects, and those are not unfrozen either if it was
    done meanwhile. Of two such blocks at a time the first to end ends it for both. What stays:
    glibc no longer raises its thresholds by itself, as it does until they are set once.
    """
    if base.device.type != "cpu":
        yield
        return
    libc = None if any(name in os.environ for name in CHOSEN) else _glibc()
    frozen = 0
    if libc:
        libc.mallopt(TRIM_THRESHOLD, MOST_FREE)
        libc.mallopt(MMAP_THRESHOLD, SEPARATE)
    if gc.get_freeze_count() == 0:
        gc.freeze()
        frozen = gc.get_freeze_count()
    try:
        yield
    finally:
        if gc.get_freeze_count() <= frozen:  # it grows by another freeze only
            gc.unfreeze()
        if libc:
            libc.mallopt(TRIM_THRESHOLD, USUAL)
            libc.mallopt(MMAP_THRESHOLD, USUAL)
            libc.malloc_trim(0)


@contextmanager
def uncollected() -> Iterator[None]:
    """Python's collector rests until the block is left, which makes many objects that all stay."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@cache
def _glibc() -> ctypes.CDLL | None:
    """None on other systems."""
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
