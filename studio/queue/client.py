"""The queue of jobs: trainings and pictures for the workers, one row each in the database.

    space = open_workspace()
    job = add_job(space, "train", arguments, title="sks robot")
    get_job(space, job.id)                   # state, phase, step, total, loss, left, results, ...
    list_jobs(space, states=("running", "queued"))
    stop_job(space, job.id)                  # a training keeps its checkpoint
    resume_job(space, job.id)                # goes on where it was stopped, or failed
    move_job(space, job.id, "first")         # among the waiting jobs
    remove_job(space, job.id)                # restore_job brings it back
    read_log(space, job.run)                 # from studio.workspace: plot, samples, checkpoints
    live_preview(space, job.id)              # what a picture looks like while it forms
    list_workers(space)                      # the workers, what they do, and when they last said so

Pages show these rows and store nothing themselves, so closing a page or killing the server loses
nothing. Whatever is impossible raises BadInput. Nothing here imports PyTorch or keeps a file open,
so any thread may call it. The workers' side is studio/queue/worker.py.

Why not a queue library: huey (3.5) deletes a task when a worker takes it, so a task is lost when
its worker is killed. It also stores tasks as pickles, which run code when they are read. The pages
need the table of jobs anyway; with it, a queue is one UPDATE.
"""

import json
import math
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import Timeout

from studio.errors import BadInput
from studio.queue.job import QUEUES, Job, Kind, State, job_from_row
from studio.queue.worker import is_locked, queue_lock, recover_jobs
from studio.training_asks import Ask, ask_training
from studio.workspace import (
    Workspace,
    clean_name,
    delete,
    list_trash,
    read_database,
    undelete,
    write_database,
)

LONGEST_TITLE = 200  # characters
Place = Literal["first", "earlier", "later", "last"]


@dataclass(frozen=True)
class Worker:
    """The worker of a queue.

    alive: whether its process runs. pid, started: None where it does not. started, seen: when it
    began, and its last heartbeat, in seconds since 1970. A worker that is alive but was not seen
    for minutes is in a long step, or stuck.
    """

    queue: str
    alive: bool
    pid: int | None
    started: float | None
    seen: float | None
    doing: str


def add_job(space: Workspace, kind: Kind, arguments: Mapping[str, object], *, title: str) -> Job:
    """Put a job at the end of the queue. arguments: JSON values for the worker.

    A training gets its folder's name here, so that a page can look into it from the beginning.
    """
    now, title = time.time(), " ".join(title.split())[:LONGEST_TITLE]
    encoded = json.dumps(arguments, allow_nan=False)
    with write_database(space) as db:
        id = db.execute(
            "INSERT INTO jobs (kind, title, arguments, created, queued) VALUES (?, ?, ?, ?, ?)",
            (kind, title, encoded, now, now),
        ).lastrowid
        run = f"{clean_name(title, otherwise='run')}-{id}" if kind == "train" else ""
        row = db.execute("UPDATE jobs SET run = ? WHERE id = ? RETURNING *", (run, id)).fetchone()
    return job_from_row(row)


def get_job(space: Workspace, id: int) -> Job:
    """A job by its number; BadInput where there is none."""
    with read_database(space) as db:
        row = db.execute("SELECT * FROM jobs WHERE id = ? AND removed IS NULL", (id,)).fetchone()
    if row is None:
        raise BadInput(f"there is no job {id}")
    return job_from_row(row)


def list_jobs(
    space: Workspace,
    *,
    states: Sequence[State] = (),
    kinds: Sequence[Kind] = (),
    limit: int = 100,
    before: int | None = None,
) -> list[Job]:
    """Jobs by number, the latest first.

    states, kinds: only jobs of these; all where none is named. limit, before: at most so many jobs
    with lower numbers than `before`, for lists in pages.
    """
    conditions, values = ["removed IS NULL"], []
    for column, wanted in (("state", states), ("kind", kinds)):
        if wanted:
            conditions.append(f"{column} IN ({', '.join('?' * len(wanted))})")
            values += wanted
    if before is not None:
        conditions.append("id < ?")
        values.append(before)
    with read_database(space) as db:
        rows = db.execute(
            f"SELECT * FROM jobs WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT ?",
            (*values, limit),
        ).fetchall()
    return [job_from_row(row) for row in rows]


def count_jobs(space: Workspace, states: Sequence[State]) -> int:
    """How many jobs are in these states."""
    which = f"removed IS NULL AND state IN ({', '.join('?' * len(states))})"
    with read_database(space) as db:
        return db.execute(f"SELECT count(*) FROM jobs WHERE {which}", states).fetchone()[0]


def stop_job(space: Workspace, id: int) -> Job:
    """Stop a job: a waiting one at once, a running one after its current step.

    Raises BadInput for a job that has ended.
    """
    job = get_job(space, id)
    with write_database(space) as db:
        db.execute(
            "UPDATE jobs SET state = 'stopped', finished = ? WHERE id = ? AND state = 'queued'",
            (time.time(), id),
        )
        db.execute("UPDATE jobs SET stop = MAX(stop, 1) WHERE id = ? AND state = 'running'", (id,))
    if job.ended:
        raise BadInput(f"job {id} is {job.state} already")
    queue = next(queue for queue, kinds in QUEUES.items() if job.kind in kinds)
    with suppress(Timeout), queue_lock(space, queue).acquire(timeout=0):
        recover_jobs(space, queue)  # the worker is dead, so nobody else would stop the job
    return get_job(space, id)


def move_job(space: Workspace, id: int, to: Place) -> Job:
    """Move a waiting job among the waiting jobs of its kind.

    Raises BadInput for a job that does not wait.
    """
    job = get_job(space, id)
    with write_database(space) as db:
        rows = db.execute(
            "SELECT id, queued FROM jobs WHERE state = 'queued' AND kind = ? AND removed IS NULL "
            "ORDER BY queued, id",
            (job.kind,),
        ).fetchall()
        order = [row["id"] for row in rows]
        if id in order:
            index = order.index(id)
            order.remove(id)
            earlier, later = max(0, index - 1), index + 1
            places = {"first": 0, "earlier": earlier, "later": later, "last": len(order)}
            order.insert(places[to], id)
            times: list[float] = []
            for row in rows:  # strictly ascending, even if two jobs were queued at the same moment
                least = math.nextafter(times[-1], math.inf) if times else 0.0
                times.append(max(row["queued"], least))
            db.executemany(
                "UPDATE jobs SET queued = ? WHERE id = ?", zip(times, order, strict=True)
            )
    if id not in order:
        raise BadInput(f"job {id} is {get_job(space, id).state}: only a waiting one can be moved")
    return get_job(space, id)


def turns(jobs: Sequence[Job]) -> list[Job]:
    """Unfinished jobs in their order: running ones first, then waiting ones, queue by queue."""
    kinds = [kind for queue in QUEUES.values() for kind in queue]
    return sorted(
        jobs, key=lambda job: (job.state == "queued", kinds.index(job.kind), job.queued, job.id)
    )


def ask_job(space: Workspace, id: int, what: Ask) -> Job:
    """Ask a running training to draw its samples or save a checkpoint after its current step.

    Raises BadInput for a job that is no running training.
    """
    job = get_job(space, id)
    if job.kind != "train" or job.state != "running" or not (space.runs / job.run).is_dir():
        raise BadInput(f"job {id} is no running training: only one can be asked to sample or save")
    ask_training(space.runs / job.run, what)
    return job


def resume_job(space: Workspace, id: int) -> Job:
    """Put a stopped or failed job at the end of the queue; it will go on where it stopped.

    Raises BadInput for a job that waits, runs or is done.
    """
    with write_database(space) as db:
        changed = db.execute(
            "UPDATE jobs SET state = 'queued', stop = 0, deaths = 0, error = '', advice = '', "
            "finished = NULL, queued = ? "
            "WHERE id = ? AND removed IS NULL AND state IN ('stopped', 'failed')",
            (time.time(), id),
        ).rowcount
    job = get_job(space, id)
    if not changed:
        raise BadInput(f"job {id} is {job.state}: only a stopped or failed one can be resumed")
    return job


def remove_job(space: Workspace, id: int) -> None:
    """Remove a job from the list, and move a training's folder to the trash.

    Its adapters and pictures stay. Raises BadInput for a job that waits or runs: stop it first.
    """
    with write_database(space) as db:
        changed = db.execute(
            "UPDATE jobs SET removed = ? WHERE id = ? AND removed IS NULL "
            "AND state NOT IN ('queued', 'running') RETURNING run",
            (time.time(), id),
        ).fetchone()
    if changed is None:
        raise BadInput(f"job {id} is {get_job(space, id).state}: stop it first")
    if changed["run"] and (space.runs / changed["run"]).is_dir():
        delete(space, f"runs/{changed['run']}")


def restore_job(space: Workspace, id: int) -> Job:
    """Bring a removed job back, with its folder if the trash still has it.

    Raises BadInput for a job that was not removed.
    """
    with write_database(space) as db:
        changed = db.execute(
            "UPDATE jobs SET removed = NULL WHERE id = ? AND removed IS NOT NULL", (id,)
        ).rowcount
    job = get_job(space, id)
    if not changed:
        raise BadInput(f"job {id} was not removed")
    for deleted in list_trash(space):
        if job.run and deleted.place == f"runs/{job.run}":
            undelete(space, deleted.id)
            break
    return job


def live_preview(space: Workspace, id: int) -> Path | None:
    """The file of a small picture of what a job is drawing; None where there is none yet."""
    place = space.cache / "live" / f"{int(id)}.png"
    return place if place.is_file() else None


def list_workers(space: Workspace) -> list[Worker]:
    """The worker of each queue; one that does not run has `alive` False."""
    with read_database(space) as db:
        rows = {row["lane"]: row for row in db.execute("SELECT * FROM workers")}
    return [_worker(queue, rows.get(queue), is_locked(space, queue)) for queue in QUEUES]


def _worker(queue: str, row: sqlite3.Row | None, alive: bool) -> Worker:
    if row is None or not alive:
        seen = row["seen"] if row else None
        return Worker(queue, alive, pid=None, started=None, seen=seen, doing="")
    return Worker(queue, alive, row["pid"], row["started"], row["seen"], row["doing"])
