"""The state that all jobs of a worker share, and how a job saves its progress."""

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
OFTEN = 0.2  # seconds between two writes of a job's progress


def patiently(act: Callable[[], T]) -> T:
    """The result of `act`, which is called again for as long as the database is busy."""
    while True:
        try:
            return act()
        except DatabaseBusy as busy:  # raised only after waiting for a while
            print_note(str(busy))


@dataclass(frozen=True)
class WorkerContext:
    """A queue's worker. ending: tells whether it should stop. started: seconds since 1970."""

    space: Workspace
    queue: str
    models: ModelCache
    device: DeviceLock
    ending: Callable[[], bool]
    started: float

    def beat(self, doing: str) -> None:
        """Write a heartbeat that says what the worker is doing; skipped if the database is busy."""
        with suppress(DatabaseBusy):
            write_heartbeat(self.space, self.queue, doing, started=self.started)


@dataclass
class JobProgress:
    """A job's progress; the fields are those of studio.queue.job.Job."""

    context: WorkerContext
    job: Job
    phase: str = ""
    step: int = 0
    total: int = 0
    loss: float | None = None
    seconds: float = 0.0
    _saved: float = 0.0

    def enter(self, phase: str) -> State | None:
        """Begin a phase and save it at once; returns what `save` returns."""
        self.phase = phase
        return self.save(at_once=True)

    def save(self, *, at_once: bool = False) -> State | None:
        """Save the progress; returns the state in which the job must end now, or None.

        "stopped": the user stopped the job. "queued": this worker ends, and the next one continues
        the job. at_once: save even if the last save was a moment ago.
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
