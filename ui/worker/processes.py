"""Worker processes: run one in this process, or start and watch them. Imports no PyTorch.

    with workers(space):      # while a server serves
        ...

A worker that dies is started again. A worker that was told to stop its job or to end, and has not
answered after ANSWER seconds, is in a long step: it is killed, and started again if it is still
needed. A training that must stop has the time of two more steps, so that it can write its
checkpoint. If the process that started the workers is killed, they run the queued jobs and end;
until then the workers of the next server wait for the queue.
"""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import Timeout

from studio.errors import Stopped
from studio.queue.client import list_workers
from studio.queue.job import QUEUES
from studio.queue.worker import ENDING, Stop, list_stops, queue_lock, recover_jobs
from studio.workspace import Workspace
from studio.workspace.database import DatabaseBusy
from ui.shared.terminal import print_note
from ui.shared.training_run import stopping
from ui.worker.subprocesses import module_command, module_environment

LONGEST_LOG = 1_000_000  # bytes; a longer log is renamed
LOOK = 0.25  # seconds between two checks of the processes
ASK = 1.0  # seconds between two checks for jobs that must stop
ANSWER = 5.0  # seconds in which a worker must answer when its job must stop or it must end
GRACE = 60.0  # seconds that it has for a checkpoint once it has answered
UNANSWERED = f"its worker did not answer for {ANSWER:g} seconds, and was ended"
UNHEARD = "did not answer, and was ended"
HEALTHY = 30.0  # seconds; a worker that lived longer is started again at once
LONGEST_PAUSE = 30.0  # seconds of the longest wait before a worker that keeps dying is restarted


def run_worker(space: Workspace, queue: str, *, until_empty: bool = False, parent: int) -> None:
    """Be the worker of a queue until SIGINT or SIGTERM.

    Waits while another worker has the queue. until_empty: end when nothing is queued. parent: id of
    the process that watches this one; once it is gone, this one ends when nothing is queued.
    """

    def leaving() -> bool:
        return until_empty or os.getppid() != parent

    lock = queue_lock(space, queue)
    with stopping() as stop_requested:
        while not (stop_requested() or lock.is_locked):
            with suppress(Timeout):
                lock.acquire(timeout=LOOK)
            if not lock.is_locked and leaving():
                print_note(f"Another worker has the queue {queue}")
                return
        try:
            if hasattr(os, "nice"):  # the web page goes first, then pictures, then trainings
                os.nice(10 if queue == "train" else 5)
            from ui.worker.loop import work  # PyTorch with it

            work(space, queue, ending=stop_requested, leaving=leaving)
        finally:
            lock.release()


@contextmanager
def workers(
    space: Workspace, queues: Collection[str] = tuple(QUEUES), *, until_empty: bool = False
) -> Iterator[Callable[[], bool]]:
    """Run a worker for each of these queues within the block; one that dies is started again.

    Call the value to ask whether any worker still runs. When the block is left, the workers write
    checkpoints, put their jobs back into the queue and end. Their output goes to the workspace's
    logs/. until_empty: they end when nothing is queued.
    """
    watched = [_Watched(space, queue, until_empty) for queue in queues]
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
        told = time.monotonic()
        for one in watched:
            one.end(told)


@dataclass
class _Watched:
    """A worker's process; starts it, and starts it again when it dies."""

    space: Workspace
    queue: str
    until_empty: bool
    finished: bool = False
    process: subprocess.Popen = field(init=False)
    _started: float = 0.0
    _pause: float = 0.0
    _asked: float = 0.0
    _stops: dict[tuple[int, Stop], float] = field(default_factory=dict)

    def start(self) -> None:
        words = ["worker", "--queue", self.queue, "--workspace", str(self.space.root)]
        words += ["--parent", str(os.getpid()), *(["--until-empty"] if self.until_empty else [])]
        # One core is left to the web page: PyTorch's threads wait for each other at every layer, so
        # if one waits for a core, all do. With two threads on two cores, one of them busy with
        # other work, a picture of sketch took ten times as long as with one thread.
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
        """Start the worker again if it died; if it doesn't answer, kill it first."""
        if self.finished:
            return
        if self.process.poll() is None:
            if self._is_deaf():
                self._kill(UNHEARD)
                self.start()
            return
        if self.process.returncode == 0 and self.until_empty:
            self.finished = True
            return
        lived = time.monotonic() - self._started
        if lived < self._pause:
            return
        self._pause = 0.0 if lived > HEALTHY else min(LONGEST_PAUSE, 2 * self._pause + 1)
        self.start()

    def end(self, told: float) -> None:
        """Wait until the worker has ended; kill it if it doesn't answer or takes too long.

        told: when it was told to end. A worker that has no job yet is killed at once.
        """
        while self.process.poll() is None:
            if self._doing() in (None, "starting"):  # it waits for the queue, or is still importing
                self._kill()
                return
            if time.monotonic() > told + (GRACE if self._doing() == ENDING else ANSWER):
                self._kill(UNHEARD)
                return
            time.sleep(LOOK)

    def _is_deaf(self) -> bool:
        """Whether a job of the worker should have stopped long ago and still runs."""
        now = time.monotonic()
        if now < self._asked + ASK:
            return False
        self._asked = now
        with suppress(DatabaseBusy):
            stops = list_stops(self.space, self.queue)
            self._stops = {one: self._stops.get(one, now) for one in stops.items()}
            # A training notices between two steps, so it gets the time of two steps.
            late = [
                now > since + (GRACE if stop.heard else ANSWER + 2 * stop.step)
                for (_, stop), since in self._stops.items()
            ]
            return any(late) and bool(self._doing())
        return False

    def _doing(self) -> str | None:
        """The worker's last heartbeat.

        None if another worker has the queue, "" if the database is busy.
        """
        with suppress(DatabaseBusy):
            (own,) = (one for one in list_workers(self.space) if one.queue == self.queue)
            return own.doing if own.pid == self.process.pid else None
        return ""

    def _kill(self, why: str = "") -> None:
        """Kill the worker. A job that had to stop is stopped; others go back to the queue."""
        self.process.kill()
        self.process.wait()
        if why:
            print_note(f"The worker of the queue {self.queue} {why}")
        with suppress(Timeout, DatabaseBusy), queue_lock(self.space, self.queue).acquire(timeout=1):
            recover_jobs(self.space, self.queue, reason=UNANSWERED)


def watch_workers(space: Workspace, queues: Collection[str], *, until_empty: bool) -> None:
    """Run the workers of these queues until a signal stops them; then raise Stopped."""
    with workers(space, queues, until_empty=until_empty) as busy, stopping() as stop_requested:
        print_note(f"Working for {space.root}; what the workers say is in {space.logs}")
        while busy():
            if stop_requested():
                raise Stopped("the workers have ended, and their jobs are queued again.")
            time.sleep(LOOK)


def _log(space: Workspace, queue: str) -> Path:
    """A worker's log file; a long one is renamed to .old.log first."""
    place = space.logs / f"{queue}.log"
    if place.exists() and place.stat().st_size > LONGEST_LOG:
        place.replace(place.with_suffix(".old.log"))
    return place
