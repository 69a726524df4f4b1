"""Polling: the page asks for news in one small request, and passes them on to the selected tab.

    status_line(space, first_run_html)  # the line above the tabs, which polls (static/polling.js)
    tab_news("batch").input(...)        # on the tab Batch: what it shows may have changed

A Gradio event costs the browser milliseconds for each component that it may change, so polling uses
no events. Only the selected tab gets an event, and only when there is news.
"""

import secrets
from collections.abc import Callable

import gradio as gr

from studio.duration import format_duration
from studio.queue.client import count_jobs, list_jobs, list_workers, live_preview
from studio.queue.job import FINISHED, UNFINISHED, Job
from studio.workspace import Workspace, list_adapters, list_bases, list_trash
from ui.shared.queue_requests import unfinished
from ui.web.frontend import script, template
from ui.web.server.meter import Meter, meter_words

WATCHED_JOBS = 50  # the latest jobs, whose changes are news
VERBS = {"train": "Training", "render": "Drawing", "batch": "Batch"}


def status_line(space: Workspace, first_run: Callable[[Workspace], str]) -> gr.HTML:
    """The line above the tabs: which jobs run and wait, and whether the workers are alive.

    first_run: renders the card of the first run, which is part of the news.
    """
    server_id = secrets.token_hex(8)  # when it changes, the server was restarted: pages reload
    meter = Meter()

    def news(tab: str) -> dict[str, str | bool]:
        version_of = VERSIONS.get(tab) if isinstance(tab, str) else None
        return {
            "server": server_id,
            "head": _status_html(space, meter),
            "first_run": first_run(space),
            "version": version_of(space) if version_of else "",
            "forming": bool(list_jobs(space, states=UNFINISHED, kinds=("render",), limit=1)),
        }

    return gr.HTML(
        _html(""),  # the first poll fills it at once
        js_on_load="".join(map(script, ("polling.js", "heard.js", "place.js"))),
        server_functions=[news],
        offline=_html("Server not running. Reconnecting..."),
        padding=False,
    )


def tab_news(tab: str) -> gr.HTML:
    """A component whose `input` fires while that tab is selected: at first, then at any news."""
    return gr.HTML(js_on_load=script("on_news.js"), visible="hidden", tab=tab)


def job_version(space: Workspace, job: Job) -> str:
    """A text that differs whenever a job or its preview has changed."""
    return f"{_progress_version(job)} {_preview_time(space, job)}"


def _progress_version(job: Job) -> str:
    """A text that differs whenever a job has changed; its preview does not count."""
    facts = job.id, job.state, job.stopping, job.phase, job.step, len(job.finished_results)
    return " ".join(map(str, facts))


def _library_version(space: Workspace) -> str:
    """A text that differs whenever an adapter, a base or the trash has changed."""
    words = [
        f"{each.name} {each.modified} {each.favourite} {each.triggers} {each.tags} {each.notes} "
        f"{each.preview}"
        for each in list_adapters(space)
    ]
    words += [deleted.id for deleted in list_trash(space)]
    return "|".join([*words, *(base.source for base in list_bases(space))])


def _jobs_version(space: Workspace) -> str:
    return "|".join(job_version(space, job) for job in list_jobs(space, limit=WATCHED_JOBS))


def _batches_version(space: Workspace) -> str:
    batches = list_jobs(space, kinds=("batch",), limit=WATCHED_JOBS)
    return "|".join(map(_progress_version, batches))


def _queue_version(space: Workspace) -> str:
    """A text that differs whenever a job, or the order of the waiting jobs, has changed."""
    waiting = unfinished(space)
    ended = list_jobs(space, states=FINISHED, limit=WATCHED_JOBS)
    return "|".join(f"{_progress_version(job)} {job.queued}" for job in [*waiting, *ended])


VERSIONS: dict[str, Callable[[Workspace], str]] = {
    "train": _jobs_version,
    "mix": _jobs_version,
    "batch": _batches_version,
    "library": _library_version,
    "queue": _queue_version,
}


def _status_html(space: Workspace, meter: Meter) -> str:
    words = [_progress(job) for job in list_jobs(space, states=("running",))]
    if waiting := count_jobs(space, ("queued",)):
        words.append(f"{waiting} job{'s' if waiting > 1 else ''} waiting")
    if words and not all(worker.alive for worker in list_workers(space)):
        words.append("starting up")
    return _html(" · ".join(words) or "Ready", meter_words(meter.load()))


def _html(text: str, load: str = "") -> str:
    return template("status_line.html").render(text=text, load=load)


def _progress(job: Job) -> str:
    words = f"{VERBS[job.kind]} {job.title}"
    if job.total:
        words += f", {'step ' if job.kind == 'train' else ''}{job.step} of {job.total}"
    if job.seconds_left is not None:
        words += f", {format_duration(job.seconds_left)} left"
    return words


def _preview_time(space: Workspace, job: Job) -> int:
    """When a job's preview was written, in nanoseconds; 0 where there is none."""
    preview = live_preview(space, job.id) if job.state == "running" else None
    try:
        return preview.stat().st_mtime_ns if preview else 0
    except FileNotFoundError:  # deleted meanwhile
        return 0
