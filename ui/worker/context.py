"""What the jobs of a worker share, and how they say where they are."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from studio.queue.client import Job, State
from studio.queue.worker import beat, report_job
from studio.workspace import Workspace
from ui.worker.device_turns import Turn
from ui.worker.loaded_models import Desk

__all__ = ["Account", "Shift"]

OFTEN = 0.2  # seconds between two looks at the database while steps are made


@dataclass(frozen=True)
class Shift:
    """A worker's time at its lane. ending: whether it was told to end. started: since 1970."""

    space: Workspace
    lane: str
    desk: Desk
    turn: Turn
    ending: Callable[[], bool]
    started: float

    def beat(self, doing: str) -> None:
        """Say what is being done, for people to see."""
        beat(self.space, self.lane, doing, started=self.started)


@dataclass
class Account:
    """Where a job is; the fields are those of studio.queue.client.Job."""

    shift: Shift
    job: Job
    phase: str = ""
    step: int = 0
    total: int = 0
    loss: float | None = None
    seconds: float = 0.0
    _written: float = 0.0

    def write(self, *, at_once: bool = False) -> State | None:
        """Write it down, a few times a second or at once; how the job is to end now, if it is.

        "stopped" is what its owner asked for; "queued" when the worker ends and another one shall
        go on.
        """
        if self.shift.ending():
            return "queued"
        if not at_once and time.monotonic() < self._written + OFTEN:
            return None
        stop = report_job(
            self.shift.space,
            self.job.id,
            phase=self.phase,
            step=self.step,
            total=self.total,
            loss=self.loss,
            seconds=self.seconds,
        )
        self.shift.beat(f"job {self.job.id}: {self.phase}")
        self._written = time.monotonic()
        return "stopped" if stop else None
