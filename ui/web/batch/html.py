"""Batches as HTML."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from studio.duration import format_duration
from studio.errors import BadInput
from studio.queue.job import Job
from studio.requests.shot import Shot
from studio.workspace import Workspace, thumbnail
from ui.shared.queue_requests import drawing_of, made_pictures
from ui.web.frontend import local_time, template
from ui.web.lightbox import Facts, mix_words, shot_facts

MOST_SHOWN = 240  # the latest pictures of a batch, which the page shows


def batch_rows(jobs: Sequence[Job], *, chosen: int | None) -> str:
    """The batches as buttons that fire `click` with the batch's number."""
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
    """The latest pictures of a batch under their prompts, each with its mix and its seed."""
    groups = [
        (prompt, list(group))
        for prompt, group in groupby(_pictures(space, job), key=lambda each: each.shot.prompt)
    ]
    return template("batch/pictures.html").render(groups=groups, ended=job.ended)


@dataclass(frozen=True)
class _Picture:
    """A picture of a batch with what the page shows of it."""

    id: str
    file: Path
    thumbnail: Path
    shot: Shot
    mix: str
    facts: Facts


def _pictures(space: Workspace, job: Job) -> Iterator[_Picture]:
    """The pictures in the order of the shots, without damaged files."""
    for _, shot, made in made_pictures(space, job, most=MOST_SHOWN):
        try:
            small = thumbnail(space, made.id)
        except BadInput:
            continue
        yield _Picture(made.id, made.path, small, shot, mix_words(shot), shot_facts(shot))


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
