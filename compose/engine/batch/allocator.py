"""Keep freed memory in the process while a batch is drawn, and spare the garbage collector work.

The UNet's intermediate results take megabytes and live for milliseconds. glibc gives memory of this
size back to the system each time, and the system fills it with zeros each time it is taken again.
That takes up to a sixth of the time on a CPU, and more the longer a batch runs. Python's garbage
collector goes through all objects again and again while hundreds of adapter files are loaded;
freezing leaves the objects out that existed before.
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

# Options of mallopt, from glibc's malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
SEPARATE = 32 * 2**20  # bytes; larger tensors get a mapping of their own. glibc allows no more.
MOST_FREE = 2**30  # bytes of freed memory to keep
USUAL = 128 * 2**10  # bytes, glibc's default for both thresholds
CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@contextmanager
def kept_heap(base: "Base") -> Iterator[None]:
    """Keep up to a gigabyte of freed memory until the block is left; then give it back.

    Only for a base on a CPU. It holds for the whole process, also while a generator inside of the
    block waits. The allocator is left alone where the user's environment configures it. The
    collector is left alone where objects are frozen already, and nothing is unfrozen if somebody
    froze more objects meanwhile. If two such blocks overlap, the first to end ends both. One effect
    stays: glibc no longer raises its thresholds by itself, as it does until they are set.
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
        if gc.get_freeze_count() <= frozen:  # the count grows only if somebody else freezes
            gc.unfreeze()
        if libc:
            libc.mallopt(TRIM_THRESHOLD, USUAL)
            libc.mallopt(MMAP_THRESHOLD, USUAL)
            libc.malloc_trim(0)


@contextmanager
def uncollected() -> Iterator[None]:
    """Turn the garbage collector off within the block, which makes many objects that all stay."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@cache
def _glibc() -> ctypes.CDLL | None:
    """The C library, or None where it isn't glibc."""
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
