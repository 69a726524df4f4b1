"""Allow one training at a time in a run's folder: making the folder claims it, a lock keeps it.

The lock belongs to the operating system (`flock`, by filelock), which releases it when the process
ends, even if it is killed. Where a launcher starts several processes, rank 0 holds the lock for
all.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from studio.errors import BadInput
from trainers.engine.distributed import launched_rank

RUNS = Path("runs")
LOCK_FILE = ".lock"
PATIENCE = 0.5  # seconds to wait: `check_not_training` of another process holds the lock briefly


def next_numbered_folder(kind: str) -> Path:
    """The folder that the next training of this kind gets, unless another process is faster."""
    return next(path for path in _numbered_folders(kind) if not path.exists())


def make_numbered_folder(kind: str) -> Path:
    """Make and return runs/KIND-NUMBER with the first free number."""
    for path in _numbered_folders(kind):
        try:
            RUNS.mkdir(exist_ok=True)
            path.mkdir()
        except FileExistsError:
            if not RUNS.is_dir():
                raise BadInput(f"{RUNS} is a file: name a folder for the run") from None
        except OSError as error:
            raise BadInput(f"{path} cannot be made: {error.strerror or error}") from error
        else:
            return path
    raise AssertionError("there is always a next number")


def _numbered_folders(kind: str) -> Iterator[Path]:
    return (RUNS / f"{kind}-{number}" for number in count(1))


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder within the block. A missing folder is made.

    Raises BadInput where another training holds the lock.
    """
    # Not bound to a thread: a training's generator may be closed in another one than it began in.
    lock = FileLock(folder / LOCK_FILE, thread_local=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise BadInput(
            f"{folder} is being trained by another process: wait until that ends or stop it, or "
            "name another folder for a new training (--run)"
        ) from None
    except OSError as error:
        raise BadInput(f"{folder} cannot be locked: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def check_not_training(folder: Path) -> None:
    """Raise BadInput where another process trains in this folder."""
    if launched_rank() == 0 and (folder / LOCK_FILE).exists():
        with lock_folder(folder):
            pass
