"""A job: one row of the workspace's database."""

import json
import sqlite3
from dataclasses import dataclass, fields
from typing import Literal

from studio.json_value import JSON

Kind = Literal["train", "render", "batch"]
State = Literal["queued", "running", "done", "failed", "stopped"]
UNFINISHED: tuple[State, ...] = ("queued", "running")
FINISHED: tuple[State, ...] = ("done", "failed", "stopped")
# The kinds of jobs in each queue, in order of precedence: a picture that somebody waits for goes
# before a batch. A queue has one worker, so there is one training at a time.
QUEUES: dict[str, tuple[Kind, ...]] = {"train": ("train",), "render": ("render", "batch")}


@dataclass(frozen=True)
class Job:
    """A job. Times are in seconds since 1970; None for what has not happened.

    title: its name on a page. run: a training's folder, by its name in runs/.
    stopping: whether it was asked to stop but has not stopped yet. phase: what it is doing, in a
    few words. step, total: counted in steps of a training or picture, or in pictures of several.
    loss: smoothed. seconds: time of the steps so far.
    results: adapters by name, pictures by id. A batch's are in the order of its shots, with "" for
    a missing picture.
    error, advice: why it failed, and what may help, as sentences; error also tells how a job was
    stopped whose worker did not answer.
    """

    id: int
    kind: Kind
    title: str
    arguments: dict[str, JSON]
    run: str
    state: State
    stopping: bool
    phase: str
    step: int
    total: int
    loss: float | None
    seconds: float
    results: tuple[str, ...]
    error: str
    advice: str
    created: float
    queued: float
    started: float | None
    finished: float | None

    @property
    def ended(self) -> bool:
        return self.state in FINISHED

    @property
    def finished_results(self) -> tuple[str, ...]:
        """The results without the missing ones."""
        return tuple(filter(None, self.results))

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the job is done, at its speed so far; None where that is not known."""
        if self.state != "running" or not (self.step and self.seconds):
            return None
        return (self.total - self.step) * self.seconds / self.step


def job_from_row(row: sqlite3.Row) -> Job:
    """The job in a row of the table `jobs`, whose columns are named as the fields."""
    values = dict(row) | {
        "arguments": json.loads(row["arguments"]),
        "results": tuple(json.loads(row["results"])),
        "stopping": bool(row["stop"]) and row["state"] == "running",
    }
    return Job(**{field.name: values[field.name] for field in fields(Job)})
