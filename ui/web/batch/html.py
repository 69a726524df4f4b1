"""Batches as HTML."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from studio.duration import format_duration
from studio.errors import BadInput
from studio.queue.job import Job
from studio.workspace import Workspace, get_picture, thumbnail
from ui.shared.queue_requests import drawing_of
from ui.web.frontend import local_time, template

MOST_SHOWN = 240  # pictures of a batch on the page, the latest


def batch_rows(jobs: Sequence[Job], *, chosen: int | None) -> str:
    """The batches as buttons that say their number."""
    entries = [(job, _state(job)) for job in jobs]
    return template("batch/list.html").render(entries=entries, chosen=chosen)


def progress(job: Job) -> str:
    """How far a batch is: a bar and a sentence."""
    percent = 100 * job.step / job.total if job.total else 0.0
    state = _state(job)
    if job.state == "running" and job.phase:
        state += f" · {job.phase}"
    if job.seconds_left is not None:
        state += f" · about {format_duration(job.seconds_left)} left"
    return template("batch/progress.html").render(job=job, percent=percent, state=state)


def pictures(space: Workspace, job: Job) -> str:
    """The latest pictures of a batch, in their order, each a link to the whole one."""
    return template("batch/pictures.html").render(cells=list(_cells(space, job)), ended=job.ended)


def _cells(space: Workspace, job: Job) -> Iterator[tuple[Path, Path, str]]:
    """Thumbnail, picture, and what it shows. Pictures that were deleted since are left out."""
    shots = drawing_of(job).shots
    made = [(shot, id) for shot, id in zip(shots, job.results, strict=False) if id]
    for shot, id in made[-MOST_SHOWN:]:
        try:
            cell = thumbnail(space, id), get_picture(space, id).path
        except BadInput:
            continue
        yield *cell, f"{shot['prompt']}, seed {shot['seed']}"


def _state(job: Job) -> str:
    made = f"{len(job.finished_results)} of {job.total or len(drawing_of(job).shots)}"
    # Pictures come in groups, not in order: a gap in the results may still be filled.
    if (failed := job.step - len(job.finished_results)) > 0 and job.total > 1:
        made += f", {failed} could not be drawn"
    if job.state == "queued":
        return f"waits, {made}"
    if job.state == "running":
        return f"{made}{', stopping' if job.stopping else ''}"
    return f"{job.state}, {made}, {local_time(job.finished or job.created)}"
