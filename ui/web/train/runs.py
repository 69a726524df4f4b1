"""The trainings, waiting, running and ended: one of them is looked at, steered, and mixed with."""

from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
from gradio.components import Component

from studio.errors import BadInput
from studio.queue.client import (
    UNFINISHED,
    Job,
    get_job,
    list_jobs,
    remove_job,
    restore_job,
    resume_job,
    stop_job,
)
from studio.workspace import Workspace, list_checkpoints, list_samples, read_log
from ui.web.server.page import QUIET, Page, in_order, show_bad_input
from ui.web.server.polling import tab_news
from ui.web.train import run_html as _run_view
from ui.web.train.loss_plot import plot

__all__ = ["Runs", "look", "look_at", "runs", "wire_runs"]

LISTED = 30
IN_ORDER = in_order("trainings")
NOTHING = "No training yet. Choose pictures and a trigger, and press Train; it is watched here."


@dataclass(frozen=True)
class Seen:
    """What a page shows already, so that only what changed is sent.

    points: steps and losses read so far, of `job`; mark: as in `studio.workspace.Log`.
    """

    job: int | None = None
    mark: str = ""
    points: tuple[tuple[int, float], ...] = ()
    html: tuple[str, ...] = ()
    listed: tuple[tuple[str, int], ...] = ()
    state: tuple[str | bool, ...] = ()


@dataclass(frozen=True)
class Runs:
    """The widgets. jobs: its value is the number of the training that is looked at."""

    jobs: gr.Radio
    head: gr.HTML
    stop: gr.Button
    resume: gr.Button
    mix: gr.Button
    remove: gr.Button
    undo: gr.Button
    gone: gr.Number
    plot: gr.HTML
    samples: gr.HTML
    told: gr.HTML
    seen: gr.State

    @property
    def looked(self) -> list[Component]:
        """What `look` gives values for."""
        buttons = [self.stop, self.resume, self.mix, self.remove]
        return [self.jobs, self.head, self.plot, self.samples, *buttons, self.seen]


def runs(space: Workspace) -> Runs:
    """Lay them out."""
    head = gr.HTML(f'<p class="quiet">{NOTHING}</p>', padding=False)
    with gr.Row(elem_classes="studio-buttons"):
        stop = gr.Button("Stop", visible=False, min_width=90)
        resume = gr.Button("Resume", variant="primary", visible=False, min_width=90)
        mix = gr.Button("Mix with it", variant="primary", visible=False, min_width=110)
        remove = gr.Button("Remove", visible=False, min_width=90)
        undo = gr.Button("Undo", visible=False, min_width=90)
    plot = gr.HTML(padding=False)
    samples = gr.HTML(padding=False)
    jobs = gr.Radio(_listed(space), label="Trainings", visible=False, elem_classes="studio-list")
    gone = gr.Number(visible=False)
    told = tab_news("train")
    seen = gr.State(Seen())
    return Runs(jobs, head, stop, resume, mix, remove, undo, gone, plot, samples, told, seen)


def wire_runs(page: Page, own: Runs) -> None:
    """Let them do what they say."""
    space = page.space

    def looking(chosen: int | None, seen: Seen) -> list[Any]:
        return look(space, chosen, seen)

    def afresh(chosen: int | None) -> list[Any]:
        return look(space, chosen, Seen())

    @show_bad_input
    def stop(chosen: int) -> None:
        stop_job(space, chosen)

    @show_bad_input
    def resume(chosen: int) -> None:
        resume_job(space, chosen)

    @show_bad_input
    def remove(chosen: int) -> tuple[int, Any]:
        title = get_job(space, chosen).title
        remove_job(space, chosen)
        return chosen, gr.Button(f"Undo: put {title} back", visible=True)

    @show_bad_input
    def undo(gone: int) -> tuple[Any, Any]:
        job = restore_job(space, int(gone))
        return gr.Radio(_listed(space), value=job.id), gr.Button(visible=False)

    @show_bad_input
    def mix(chosen: int) -> tuple[list[str], gr.Tabs]:
        return list(get_job(space, chosen).results), gr.Tabs(selected="mix")

    again: dict[str, Any] = {
        "fn": looking,
        "inputs": [own.jobs, own.seen],
        "outputs": own.looked,
        **IN_ORDER,
    }
    own.told.input(**again, trigger_mode="always_last")
    gr.on(None, afresh, own.jobs, own.looked, **IN_ORDER)
    own.stop.click(stop, own.jobs, **QUIET).success(**again)
    own.resume.click(resume, own.jobs, **QUIET).success(**again)
    own.remove.click(remove, own.jobs, [own.gone, own.undo], **QUIET).success(**again)
    own.undo.click(undo, own.gone, [own.jobs, own.undo], **QUIET).success(**again)
    own.mix.click(mix, own.jobs, [page.adapters, page.tabs], **QUIET)


def look(space: Workspace, chosen: int | None, seen: Seen) -> list[Any]:
    """What is new of the list and of the chosen training, in the order of `Runs.looked`.

    Where the chosen one is gone, or none was, it is the one that runs, else the latest. Otherwise
    the choice is left alone: another may have been made since this was asked for.
    """
    listed = _listed(space)
    job = _chosen(space, chosen, [id for _, id in listed])
    if job is None:
        head = f'<p class="quiet">{NOTHING}</p>'
        hide = gr.Button(visible=False)
        nothing = gr.Radio([], value=None, visible=False)
        return [nothing, head, "", "", *[hide] * 4, Seen()]
    if seen.job != job.id:
        seen = Seen(job.id)
    seen = _read(space, job, seen)
    html = _html(space, job, seen)
    if job.id != chosen:
        choices = gr.Radio(listed, value=job.id, visible=True)
    else:
        known = tuple(listed) == seen.listed
        choices = gr.skip() if known else gr.Radio(listed, visible=True)
    parts = [
        gr.skip() if old == new else new
        for old, new in zip(seen.html or (None,) * len(html), html, strict=True)
    ]
    state = (job.state, job.stopping, bool(job.results))
    buttons = [gr.skip()] * 4 if state == seen.state else _buttons(job)
    seen = replace(seen, html=html, listed=tuple(listed), state=state)
    return [choices, *parts, *buttons, seen]


def look_at(space: Workspace, job: int) -> list[Any]:
    """What `look` gives, for a training that is to be chosen."""
    return [gr.Radio(_listed(space), value=job, visible=True), *look(space, job, Seen())[1:]]


def _listed(space: Workspace) -> list[tuple[str, int]]:
    """The trainings by what stands for them, the latest first."""
    found = list_jobs(space, kinds=("train",), limit=LISTED)
    return [(f"{job.id} · {_run_view.label(job)}", job.id) for job in found]


def _chosen(space: Workspace, chosen: int | None, listed: list[int]) -> Job | None:
    if chosen in listed:
        return get_job(space, chosen)
    running = list_jobs(space, states=("running",), kinds=("train",), limit=1)
    if running:
        return running[0]
    return get_job(space, listed[0]) if listed else None


def _read(space: Workspace, job: Job, seen: Seen) -> Seen:
    """With what its log has more."""
    try:
        log = read_log(space, job.run, after=seen.mark)
    except BadInput:  # its worker has not made the folder yet
        return replace(seen, mark="", points=())
    new = tuple((int(line["step"]), line["loss"]) for line in log.lines)
    return replace(seen, mark=log.mark, points=new if log.fresh else seen.points + new)


def _html(space: Workspace, job: Job, seen: Seen) -> tuple[str, str, str]:
    """The head, the plot and the samples."""
    before = 0
    if job.state == "queued":
        waiting = list_jobs(space, states=UNFINISHED, kinds=("train",), limit=1000)
        before = sum(one.state == "running" or one.queued < job.queued for one in waiting)
    try:
        marks = [one.step for one in list_checkpoints(space, job.run)]
        found = list_samples(space, job.run)
    except BadInput:
        marks, found = [], []
    drawn = plot(seen.points, steps=job.total, marks=marks)
    return (
        _run_view.head(job, before=before),
        drawn,
        _run_view.samples(found, _run_view.prompts(job)),
    )


def _buttons(job: Job) -> list[Any]:
    """Those of stop, resume, mix and remove that would do something."""
    at_work = not job.ended
    return [
        gr.Button(visible=at_work, interactive=not job.stopping),
        gr.Button(visible=job.state in ("stopped", "failed")),
        gr.Button(visible=bool(job.results)),
        gr.Button(visible=not at_work),
    ]
