"""The line above the tabs: what runs, what waits, and whether anybody works."""

from html import escape

from studio.jobs import Job, list_jobs, list_workers
from studio.workspace import Workspace
from ui.web._run_view import time_said

__all__ = ["status"]

DOING = {"train": "Training", "render": "Drawing", "batch": "Batch"}


def status(space: Workspace) -> str:
    """It, as HTML."""
    jobs = list_jobs(space, states=("running", "queued"), limit=1000)
    running = [job for job in jobs if job.state == "running"]
    waiting = len(jobs) - len(running)
    words = [_said(job) for job in running]
    words += [f"{waiting} waiting"] if waiting else []
    if jobs and not all(worker.alive for worker in list_workers(space)):
        words.append("starting the workers")
    told = " · ".join(words) or "Ready"
    return f'<div class="studio-head"><b>Studio</b><span role="status">{escape(told)}</span></div>'


def _said(job: Job) -> str:
    said = f"{DOING[job.kind]} {job.title}"
    if job.total:
        said += f", {job.step} of {job.total}"
    if job.left is not None:
        said += f", {time_said(job.left)} left"
    return said
