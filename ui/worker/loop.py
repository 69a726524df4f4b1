"""The worker's loop: it runs the jobs of its queue one after the other, until it is stopped.

There are two queues, each with a worker process. The worker of "train" runs one training at a time;
that of "render" renders pictures on a base that it keeps open. They take turns on the device
(ui/worker/device_lock.py), on a CPU as on a GPU. In "render", a picture that somebody waits for
goes before a batch, even between two groups of a batch that has begun. While a training runs, a
batch leaves it half of the time.

A job that can't be done, or that needs more memory than there is, fails with a sentence, and the
worker goes on to the next job. After any other error the job fails too, and the worker ends, since
such an error may leave the process in any state; ui/worker/processes.py starts another worker.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from studio.errors import BadInput
from studio.out_of_memory import is_out_of_memory
from studio.queue.client import get_job, list_jobs
from studio.queue.job import QUEUES, Job, State
from studio.queue.worker import (
    claim_job,
    finish_job,
    has_waiting_jobs,
    recover_jobs,
    report_job,
    requeue_job,
)
from studio.workspace import Workspace
from studio.workspace.database import DatabaseBusy
from ui.shared.queue_requests import drawing_of
from ui.shared.terminal import print_note
from ui.worker.context import WorkerContext, patiently
from ui.worker.device_lock import DeviceLock
from ui.worker.model_cache import ModelCache
from ui.worker.out_of_memory import SHORTAGE, memory_advice
from ui.worker.render_jobs import render
from ui.worker.train_jobs import train

POLL = 0.1  # seconds between two checks whether the queue has changed
BEAT = 2.0  # seconds between two heartbeats without a job
IDLE = 60.0  # seconds without a picture after which a large base is freed while a training runs
LARGE = 2 * 10**9  # bytes
RELEASE = 900.0  # seconds without a job after which a worker frees any base


def work(
    space: Workspace, queue: str, *, ending: Callable[[], bool], leaving: Callable[[], bool]
) -> None:
    """Run the jobs of a queue, whose lock must be held; jobs that a dead worker left come first.

    ending: called between steps; once it returns true, the current job writes a checkpoint and goes
    back to the queue. leaving: called when the queue is empty; true ends the worker.
    """
    context = WorkerContext(space, queue, ModelCache(space), DeviceLock(space), ending, time.time())
    context.beat("starting")
    for orphan in recover_jobs(space, queue):
        print_note(f"Job {orphan.id} was left by a worker that died")
    if queue == "render" and not (leaving() or has_waiting_jobs(space, QUEUES[queue])):
        _open_likely_base(context)
    worked, beaten, seen = time.monotonic(), 0.0, None
    while not ending():
        now, written = time.monotonic(), _last_write(space)
        due = now > beaten + BEAT
        ask = due or written != seen
        try:
            job = claim_job(space, QUEUES[queue]) if ask else None
        except DatabaseBusy as busy:
            print_note(str(busy))
            continue
        seen = written
        if job:
            _run_job(context, job)
            worked = time.monotonic()
        elif ask and leaving():
            return
        elif due:
            context.beat("waiting for jobs")
            _free_memory(context, idle=now - worked)
            beaten = now
        # Long enough for a training to take the device: it makes a step between any two pictures.
        time.sleep(POLL)


def _last_write(space: Workspace) -> object:
    """A value that changes with almost every write to the database.

    Querying the database at every check would take several percent of a core.
    """
    log = space.database.with_name(f"{space.database.name}-wal")
    states = []
    for file in (space.database, log):
        with suppress(FileNotFoundError):  # SQLite removes the log when nobody reads or writes
            states.append(file.stat())
    return [(state.st_ino, state.st_mtime_ns, state.st_size) for state in states]


def _free_memory(context: WorkerContext, *, idle: float) -> None:
    """Free the base if the worker has been idle for long. idle: seconds without a job."""
    if idle > RELEASE:
        context.models.make_room(0)
    elif idle > IDLE and context.queue == "render" and _training_runs(context.space):
        context.models.make_room(LARGE)


def _run_job(context: WorkerContext, job: Job) -> None:
    """Run a job and save how it ended."""
    print_note(f"Job {job.id}: {job.kind}, {job.title}")
    begun = time.monotonic()
    try:
        state, error, helpful = _try_job(context, job)
    except KeyboardInterrupt:
        raise  # the worker must end at once: the next one recovers the job
    except BaseException as fault:
        message = f"{type(fault).__name__}: {str(fault).partition(chr(10))[0]}"
        where = f"this is a bug: the end of logs/{context.queue}.log has its details"
        if get_job(context.space, job.id).state == "running":
            finish_job(context.space, job.id, "failed", error=message, advice=where)
        raise
    if state == "queued":
        patiently(lambda: requeue_job(context.space, job.id))
    else:
        patiently(lambda: finish_job(context.space, job.id, state, error=error, advice=helpful))
    print_note(f"Job {job.id}: {state} after {time.monotonic() - begun:.1f} s {error}".rstrip())


def _try_job(context: WorkerContext, job: Job) -> tuple[State, str, str]:
    """Run a job; returns its final state, an error and advice."""
    try:
        return _dispatch(context, job), "", ""
    except BadInput as wrong:
        return "failed", str(wrong), ""
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    context.models.clear()  # only here, as the error's traceback kept the tensors alive
    return "failed", SHORTAGE, memory_advice(job)


def _dispatch(context: WorkerContext, job: Job) -> State:
    if job.kind == "train":
        return train(context, job)
    if job.kind == "render":
        return render(context, job)
    return render(context, job, pause=partial(_give_way, context, job))


def _give_way(context: WorkerContext, batch: Job, spent: float) -> None:
    """Between two groups of a batch, render waiting pictures and leave a training its time.

    spent: seconds that the last group took.
    """
    until = time.monotonic() + (spent if _training_runs(context.space) else 0.0)
    while not (context.ending() or patiently(lambda: report_job(context.space, batch.id))):
        if job := patiently(lambda: claim_job(context.space, ("render",))):
            try:
                _run_job(context, job)
            except Exception:  # this worker ends: the next one continues the batch
                requeue_job(context.space, batch.id)
                raise
        elif time.monotonic() >= until:
            return
        time.sleep(POLL)


def _training_runs(space: Workspace) -> bool:
    return bool(list_jobs(space, states=("running",), kinds=("train",), limit=1))


def _open_likely_base(context: WorkerContext) -> None:
    """Open the base of the last picture, or sketch, before the first picture is queued."""
    last = list_jobs(context.space, kinds=("render",), limit=1)
    with suppress(BadInput):  # a job on this base will report it
        if last:
            drawing = drawing_of(last[0])
            context.models.base(drawing.shot(0).base, drawing.loading)
        else:
            context.models.base("sketch", {})
