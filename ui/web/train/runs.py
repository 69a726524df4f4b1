"""The list of trainings, and the selected one: to watch, stop, resume, mix with and remove."""

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gradio as gr

from studio.errors import BadInput
from studio.queue.client import (
    ask_job,
    get_job,
    list_jobs,
    remove_job,
    restore_job,
    resume_job,
    stop_job,
)
from studio.queue.job import Job
from studio.training_log import TrainingLog
from studio.workspace import Workspace, list_checkpoints, list_samples, read_log
from ui.shared.queue_requests import unfinished
from ui.web.frontend import ONCE, paragraph
from ui.web.server.page import Page, on
from ui.web.server.polling import tab_news
from ui.web.train.loss_plot import loss_plot
from ui.web.train.run_html import run_header, run_label, sample_rows

MOST_LISTED = 30
RESEND = 2.0  # seconds after which a page is sent all of it again: an answer may get lost
NO_RUN = paragraph(
    "No trainings yet. Choose pictures, give trigger words and press Train. Progress and samples "
    "appear here."
)


@dataclass(frozen=True)
class Seen:
    """What a page shows already, so that only changes are sent to it.

    job: the selected training. points: the steps and losses in its log so far. mark: how far the
    log was read. unreadable: how many lines up to there cannot be read. html: header, plot and
    samples. listed: the choices of the list. state: what the buttons depend on. sent: when all of
    it was last sent, in seconds of the monotonic clock.
    """

    job: int | None = None
    mark: str = ""
    points: tuple[tuple[int, float], ...] = ()
    unreadable: int = 0
    html: tuple[str | None, ...] = (None, None, None)
    listed: tuple[tuple[str, int], ...] = ()
    state: tuple[str | bool, ...] = ()
    sent: float = 0.0


class RunPanel:
    """The widgets and their events. jobs: its value is the number of the selected training."""

    def __init__(self, space: Workspace) -> None:
        self._space = space
        self.header = gr.HTML(NO_RUN, padding=False)
        with gr.Row(elem_classes="studio-buttons"):
            self.stop = gr.Button("Stop", visible=False, min_width=90)
            self.sample, self.save = (
                gr.Button(words, visible=False, min_width=110, elem_classes=ONCE)
                for words in ("Sample now", "Save now")
            )
            self.resume = gr.Button("Resume", variant="primary", visible=False, min_width=90)
            self.mix = gr.Button("Mix with it", variant="primary", visible=False, min_width=110)
            self.reuse = gr.Button("Use its settings", visible=False, min_width=140)
            self.remove = gr.Button("Remove", visible=False, min_width=90)
            self.undo = gr.Button("Undo", visible=False, min_width=90)
        self.plot = gr.HTML(padding=False)
        self.samples = gr.HTML(padding=False)
        self.jobs = gr.Radio(
            _listed(space), label="Trainings", visible=False, elem_classes="studio-list"
        )
        self.news = tab_news("train")
        self.seen, self._removed = gr.State(Seen()), gr.State(0)
        asks = [self.stop, self.sample, self.save, self.resume]
        buttons = [*asks, self.mix, self.reuse, self.remove]
        # The components whose values `updates` returns.
        self.updated = [self.jobs, self.header, self.plot, self.samples, *buttons, self.seen]

    def wire(self, page: Page) -> None:
        """Wire the events."""
        space, jobs = self._space, self.jobs
        update: dict[str, Any] = {
            "handler": partial(updates, space),
            "inputs": [jobs, self.seen],
            "outputs": self.updated,
            "queue": "trainings",
        }
        on(self.news.input, **update, mode="always_last")
        on(None, lambda job: updates(space, job, Seen()), jobs, self.updated, queue="trainings")
        changes = [
            on(self.stop.click, partial(stop_job, space), jobs),
            on(self.sample.click, partial(ask_job, space, what="sample"), jobs),
            on(self.save.click, partial(ask_job, space, what="save"), jobs),
            on(self.resume.click, partial(resume_job, space), jobs),
            on(self.remove.click, self._remove, jobs, [self._removed, self.undo]),
            on(self.undo.click, self._undo, self._removed, [jobs, self.undo]),
        ]
        for change in changes:
            on(change.success, **update)
        on(self.mix.click, self._mix, jobs, [page.adapters, page.tabs])

    def _remove(self, job: int) -> tuple[int, gr.Button]:
        title = get_job(self._space, job).title
        remove_job(self._space, job)
        return job, gr.Button(f"Undo: restore {title}", visible=True)

    def _undo(self, removed: int) -> tuple[gr.Radio, gr.Button]:
        job = restore_job(self._space, removed)
        return gr.Radio(_listed(self._space), value=job.id), gr.Button(visible=False)

    def _mix(self, job: int) -> tuple[list[str], gr.Tabs]:
        return list(get_job(self._space, job).results), gr.Tabs(selected="mix")


def updates(space: Workspace, selected: int | None, seen: Seen) -> list[Any]:
    """What is new in the list and in the selected training, in the order of `RunPanel.updated`.

    If no training is selected, or the selected one is gone, this selects the one that runs, or else
    runs next, or else is the latest. Otherwise the selection is not sent: the user may have changed
    it meanwhile.
    """
    listed = _listed(space)
    job = _selected_job(space, selected, [id for _, id in listed])
    if job is None:
        hidden = gr.Button(visible=False)
        no_jobs = gr.Radio([], value=None, visible=False)
        return [no_jobs, NO_RUN, "", "", *[hidden] * 7, Seen()]
    seen = _read_log(space, job, seen if seen.job == job.id else Seen(job.id))
    if time.monotonic() > seen.sent + RESEND:
        unseen = Seen()
        seen = replace(seen, html=unseen.html, listed=(), state=(), sent=time.monotonic())
    html = _html(space, job, seen)
    jobs = gr.skip()
    if job.id != selected:
        jobs = gr.Radio(listed, value=job.id, visible=True)
    elif tuple(listed) != seen.listed:
        jobs = gr.Radio(listed, visible=True)
    parts = [gr.skip() if old == new else new for old, new in zip(seen.html, html, strict=True)]
    state = (job.state, job.stopping, bool(job.results))
    buttons = [gr.skip()] * 7 if state == seen.state else _buttons(job)
    return [jobs, *parts, *buttons, replace(seen, html=html, listed=tuple(listed), state=state)]


def select_run(space: Workspace, job: int) -> list[Any]:
    """What `updates` returns, with this training selected."""
    return [gr.Radio(_listed(space), value=job, visible=True), *updates(space, job, Seen())[1:]]


def _listed(space: Workspace) -> list[tuple[str, int]]:
    """Label and number of the trainings, the latest first."""
    jobs = list_jobs(space, kinds=("train",), limit=MOST_LISTED)
    return [(f"{job.id} · {run_label(job)}", job.id) for job in jobs]


def _selected_job(space: Workspace, selected: int | None, listed: list[int]) -> Job | None:
    if selected in listed:
        return get_job(space, selected)
    if trainings := unfinished(space, ("train",)):
        return min(trainings, key=lambda job: (job.state != "running", job.queued))
    return get_job(space, listed[0]) if listed else None


def _read_log(space: Workspace, job: Job, seen: Seen) -> Seen:
    """`seen` with the points that the job's log has gained."""
    try:
        log = read_log(space, job.run, after=seen.mark)
    except BadInput:  # the worker has not made the run's folder yet
        return Seen(job.id)
    new = tuple((int(line["step"]), line["loss"]) for line in log.lines)
    before = replace(seen, points=(), unreadable=0) if log.fresh else seen
    return replace(
        before,
        mark=log.mark,
        points=before.points + new,
        unreadable=before.unreadable + log.unreadable,
    )


def _html(space: Workspace, job: Job, seen: Seen) -> tuple[str, str, str]:
    """The header, the loss plot and the samples."""
    try:
        checkpoints = [checkpoint.step for checkpoint in list_checkpoints(space, job.run)]
        samples = list_samples(space, job.run)
    except BadInput:  # the worker has not made the run's folder yet
        checkpoints, samples = [], []
    return (
        run_header(job, ahead=_jobs_ahead(space, job)),
        loss_plot(seen.points, steps=job.total, checkpoints=checkpoints) + _log_remark(seen),
        sample_rows(samples, job),
    )


def _log_remark(seen: Seen) -> str:
    remark = TrainingLog((), seen.unreadable).remark
    return paragraph(remark) if remark else ""


def _jobs_ahead(space: Workspace, job: Job) -> int:
    """How many trainings come before a queued one."""
    if job.state != "queued":
        return 0
    trainings = unfinished(space, ("train",))
    return sum(other.state == "running" or other.queued < job.queued for other in trainings)


def _buttons(job: Job) -> list[gr.Button]:
    """The buttons in the order of `RunPanel.updated`; only those that apply are visible."""
    return [
        gr.Button(visible=not job.ended, interactive=not job.stopping),
        *(gr.Button(visible=job.state == "running", interactive=not job.stopping),) * 2,
        gr.Button(visible=job.state in ("stopped", "failed")),
        gr.Button(visible=bool(job.results)),
        gr.Button(visible=True),
        gr.Button(visible=job.ended),
    ]
