"""One process at a time in the folder of a batch or a sweep."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import gettempdir

from studio.errors import BadInput


@contextmanager
def only_process(out: Path) -> Iterator[None]:
    """Lock a folder against a second process of this user; the lock ends with the process.

    Raises BadInput if another process has the lock.
    """
    from filelock import FileLock, Timeout

    # The lock file is not in the folder itself, which holds nothing but the work.
    user = getattr(os, "getuid", str)()  # on Windows each user has a temporary folder
    name = sha256(f"{user} {out.resolve()}".encode()).hexdigest()[:16]
    lock = FileLock(Path(gettempdir()) / f"studio-{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BadInput(
            f"{out} is being made by another process: wait for it, or give another --out."
        ) from None
    except OSError as error:  # a link or a folder of that name; nothing is written through it
        raise BadInput(f"{lock.lock_file} cannot be locked ({error}): remove it.") from error
    try:
        yield
    finally:
        lock.release()
