"""The list of batches in the tab Batch, and the pictures of the chosen batch."""

from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr
from gradio.events import Dependency

from studio.errors import BadInput
from studio.queue.client import get_job, list_jobs, remove_job, restore_job, resume_job, stop_job
from studio.queue.job import Job
from studio.workspace import Workspace
from ui.web.batch.archive import zipped
from ui.web.batch.html import batch_rows, pictures, progress
from ui.web.frontend import script
from ui.web.server.downloads import file_url
from ui.web.server.page import on
from ui.web.server.polling import tab_news

LISTED = 50  # how many batches are listed, the latest ones
IN_ORDER: Any = {"mode": "always_last", "queue": "batches"}
NO_BATCH = '<div class="empty">No batches yet. Batches that you start are listed here.</div>'


class BatchPanel:
    """The widgets that show batches, and their events.

    chosen: a state with a batch's number, or None for the latest batch. updated: the components
    whose values `shown` returns.
    """

    def __init__(self, space: Workspace) -> None:
        self._space = space
        self.chosen, self._removed = gr.State(None), gr.State(None)
        gr.HTML('<div class="section">Batches</div>')
        with gr.Row(equal_height=False, elem_classes="columns"):
            with gr.Column(scale=1, min_width=320):
                js = script("clicked_item.js")
                self._rows = gr.HTML(NO_BATCH, js_on_load=js, elem_id="batches")
                self._undo = gr.Button("Undo remove", size="sm", visible=False)
            with gr.Column(scale=3, min_width=320):
                bar = gr.HTML(elem_id="batch")
                with gr.Row(visible=False) as row:
                    self._stop = gr.Button("Stop", min_width=110)
                    self._resume = gr.Button("Resume", min_width=110)
                    self._take = gr.Button("Download as zip", min_width=110)
                    self._remove = gr.Button("Remove", variant="stop", min_width=110)
                sheet = gr.HTML(elem_id="batch-pictures")
        buttons = [self._stop, self._resume, self._take, self._remove, self._undo]
        self.updated = [self._rows, bar, sheet, row, *buttons]

    def wire(self, begun: Dependency) -> None:
        """Let batches be chosen, stopped, resumed, removed and downloaded; follow their progress.

        begun: an event that starts a batch and puts its number into `chosen`.
        """
        space, chosen = self._space, self.chosen
        link = gr.Textbox(visible=False)
        state = [chosen, self._removed]

        def choose(event: gr.EventData) -> int:
            return int(str(event.name))

        def act(action: Callable[[Workspace, int], object], chosen: int | None) -> int:
            id = _chosen_batch(space, chosen).id
            action(space, id)
            return id

        def take(chosen: int | None) -> str:
            return file_url(zipped(space, _chosen_batch(space, chosen)))

        def remove(chosen: int | None) -> tuple:
            return None, act(remove_job, chosen)

        def undo(removed: int) -> tuple:
            return restore_job(space, removed).id, None

        taken = on(self._take.click, take, chosen, link, progress="minimal")
        on(taken.success, None, link, js=script("download.js"))
        changes = [
            begun,
            on(self._rows.click, choose, None, chosen, mode="multiple"),
            on(self._stop.click, partial(act, stop_job), chosen),
            on(self._resume.click, partial(act, resume_job), chosen),
            on(self._remove.click, remove, chosen, state),
            on(self._undo.click, undo, self._removed, state),
        ]
        for event in (tab_news("batch").input, *(change.success for change in changes)):
            on(event, partial(shown, space), state, self.updated, **IN_ORDER)


def shown(space: Workspace, chosen: int | None, removed: int | None) -> list:
    """The values of `BatchPanel.updated`. removed: number of the batch that was removed last."""
    jobs = list_jobs(space, kinds=("batch",), limit=LISTED)
    job = next((each for each in jobs if each.id == chosen), jobs[0] if jobs else None)
    undo = gr.Button(visible=removed is not None)
    if job is None:
        return [NO_BATCH, "", "", gr.Row(visible=False), *[gr.skip()] * 4, undo]
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
    ]


def _chosen_batch(space: Workspace, chosen: int | None) -> Job:
    """The chosen batch, or the latest. Raises BadInput where there is none."""
    if chosen is not None:
        return get_job(space, chosen)
    jobs = list_jobs(space, kinds=("batch",), limit=1)
    if not jobs:
        raise BadInput("there is no batch")
    return jobs[0]
