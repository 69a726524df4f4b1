"""The workers' side of the queue: claim a job, report its progress, recover a dead worker's jobs.

A worker holds its queue's lock, the operating system's lock on a file, for as long as it lives. The
system releases it when the process ends, even by kill -9. So whoever gets the lock knows that no
other worker runs, and that jobs of the queue marked as running have lost their worker. Process ids
and heartbeats play no part in this; they are only shown to users.
"""

import json
import os
import time
from collections.abc import Sequence
from typing import NamedTuple

from filelock import FileLock, Timeout

from studio.queue.job import QUEUES, Job, Kind, State, job_from_row
from studio.workspace import Workspace, read_database, write_database

ENDING = "ending"  # `doing` in the heartbeat of a worker that was told to end
MAX_DEATHS = 3  # so many workers may die on a job in a row without getting further
DIED = "its worker was ended {deaths} times without getting further than step {step}"
DIED_ADVICE = (
    "the system ends programs that want more memory than there is: ask for less (a smaller batch "
    "or size), close other programs, and resume it; the end of the worker's output is in logs/"
)


def queue_lock(space: Workspace, queue: str) -> FileLock:
    """The file lock of a queue, or of another name; not acquired yet."""
    return FileLock(space.root / f".{queue}.lock", poll_interval=0.02)


def is_locked(space: Workspace, queue: str) -> bool:
    """Whether a process holds this lock now."""
    try:
        with queue_lock(space, queue).acquire(timeout=0):
            return False
    except Timeout:
        return True


def has_waiting_jobs(space: Workspace, kinds: Sequence[Kind]) -> bool:
    """Whether a job of these kinds is queued."""
    marks = ", ".join("?" * len(kinds))
    with read_database(space) as db:
        query = f"SELECT 1 FROM jobs WHERE state = 'queued' AND kind IN ({marks}) LIMIT 1"
        return db.execute(query, tuple(kinds)).fetchone() is not None


def claim_job(space: Workspace, kinds: Sequence[Kind]) -> Job | None:
    """Take the next job of these kinds, in their order of precedence; None where none waits.

    Call it with the queue's lock held.
    """
    if not has_waiting_jobs(space, kinds):  # only reads, so it waits for no writer
        return None
    order = " ".join(f"WHEN ? THEN {place}" for place in range(len(kinds)))
    marks = ", ".join("?" * len(kinds))
    with write_database(space) as db:
        row = db.execute(
            "UPDATE jobs SET state = 'running', stop = 0, phase = 'starting', finished = NULL, "
            "started = COALESCE(started, ?) WHERE id = (SELECT id FROM jobs "
            f"WHERE state = 'queued' AND kind IN ({marks}) "
            f"ORDER BY CASE kind {order} END, queued, id LIMIT 1) RETURNING *",
            (time.time(), *kinds, *kinds),
        ).fetchone()
    return job_from_row(row) if row else None


def report_job(
    space: Workspace,
    id: int,
    *,
    phase: str | None = None,
    step: int | None = None,
    total: int | None = None,
    loss: float | None = None,
    seconds: float | None = None,
    results: Sequence[str] | None = None,
) -> bool:
    """Store a job's progress; what is None stays as it is. Returns whether the job must stop.

    If it must, the job is marked as having heard so, see `Stop`.
    """
    encoded = None if results is None else json.dumps(list(results))
    with write_database(space, durable=results is not None) as db:
        row = db.execute(
            "UPDATE jobs SET phase = COALESCE(?, phase), step = COALESCE(?, step), "
            "total = COALESCE(?, total), loss = COALESCE(?, loss), "
            "seconds = COALESCE(?, seconds), results = COALESCE(?, results), "
            "stop = CASE WHEN stop THEN 2 ELSE 0 END WHERE id = ? RETURNING stop",
            (phase, step, total, loss, seconds, encoded, id),
        ).fetchone()
    return row is None or bool(row["stop"])


def finish_job(
    space: Workspace, id: int, state: State, *, error: str = "", advice: str = ""
) -> None:
    """Store how a job ended: "done", "failed" or "stopped"."""
    with write_database(space) as db:
        db.execute(
            "UPDATE jobs SET state = ?, stop = 0, phase = '', error = ?, advice = ?, finished = ? "
            "WHERE id = ?",
            (state, error, advice, time.time(), id),
        )


def requeue_job(space: Workspace, id: int) -> None:
    """Put a job back into its place in the queue, because its worker must end.

    A job that was asked to stop is stopped instead.
    """
    with write_database(space) as db:
        db.execute(
            "UPDATE jobs SET state = CASE WHEN stop THEN 'stopped' ELSE 'queued' END, "
            "finished = CASE WHEN stop THEN ? END, stop = 0, phase = '' "
            "WHERE id = ? AND state = 'running'",
            (time.time(), id),
        )


class Stop(NamedTuple):
    """A request to stop a running job.

    heard: whether the worker knows of it. step: seconds of a training's step, or 0.
    """

    heard: bool
    step: float


def list_stops(space: Workspace, queue: str) -> dict[int, Stop]:
    """The running jobs of a queue that were asked to stop."""
    marks = ", ".join("?" * len(QUEUES[queue]))
    query = (
        "SELECT id, stop, CASE WHEN kind = 'train' AND step THEN seconds / step ELSE 0 END AS each "
        f"FROM jobs WHERE state = 'running' AND stop AND kind IN ({marks})"
    )
    with read_database(space) as db:
        rows = db.execute(query, QUEUES[queue])
        return {row["id"]: Stop(row["stop"] > 1, row["each"]) for row in rows}


def recover_jobs(space: Workspace, queue: str, *, reason: str = "") -> list[Job]:
    """Recover the jobs that a dead worker left running, and return them. Hold the queue's lock.

    A job that was asked to stop is stopped. Others go back to their place in the queue and will be
    resumed. A job whose workers died MAX_DEATHS times without progress has failed. reason: why the
    worker was ended on purpose; it becomes the `error` of stopped jobs, and does not count as a
    death.
    """
    kinds = QUEUES[queue]
    marks = ", ".join("?" * len(kinds))
    with write_database(space) as db:
        query = f"SELECT * FROM jobs WHERE state = 'running' AND kind IN ({marks})"
        orphans = db.execute(query, kinds).fetchall()
        for row in orphans:
            deaths = 1 if row["step"] > row["reached"] else row["deaths"] + 1
            deaths = row["deaths"] if reason else deaths
            reached = max(row["step"], row["reached"])
            given_up = deaths >= MAX_DEATHS
            state = "stopped" if row["stop"] else "failed" if given_up else "queued"
            died = (DIED.format(deaths=deaths, step=reached), DIED_ADVICE)
            error_and_advice = {"failed": died, "stopped": (reason, "")}
            db.execute(
                "UPDATE jobs SET state = ?, stop = 0, phase = '', deaths = ?, reached = ?, "
                "error = ?, advice = ?, finished = ? WHERE id = ?",
                (
                    state,
                    deaths,
                    reached,
                    *error_and_advice.get(state, ("", "")),
                    None if state == "queued" else time.time(),
                    row["id"],
                ),
            )
    return [job_from_row(row) for row in orphans]


def write_heartbeat(space: Workspace, queue: str, doing: str, *, started: float) -> None:
    """Store that a queue's worker is alive, and what it does. started: seconds since 1970."""
    row = (queue, os.getpid(), started, time.time(), doing)
    with write_database(space, durable=False) as db:
        db.execute("INSERT OR REPLACE INTO workers VALUES (?, ?, ?, ?, ?)", row)
