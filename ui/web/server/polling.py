"""The page's one look at the workspace, and who is told when something has changed there.

    status_line(space)                    # the line above the tabs, which does the looking
    tab_news("batch").input(...)   # on the tab Batch: whenever what it shows may have changed

An event of Gradio's costs a page milliseconds for each component that it may change, so none is
spent on asking: that is one small request, and only the tab that is seen is told, and only of news.
"""

import secrets
from collections.abc import Callable
from html import escape
from typing import Any

import gradio as gr

from studio.duration import format_duration
from studio.queue.client import UNFINISHED, Job, list_jobs, list_workers, live_preview
from studio.workspace import Workspace, list_adapters, list_bases, list_trash
from ui.web.frontend import script

__all__ = ["job_version", "library_version", "progress_version", "status_line", "tab_news"]

KEPT_IN_MIND = 50  # jobs, the latest
DOING = {"train": "Training", "render": "Drawing", "batch": "Batch"}
AWAY = '<div class="studio-head"><b>Studio</b><span role="status">Does not answer</span></div>'


def status_line(space: Workspace) -> gr.HTML:
    """The line above the tabs: what runs, what waits, and whether anybody works."""

    began = secrets.token_hex(8)  # what a page remembers of itself is gone with its server

    def news(tab: str) -> dict[str, Any]:
        return {
            "server": began,
            "head": status(space),
            "mark": MARKS[tab](space) if isinstance(tab, str) and tab in MARKS else "",
            "forming": bool(list_jobs(space, states=UNFINISHED, kinds=("render",))),
        }

    return gr.HTML(
        status(space),
        js_on_load=script("polling.js"),
        server_functions=[news],
        offline=AWAY,
        padding=False,
    )


def tab_news(tab: str) -> gr.HTML:
    """What its `input` fires on, while that tab is seen: at first, and whenever it has news."""
    return gr.HTML(js_on_load=script("on_news.js"), visible="hidden", tab=tab)


def status(space: Workspace) -> str:
    """The line above the tabs, as HTML."""
    jobs = list_jobs(space, states=UNFINISHED, limit=1000)
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
    if job.seconds_left is not None:
        said += f", {format_duration(job.seconds_left)} left"
    return said


def _jobs(space: Workspace) -> str:
    """Another text whenever one of the latest jobs stands otherwise, or its picture does."""
    return "|".join(job_version(space, job) for job in list_jobs(space, limit=KEPT_IN_MIND))


def job_version(space: Workspace, job: Job) -> str:
    """How a job stands: another text whenever it stands otherwise, or its forming picture does."""
    return f"{progress_version(job)} {_drawn(space, job)}"


def progress_version(job: Job) -> str:
    """The same without its forming picture, for pages that do not show that."""
    facts = job.id, job.state, job.stopping, job.phase, job.step, len(job.finished_results)
    return " ".join(map(str, facts))


def _drawn(space: Workspace, job: Job) -> int:
    """When its forming picture was written; it may be gone by now."""
    live = live_preview(space, job.id) if job.state == "running" else None
    try:
        return live.stat().st_mtime_ns if live else 0
    except FileNotFoundError:
        return 0


def library_version(space: Workspace) -> str:
    """Another text whenever an adapter, a base or the trash does."""
    words = [f"{one.name} {one.modified}" for one in list_adapters(space)]
    words += [one.id for one in list_trash(space)]
    return "|".join([*words, *(one.source for one in list_bases(space))])


MARKS: dict[str, Callable[[Workspace], str]] = {
    "train": _jobs,
    "mix": _jobs,
    "batch": _jobs,
    "library": library_version,
}
