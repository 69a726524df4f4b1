"""The queue on the terminal."""

import time
from dataclasses import asdict
from typing import Literal

from studio.errors import BadInput
from studio.queue.client import (
    FINISHED,
    UNFINISHED,
    Job,
    get_job,
    list_jobs,
    list_workers,
    remove_job,
    restore_job,
    resume_job,
    stop_job,
)
from studio.workspace import Workspace, clean_name
from ui.cli.train_request import Asked
from ui.shared.queue_requests import queue_training
from ui.shared.terminal import print_facts, print_json, print_table, remark

__all__ = ["enqueue_run", "show_job", "show_jobs", "steer"]

FEW = 20  # jobs that have ended, of those that are listed


def enqueue_run(space: Workspace, asked: Asked, *, as_json: bool) -> None:
    """Queue a training from the command line, its pictures read first; says how to watch it."""
    if asked.run:
        raise BadInput("A queued training has its folder in the workspace: leave out --run.")
    asked.check()
    job = queue_training(
        space,
        asked.wanted(),
        asked.folders,
        trigger=asked.words,
        base=asked.source,
        prior_pictures=asked.prior,
        init=asked.start,
        recipe=asked.known(),
        loading=asked.opening,
        name=clean_name(asked.place.stem, otherwise=""),
    )
    if as_json:
        print_json({"job": job.id, "run": str(space.runs / job.run)})
    else:
        remark(f"Job {job.id} is queued; `studio jobs list` shows it, `studio worker` does it")


def show_jobs(space: Workspace, *, everything: bool, as_json: bool) -> None:
    """Print the queue: what runs first, then what waits in its order, then the latest ended."""
    open_jobs = list_jobs(space, states=UNFINISHED, limit=10_000)
    open_jobs.sort(key=lambda job: (job.state == "queued", job.queued))
    ended = list_jobs(space, states=FINISHED, limit=10_000 if everything else FEW)
    jobs = [*open_jobs, *ended]
    if as_json:
        print_json([_facts(job) for job in jobs])
        return
    rows = [(job.id, job.kind, job.title, _said(job), _progress(job)) for job in jobs]
    print_table(("job", "kind", "what", "state", "progress"), rows)
    idle = [one.queue for one in list_workers(space) if not one.alive]
    if open_jobs and idle:
        remark(f"No worker does {' or '.join(idle)} jobs now; `studio worker` starts them.")


def show_job(space: Workspace, id: int, *, as_json: bool) -> None:
    """Print all about one job."""
    job = get_job(space, id)
    facts = _facts(job)
    if as_json:
        print_json(facts)
        return
    arguments = facts.pop("arguments")
    assert isinstance(arguments, dict)
    facts["results"] = ", ".join(job.finished_results)
    for when in ("created", "queued", "started", "finished"):
        moment = getattr(job, when)
        facts[when] = moment and time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
    print_facts(f"Job {id}", facts | {f"arguments.{k}": v for k, v in arguments.items() if v})


def steer(
    what: Literal["stop", "resume", "remove", "restore"],
    space: Workspace,
    id: int,
    *,
    as_json: bool,
) -> None:
    """Do something with a job and print what it is then."""
    done = {"stop": stop_job, "resume": resume_job, "remove": remove_job, "restore": restore_job}
    job = done[what](space, id)
    if as_json:
        print_json(_facts(job) if job else {"id": id, "removed": True})
    else:
        remark(
            f"Job {id} is {_said(job) if job else 'removed; studio jobs restore brings it back'}"
        )


def _facts(job: Job) -> dict[str, object]:
    return {**asdict(job), "left": job.seconds_left}


def _said(job: Job) -> str:
    if job.stopping:
        return "stopping"
    if job.state == "failed":
        return f"failed: {job.error}{'; ' * bool(job.advice)}{job.advice}"
    if job.state == "running" and job.phase:
        return f"running: {job.phase}"
    return job.state


def _progress(job: Job) -> str:
    if job.state == "done":
        return ", ".join(job.finished_results[:3]) + (
            ", ..." if len(job.finished_results) > 3 else ""
        )
    if not job.total:
        return ""
    loss = f", loss {job.loss:.4f}" if job.loss is not None else ""
    left = f", {job.seconds_left:.0f} s left" if job.seconds_left is not None else ""
    return f"{job.step} of {job.total}{loss}{left}"
