"""What a worker does: the jobs of its queue, one after the other, until it is stopped.

Two lanes, two processes: "train", where one training runs at a time, and "render", where pictures
are rendered on a base that is kept open. They take turns on the device (ui/worker/device_lock.py),
on a CPU as on a GPU. In the render lane a picture that somebody waits for goes before a batch, also
between two groups of a batch that has begun. While a training runs, a batch leaves it half of the
time.

A job that can't be done fails with a sentence, and the worker goes on to the next. So does one that
wants more memory than there is. After any other error the job has failed too, and the worker ends
with it: ui/worker/processes.py starts another, since nobody knows what state such an error leaves a
process in.
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

POLL = 0.1  # seconds between two looks at whether the queue has changed
BEAT = 2.0  # seconds between two signs of life without a job
IDLE = 60.0  # seconds without a picture, after which a training gets a large base's memory
LARGE = 2 * 10**9  # bytes
RELEASE = 900.0  # seconds without a job, after which a worker lets go of any base


def work(
    space: Workspace, queue: str, *, ending: Callable[[], bool], leaving: Callable[[], bool]
) -> None:
    """Do the jobs of a queue, whose lock must be held, those that a dead worker left first.

    ending: called between steps; once it is true, the current job goes back to the queue with a
    checkpoint. leaving: called when the queue is empty; true ends the worker.
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
        # Longer than a training's look at the lock: it has a step between any two pictures.
        time.sleep(POLL)


def _last_write(space: Workspace) -> object:
    """Another value after almost any write to the database.

    Asking the database itself at every look takes several percent of a core.
    """
    log = space.database.with_name(f"{space.database.name}-wal")
    states = []
    for file in (space.database, log):
        with suppress(FileNotFoundError):  # SQLite removes the log when nobody reads or writes
            states.append(file.stat())
    return [(state.st_ino, state.st_mtime_ns, state.st_size) for state in states]


def _free_memory(context: WorkerContext, *, idle: float) -> None:
    """Let go of the base where nothing was done for so many seconds."""
    if idle > RELEASE:
        context.models.make_room(0)
    elif idle > IDLE and context.queue == "render" and _training_runs(context.space):
        context.models.make_room(LARGE)


def _run_job(context: WorkerContext, job: Job) -> None:
    """Do a job and save how it ended."""
    print_note(f"Job {job.id}: {job.kind}, {job.title}")
    begun = time.monotonic()
    try:
        state, error, helpful = _try_job(context, job)
    except KeyboardInterrupt:
        raise  # told to end at once: the next worker finds the job
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
    """Do a job; returns its final state, an error and advice."""
    try:
        return _dispatch(context, job), "", ""
    except BadInput as wrong:
        return "failed", str(wrong), ""
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    context.models.clear()  # only here: the error held on to what it was about
    return "failed", SHORTAGE, memory_advice(job)


def _dispatch(context: WorkerContext, job: Job) -> State:
    if job.kind == "train":
        return train(context, job)
    if job.kind == "render":
        return render(context, job)
    return render(context, job, pause=partial(_give_way, context, job))


def _give_way(context: WorkerContext, batch: Job, spent: float) -> None:
    """Between two groups of a batch: do what somebody waits for, and leave a training its time.

    spent: seconds that the last group took.
    """
    until = time.monotonic() + (spent if _training_runs(context.space) else 0.0)
    while not (context.ending() or patiently(lambda: report_job(context.space, batch.id))):
        if job := patiently(lambda: claim_job(context.space, ("render",))):
            try:
                _run_job(context, job)
            except Exception:  # it has failed, and ends this worker: the next one goes on
                requeue_job(context.space, batch.id)
                raise
        elif time.monotonic() >= until:
            return
        time.sleep(POLL)


def _training_runs(space: Workspace) -> bool:
    return bool(list_jobs(space, states=("running",), kinds=("train",), limit=1))


def _open_likely_base(context: WorkerContext) -> None:
    """Open the base of the last picture, or sketch, before the first one is asked for."""
    last = list_jobs(context.space, kinds=("render",), limit=1)
    with suppress(BadInput):  # whoever asks for a picture on it is told
        if last:
            drawing = drawing_of(last[0])
            context.models.base(drawing.shot(0).base, drawing.loading)
        else:
            context.models.base("sketch", {})
