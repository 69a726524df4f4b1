"""The part of the tab Train that compares a training's checkpoints."""

from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from studio.errors import BadInput
from studio.queue.client import get_job, stop_job
from studio.queue.job import Job
from studio.workspace import Workspace
from ui.shared.queue_requests import drawing_of, find_job
from ui.web.frontend import ONCE, paragraph, sentence, template
from ui.web.server.fields import read_as, read_numbers
from ui.web.server.page import Page, as_html, on
from ui.web.train import checkpoints as _checkpoints
from ui.web.train.run_html import evenly_spaced, sample_prompts_of
from ui.web.train.runs import RunPanel

FEW = 4  # checkpoints that are ticked at first
STRENGTHS = "0.6, 0.8, 1"


@dataclass(frozen=True)
class Shown:
    """What a page shows already.

    job: the training. steps: of its checkpoints. grid: number of the grid's batch. drawn, state:
    how many of its pictures are drawn, and the batch's state.
    """

    job: int | None = None
    steps: tuple[int, ...] = ()
    grid: int | None = None
    drawn: int = -1
    state: str = ""


class ComparisonPanel:
    """The widgets and their events."""

    def __init__(self, space: Workspace) -> None:
        self._space = space
        with gr.Accordion("Compare checkpoints", open=False, visible=False) as self._part:
            self._steps = gr.CheckboxGroup([], label="Checkpoints", info="A row for each")
            with gr.Row(elem_classes="studio-line"):
                self._strengths = gr.Textbox(STRENGTHS, label="Strengths", info="A column for each")
                self._prompt = gr.Textbox(label="Prompt", info="The same in every picture", scale=2)
                self._seed = gr.Textbox("0", label="Seed", info="The same in every picture")
            with gr.Row(elem_classes="studio-buttons"):
                self._draw = gr.Button("Draw the grid", min_width=120, elem_classes=ONCE)
                self._stop = gr.Button("Stop drawing", visible=False, min_width=120)
            self._status = gr.HTML(padding=False)
            self._gallery = gr.Gallery(
                show_label=False,
                height="auto",
                allow_preview=False,
                interactive=False,
                buttons=[],
                visible=False,
                elem_classes="studio-grid",
            )
            with gr.Column(visible=False) as self._picked:
                self._large = gr.HTML(padding=False)
                with gr.Row(elem_classes="studio-buttons"):
                    self._mix = gr.Button("Mix with it", variant="primary", min_width=120)
                    self._keep = gr.Button("Keep it in the library", min_width=120)
            self._number = gr.Textbox(visible=False)  # number of the picked cell
            self._shown = gr.State(Shown())

    def wire(self, page: Page, runs: RunPanel) -> None:
        """Wire the events. The panel shows the training that is selected in `runs`."""
        asked = [runs.jobs, self._steps, self._shown]
        updated = [
            *(self._part, self._steps, self._prompt, self._stop, self._status, self._gallery),
            *(self._picked, self._shown),
        ]
        on([runs.news.input, runs.jobs.change], self._look, asked, updated, mode="always_last")
        grid = [runs.jobs, self._steps, self._strengths, self._prompt, self._seed, self._shown]
        drawn = on(self._draw.click, self._draw_grid, grid, self._shown)
        stopped = on(self._stop.click, self._stop_grid, self._shown)
        for changed in (drawn, stopped):
            on(changed.success, self._look, asked, updated)
        large = [self._picked, self._large, self._number]
        on(self._gallery.select, self._pick, [runs.jobs, self._shown], large)
        picked = [runs.jobs, self._shown, self._number]
        on(self._keep.click, self._keep_picked, picked, progress="full")
        mixed = [page.adapters, page.tabs]
        on(self._mix.click, self._mix_picked, picked, mixed, progress="full")

    def _look(self, chosen: int | None, ticked: list[int], seen: Shown) -> list[Any]:
        """What is new since `seen`, in the order of `updated`."""
        job, steps = self._job_and_steps(chosen)
        if not (job and steps):
            return [gr.Accordion(visible=False), *[gr.skip()] * 6, Shown()]
        grid, now = self._grid_now(job, steps, seen)
        if now == seen:
            return [gr.skip()] * 8
        same = seen.job == job.id
        return [
            gr.Accordion(visible=True),
            gr.skip() if same and now.steps == seen.steps else _steps(job, now, seen, ticked),
            gr.skip() if same else sample_prompts_of(job)[-1],
            gr.Button(visible=bool(grid) and not grid.ended),
            _status(grid) if grid else "",
            self._pictures(job, grid),
            gr.Column(visible=False) if now.grid != seen.grid else gr.skip(),
            now,
        ]

    def _job_and_steps(self, chosen: int | None) -> tuple[Job | None, list[int]]:
        """The selected training, and the steps of its checkpoints."""
        job = find_job(self._space, chosen)
        return job, sorted(_checkpoints.checkpoints(self._space, job)) if job else []

    def _grid_now(self, job: Job, steps: list[int], seen: Shown) -> tuple[Job | None, Shown]:
        grid = find_job(self._space, seen.grid) if seen.job == job.id else None
        grid = grid or _checkpoints.latest_grid(self._space, job)
        now = Shown(job.id, tuple(steps), drawn=0)
        if grid is None:
            return None, now
        drawn = len(grid.finished_results)
        return grid, replace(now, grid=grid.id, drawn=drawn, state=grid.state)

    def _pictures(self, job: Job, grid: Job | None) -> gr.Gallery:
        if grid is None:
            return gr.Gallery(visible=False)
        drawn = _checkpoints.drawn(self._space, grid)
        pictures = _checkpoints.pictures(self._space, drawn, total=job.total)
        columns = _checkpoints.columns(grid)
        return gr.Gallery(pictures, columns=columns, visible=bool(pictures))

    def _draw_grid(
        self, chosen: int, steps: list[int], strengths: str, prompt: str, seed: str, seen: Shown
    ) -> Shown:
        _checkpoints.draw_grid(
            self._space,
            get_job(self._space, chosen),
            steps=steps,
            strengths=read_numbers("strengths", strengths),
            prompt=prompt,
            seed=read_as("seed", int, seed),
        )
        return replace(seen, grid=None)

    def _stop_grid(self, seen: Shown) -> None:
        if seen.grid:
            stop_job(self._space, seen.grid)

    def _pick(self, chosen: int, seen: Shown, event: gr.SelectData) -> tuple[gr.Column, str, str]:
        cell = self._cell(seen, int(event.index))
        large = template("train/large.html").render(
            picture=cell.picture.path,
            words=_checkpoints.caption(cell, get_job(self._space, chosen).total),
        )
        return gr.Column(visible=True), large, str(event.index)

    def _keep_picked(self, chosen: int, seen: Shown, number: str) -> None:
        kept = self._add_adapter(chosen, seen, number)
        gr.Info(as_html(f"{kept} is in the library"), title="Kept")

    def _mix_picked(self, chosen: int, seen: Shown, number: str) -> tuple[list[str], gr.Tabs]:
        return [self._add_adapter(chosen, seen, number)], gr.Tabs(selected="mix")

    def _add_adapter(self, chosen: int, seen: Shown, number: str) -> str:
        """Put the picked checkpoint into the library; returns its name there."""
        cell, job = self._cell(seen, int(number)), get_job(self._space, chosen)
        return _checkpoints.keep(self._space, job, step=cell.step, strength=cell.strength).name

    def _cell(self, seen: Shown, number: int) -> _checkpoints.Cell:
        """The cell of this number among the drawn cells. Raises BadInput where it is gone."""
        if seen.grid is None:
            raise BadInput("there is no grid any more: draw it again")
        drawn = _checkpoints.drawn(self._space, get_job(self._space, seen.grid))
        if number >= len(drawn):
            raise BadInput("that picture is no longer there: draw the grid again")
        return drawn[number]


def _steps(job: Job, now: Shown, seen: Shown, ticked: list[int]) -> gr.CheckboxGroup:
    """The checkpoints to choose from. A few are ticked, until the user ticks others."""
    choices = [
        (f"{step} (the end)" if step == job.total else str(step), step) for step in now.steps
    ]
    if seen.job == job.id and ticked != evenly_spaced(list(seen.steps), FEW):
        return gr.CheckboxGroup(choices)
    return gr.CheckboxGroup(choices, value=evenly_spaced(list(now.steps), FEW))


def _status(grid: Job) -> str:
    if grid.state == "failed":
        problem = " ".join(sentence(text) for text in (grid.error, grid.advice) if text)
        return paragraph(problem, "problem")
    if not grid.ended:
        drawn = len(grid.finished_results)
        return paragraph(f"{drawn} of {len(drawing_of(grid).shots)} drawn")
    return paragraph("Click a picture to see it large, and to keep that checkpoint or mix with it.")
