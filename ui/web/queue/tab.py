"""The tab Queue: the jobs that run, those that wait, in order, and those that have ended."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import gradio as gr

from studio.errors import BadInput
from studio.queue.client import (
    list_jobs,
    move_job,
    remove_job,
    restore_job,
    resume_job,
    stop_job,
    turns,
)
from studio.queue.job import FINISHED, Job
from studio.workspace import Workspace
from ui.shared.queue_requests import unfinished
from ui.web.frontend import script, template
from ui.web.server.page import Page, on
from ui.web.server.polling import VERBS, tab_news

ENDED = 30  # how many ended jobs are listed, the latest ones
ACTIONS: dict[str, Callable[[Workspace, int], object]] = {
    "first": partial(move_job, to="first"),
    "earlier": partial(move_job, to="earlier"),
    "later": partial(move_job, to="later"),
    "stop": stop_job,
    "resume": resume_job,
    "remove": remove_job,
}
SHOWN_IN = {"train": "train", "render": "mix", "batch": "batch"}  # the tab that shows a job


def queue_tab(page: Page) -> None:
    """Lay the tab out and wire its events."""
    space = page.space
    removed = gr.State(0)
    rows = gr.HTML(js_on_load=script("clicked_item.js"), elem_id="queue")
    with gr.Row(elem_classes="tools"):
        undo = gr.Button("Undo remove", size="sm", visible=False, min_width=140, scale=0)
        cancel = gr.Button("Cancel all that wait", size="sm", visible=False, min_width=160, scale=0)
    shown = [rows, cancel]

    def look() -> tuple[str, gr.Button]:
        jobs = turns(unfinished(space))
        waiting = sum(job.state == "queued" for job in jobs)
        return queue_html(jobs, _ended(space)), gr.Button(visible=waiting > 1)

    def act(event: gr.EventData) -> tuple[Any, ...]:
        action, _, number = str(event.name).partition(":")
        if action == "show":
            return gr.skip(), gr.skip(), gr.Tabs(selected=number)
        ACTIONS[action](space, int(number))
        if action != "remove":
            return (gr.skip(),) * 3
        return int(number), gr.Button(visible=True), gr.skip()

    def bring_back(removed: int) -> gr.Button:
        restore_job(space, removed)
        return gr.Button(visible=False)

    changes = [
        on(rows.click, act, None, [removed, undo, page.tabs], mode="multiple", queue="queue"),
        on(undo.click, bring_back, removed, undo),
        on(cancel.click, partial(cancel_waiting, space)),
    ]
    for change in changes:
        on(change.then, look, None, shown, mode="always_last", queue="queue")
    on(tab_news("queue").input, look, None, shown, mode="always_last", queue="queue")


def queue_html(going: list[Job], ended: list[Job]) -> str:
    """The jobs as HTML. A button fires `click` with an action and a job's number, as in "stop:12".

    going: the jobs that run or wait.
    """
    waiting = [job for job in going if job.state == "queued"]
    return template("queue/list.html").render(
        running=[job for job in going if job.state == "running"],
        waiting=waiting,
        first={job.kind: job.id for job in reversed(waiting)},
        last={job.kind: job.id for job in waiting},
        ended=ended,
        verbs=VERBS,
        shown_in=SHOWN_IN,
    )


def cancel_waiting(space: Workspace) -> None:
    """Stop every waiting job; a job that has begun meanwhile goes on."""
    for job in unfinished(space):
        if job.state == "queued":
            with suppress(BadInput):  # it has ended meanwhile
                stop_job(space, job.id)


def _ended(space: Workspace) -> list[Job]:
    ended = list_jobs(space, states=FINISHED, limit=ENDED)
    return sorted(ended, key=lambda job: -(job.finished or job.created))
