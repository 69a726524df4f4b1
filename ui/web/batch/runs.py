"""The batches of the tab Batch: those made before, and the one that is being made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.errors import BadInput
from studio.queue.client import (
    get_job,
    list_jobs,
    remove_job,
    restore_job,
    resume_job,
    stop_job,
)
from studio.queue.job import Job
from studio.workspace import Workspace
from ui.web.batch.archive import zipped
from ui.web.batch.html import batch_rows, pictures, progress
from ui.web.frontend import script
from ui.web.server.downloads import file_url
from ui.web.server.page import Page, on
from ui.web.server.polling import progress_version, tab_news

LISTED = 50  # batches
IN_ORDER: Any = {"mode": "always_last", "queue": "batches"}
NO_BATCH = '<div class="empty">No batches yet. Those that you start are listed here.</div>'


@dataclass(frozen=True)
class BatchList:
    """The widgets that show batches."""

    rows: gr.HTML
    bar: gr.HTML
    sheet: gr.HTML
    buttons: gr.Row
    stop: gr.Button
    resume: gr.Button
    take: gr.Button
    remove: gr.Button
    undo: gr.Button
    chosen: gr.State
    """a job's number, or None for the latest"""
    removed: gr.State
    seen: gr.State
    """what the widgets show, to leave them alone while that is so"""

    def all(self) -> list:
        """What `shower` fills."""
        shown = [self.rows, self.bar, self.sheet, self.buttons, self.stop, self.resume, self.take]
        return [*shown, self.remove, self.undo, self.seen]


def lay_out_list() -> BatchList:
    """Make its widgets."""
    states = gr.State(None), gr.State(None), gr.State(None)
    gr.HTML('<div class="section">Batches</div>')
    with gr.Row(equal_height=False, elem_classes="columns"):
        with gr.Column(scale=1, min_width=320):
            rows = gr.HTML(NO_BATCH, js_on_load=script("clicked_item.js"), elem_id="batches")
            undo = gr.Button("Undo remove", size="sm", visible=False)
        with gr.Column(scale=3, min_width=320):
            bar = gr.HTML(elem_id="batch")
            with gr.Row(visible=False) as buttons:
                stop = gr.Button("Stop", min_width=110)
                resume = gr.Button("Resume", min_width=110)
                take = gr.Button("Download as zip", min_width=110)
                remove = gr.Button("Remove", variant="stop", min_width=110)
            sheet = gr.HTML(elem_id="batch-pictures")
    return BatchList(rows, bar, sheet, buttons, stop, resume, take, remove, undo, *states)


def wire_list(page: Page, made: BatchList) -> None:
    """Let batches be chosen, stopped, resumed, removed and downloaded; follow their progress."""
    space, show = page.space, shower(page.space)
    link = gr.Textbox(visible=False)
    asked = [made.chosen, made.removed]

    def choose(event: gr.EventData) -> int:
        return int(str(event.name))

    def look(chosen: int | None, removed: int | None, seen: object) -> list:
        if _state(_batches(space), chosen, removed) == seen:
            return [gr.skip()] * len(made.all())
        return show(chosen, removed)

    def stop(chosen: int | None) -> None:
        stop_job(space, _one(space, chosen).id)

    def resume(chosen: int | None) -> None:
        resume_job(space, _one(space, chosen).id)

    def take(chosen: int | None) -> str:
        return file_url(zipped(space, _one(space, chosen)))

    def remove(chosen: int | None) -> tuple:
        id = _one(space, chosen).id
        remove_job(space, id)
        return None, id

    def undo(removed: int) -> tuple:
        return restore_job(space, removed).id, None

    taken = on(made.take.click, take, made.chosen, link, progress="minimal")
    on(taken.success, None, link, js=script("download.js"))
    changes = [
        on(made.rows.click, choose, None, made.chosen, mode="multiple"),
        on(made.stop.click, stop, made.chosen),
        on(made.resume.click, resume, made.chosen),
        on(made.remove.click, remove, made.chosen, asked),
        on(made.undo.click, undo, made.removed, asked),
    ]
    for change in changes:
        on(change.success, show, asked, made.all(), **IN_ORDER)
    on(tab_news("batch").input, look, [*asked, made.seen], made.all(), **IN_ORDER)


def shower(space: Workspace) -> Callable[[int | None, int | None], list]:
    """What fills the widgets of a BatchList, given what is chosen and what was removed last."""

    def show(chosen: int | None, removed: int | None) -> list:
        jobs = _batches(space)
        job = next((one for one in jobs if one.id == chosen), jobs[0] if jobs else None)
        state = _state(jobs, chosen, removed)
        undo = gr.Button(visible=removed is not None)
        if job is None:
            return [NO_BATCH, "", "", gr.Row(visible=False), *[gr.skip()] * 4, undo, state]
        return [
            batch_rows(jobs, chosen=job.id),
            progress(job),
            pictures(space, job),
            gr.Row(visible=True),
            gr.Button(visible=not job.ended, interactive=not job.stopping),
            gr.Button(visible=job.state in ("failed", "stopped")),
            gr.Button(visible=bool(job.finished_results)),
            gr.Button(visible=job.ended),
            undo,
            state,
        ]

    return show


def _state(jobs: Sequence[Job], chosen: int | None, removed: int | None) -> tuple:
    """What the widgets show depends on this alone."""
    return chosen, removed, *map(progress_version, jobs)


def _batches(space: Workspace) -> list[Job]:
    return list_jobs(space, kinds=("batch",), limit=LISTED)


def _one(space: Workspace, chosen: int | None) -> Job:
    """The batch that is looked at."""
    if chosen is not None:
        return get_job(space, chosen)
    jobs = list_jobs(space, kinds=("batch",), limit=1)
    if not jobs:
        raise BadInput("there is no batch")
    return jobs[0]
