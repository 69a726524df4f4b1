"""Workers as processes: one runs here, or both are started and watched. No PyTorch.

    with workers(space):      # while a server serves
        ...

A worker that dies is started again. One that outlives whoever started it, since that was killed,
does what is queued and ends; until then the next server's worker waits behind it for the queue.
"""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import Timeout

from studio.errors import Stopped
from studio.queue.job import QUEUES
from studio.queue.worker import queue_lock
from studio.workspace import Workspace
from ui.shared.subprocesses import module_command, module_environment
from ui.shared.terminal import print_note
from ui.shared.training_run import stopping

LONGEST_LOG = 1_000_000  # bytes, before a log is put aside
LOOK = 0.25  # seconds between two looks at the processes
GRACE = 60.0  # seconds that a worker has for its checkpoint when it is told to end
HEALTHY = 30.0  # seconds of life after which a death is no sign that the next comes soon
LONGEST_PAUSE = 30.0  # seconds before a worker that dies again and again is started again


def run_worker(
    space: Workspace, queue: str, *, until_empty: bool = False, parent: int | None = None
) -> None:
    """Be the worker of a queue until SIGINT or SIGTERM ends it.

    Waits while another worker has the queue. until_empty: end when nothing is queued. parent: a
    process id; when that process is gone, end when nothing is queued.
    """

    def leaving() -> bool:
        return until_empty or (parent is not None and os.getppid() != parent)

    lock = queue_lock(space, queue)
    with stopping() as stop_requested:
        while not (stop_requested() or lock.is_locked):
            with suppress(Timeout):
                lock.acquire(timeout=LOOK)
            if not lock.is_locked and leaving():
                print_note(f"Another worker has the queue {queue}")
                return
        try:
            if hasattr(os, "nice"):  # the server's pages come first, then pictures, then trainings
                os.nice(10 if queue == "train" else 5)
            from ui.worker.loop import work  # PyTorch with it

            work(space, queue, ending=stop_requested, leaving=leaving)
        finally:
            lock.release()


@contextmanager
def workers(space: Workspace, *, until_empty: bool = False) -> Iterator[Callable[[], bool]]:
    """A worker for each queue, started again when it dies; the value says whether any still runs.

    When the block is left they end; their jobs go back to the queue with checkpoints written.
    What they say is in the workspace's logs/. until_empty: they end when nothing is queued.
    """
    watched = [_Watched(space, queue, until_empty) for queue in QUEUES]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LOOK):
            for one in watched:
                one.look()

    watcher = threading.Thread(target=watch, daemon=True)
    for one in watched:
        one.start()
    watcher.start()
    try:
        yield lambda: any(not one.finished for one in watched)
    finally:
        over.set()
        watcher.join()
        for one in watched:
            one.process.terminate()
        for one in watched:
            one.end()


@dataclass
class _Watched:
    """A worker's process, and when it is to be started again."""

    space: Workspace
    queue: str
    until_empty: bool
    finished: bool = False
    process: subprocess.Popen = field(init=False)
    _started: float = 0.0
    _pause: float = 0.0

    def start(self) -> None:
        words = ["worker", "--queue", self.queue, "--workspace", str(self.space.root)]
        words += ["--until-empty"] if self.until_empty else ["--parent", str(os.getpid())]
        # A core is left to the page: PyTorch's threads wait for each other at every layer, and
        # where one has to wait for a core, all do. With two threads on two cores, one of them busy
        # otherwise, a picture of sketch took ten times as long as with one thread.
        threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) - 1))}
        with _log(self.space, self.queue).open("ab") as log:
            # Ctrl-C on the terminal must reach the watcher alone; it then stops the worker.
            self.process = subprocess.Popen(
                module_command("ui.cli", *words),
                env=threads | module_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._started = time.monotonic()

    def look(self) -> None:
        """Start it again if it died."""
        if self.finished or self.process.poll() is None:
            return
        if self.process.returncode == 0 and self.until_empty:
            self.finished = True
            return
        lived = time.monotonic() - self._started
        if lived < self._pause:
            return
        self._pause = 0.0 if lived > HEALTHY else min(LONGEST_PAUSE, 2 * self._pause + 1)
        self.start()

    def end(self) -> None:
        """Wait until it has ended, and end it where that takes too long."""
        try:
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def watch_workers(space: Workspace, *, until_empty: bool) -> None:
    """Run the workers of both queues until a signal stops them; then raise Stopped."""
    with workers(space, until_empty=until_empty) as busy, stopping() as stop_requested:
        print_note(f"Working for {space.root}; what the workers say is in {space.logs}")
        while busy():
            if stop_requested():
                raise Stopped("the workers have ended, and their jobs are queued again.")
            time.sleep(LOOK)


def _log(space: Workspace, queue: str) -> Path:
    """Where a worker's words go; a long log is put aside first."""
    place = space.logs / f"{queue}.log"
    if place.exists() and place.stat().st_size > LONGEST_LOG:
        place.replace(place.with_suffix(".old.log"))
    return place
