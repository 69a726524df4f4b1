"""What all jobs of a worker share, and how a job saves its progress."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from studio.queue.job import Job, State
from studio.queue.worker import ENDING, report_job, write_heartbeat
from studio.workspace import Workspace
from studio.workspace.database import DatabaseBusy
from ui.shared.terminal import print_note
from ui.worker.device_lock import DeviceLock
from ui.worker.model_cache import ModelCache

T = TypeVar("T")
OFTEN = 0.2  # seconds between two looks at the database while steps are made


def patiently(act: Callable[[], T]) -> T:
    """What `act` returns; it is tried again for as long as the database is busy."""
    while True:
        try:
            return act()
        except DatabaseBusy as busy:  # it has waited already
            print_note(str(busy))


@dataclass(frozen=True)
class WorkerContext:
    """The worker of a queue. ending: tells whether it is to stop. started: seconds since 1970."""

    space: Workspace
    queue: str
    models: ModelCache
    device: DeviceLock
    ending: Callable[[], bool]
    started: float

    def beat(self, doing: str) -> None:
        """Say what is being done, for people to see; not where the database is busy."""
        with suppress(DatabaseBusy):
            write_heartbeat(self.space, self.queue, doing, started=self.started)


@dataclass
class JobProgress:
    """Where a job is; the fields are those of studio.queue.job.Job."""

    context: WorkerContext
    job: Job
    phase: str = ""
    step: int = 0
    total: int = 0
    loss: float | None = None
    seconds: float = 0.0
    _saved: float = 0.0

    def enter(self, phase: str) -> State | None:
        """Begin a phase and save that; returns what `save` does."""
        self.phase = phase
        return self.save(at_once=True)

    def save(self, *, at_once: bool = False) -> State | None:
        """Save it, a few times a second or at once; returns the state to end the job in, if any.

        "stopped": its owner asked for it. "queued": this worker ends, and the next one goes on.
        """
        if self.context.ending():
            self.context.beat(ENDING)
            return "queued"
        if not at_once and time.monotonic() < self._saved + OFTEN:
            return None
        try:
            stop = report_job(
                self.context.space,
                self.job.id,
                phase=self.phase,
                step=self.step,
                total=self.total,
                loss=self.loss,
                seconds=self.seconds,
            )
        except DatabaseBusy:
            return None  # a later step saves it
        self.context.beat(f"job {self.job.id}: {self.phase}")
        self._saved = time.monotonic()
        return "stopped" if stop else None
