"""The part of the tab Train that compares a training's checkpoints."""

from dataclasses import dataclass, replace
from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component

from studio.errors import BadInput
from studio.queue.client import get_job, stop_job
from studio.queue.job import Job
from studio.workspace import Workspace, get_picture
from ui.web.server.downloads import file_url
from ui.web.server.fields import read_whole_number
from ui.web.server.page import QUIET, Page, show_bad_input
from ui.web.train import checkpoints as _checkpoints
from ui.web.train.run_html import evenly_spaced, sample_prompts_of
from ui.web.train.runs import RunPanel

__all__ = ["Comparison", "Drawn", "comparison", "wire_comparison"]

FEW = 4  # checkpoints that are chosen at first
STRENGTHS = "0.6, 0.8, 1"


@dataclass(frozen=True)
class Drawn:
    """What a page shows already. grid: its job's number; drawn: so many of its pictures."""

    job: int | None = None
    steps: tuple[int, ...] = ()
    grid: int | None = None
    drawn: int = -1
    state: str = ""


@dataclass(frozen=True)
class Comparison:
    """The widgets. picked: the number of the cell that was chosen, "" for none."""

    part: gr.Accordion
    steps: gr.CheckboxGroup
    strengths: gr.Textbox
    prompt: gr.Textbox
    seed: gr.Textbox
    draw: gr.Button
    stop: gr.Button
    said: gr.HTML
    gallery: gr.Gallery
    one: gr.Column
    large: gr.HTML
    picked: gr.Textbox
    keep: gr.Button
    mix: gr.Button
    seen: gr.State

    @property
    def looked(self) -> list[Component | gr.Column]:
        """What `_look` gives values for."""
        asked = [self.part, self.steps, self.prompt]
        return [*asked, self.stop, self.said, self.gallery, self.one, self.seen]


def comparison() -> Comparison:
    """Lay it out."""
    with gr.Accordion("Compare checkpoints", open=False, visible=False) as part:
        steps = gr.CheckboxGroup([], label="Checkpoints", info="Steps; a row each")
        with gr.Row(elem_classes="studio-line"):
            strengths = gr.Textbox(STRENGTHS, label="Strengths", info="A column each")
            prompt = gr.Textbox(label="Prompt", info="The same for all of them", scale=2)
            seed = gr.Textbox("0", label="Seed", info="The same too")
        with gr.Row(elem_classes="studio-buttons"):
            draw = gr.Button("Draw the grid", min_width=120)
            stop = gr.Button("Stop drawing", visible=False, min_width=120)
        said = gr.HTML(padding=False)
        gallery = gr.Gallery(
            show_label=False,
            height="auto",
            allow_preview=False,
            interactive=False,
            buttons=[],
            visible=False,
            elem_classes="studio-grid",
        )
        with gr.Column(visible=False) as one:
            large = gr.HTML(padding=False)
            with gr.Row(elem_classes="studio-buttons"):
                mix = gr.Button("Mix with it", variant="primary", min_width=120)
                keep = gr.Button("Keep it in the library", min_width=120)
        picked = gr.Textbox(visible=False)
        seen = gr.State(Drawn())
    return Comparison(
        part,
        steps,
        strengths,
        prompt,
        seed,
        draw,
        stop,
        said,
        gallery,
        one,
        large,
        picked,
        keep,
        mix,
        seen,
    )


def wire_comparison(page: Page, own: Comparison, runs: RunPanel) -> None:
    """Let it do what it says."""
    space = page.space

    def looking(chosen: int | None, steps: list[int], seen: Drawn) -> list[Any]:
        return _look(space, chosen, steps, seen)

    @show_bad_input
    def draw(
        chosen: int, steps: list[int], strengths: str, prompt: str, seed: str, seen: Drawn
    ) -> Drawn:
        _checkpoints.draw_grid(
            space,
            get_job(space, chosen),
            steps=steps,
            strengths=_checkpoints.strengths_of(strengths),
            prompt=prompt,
            seed=read_whole_number("seed", seed),
        )
        return replace(seen, grid=None)

    @show_bad_input
    def stop(seen: Drawn) -> None:
        if seen.grid:
            stop_job(space, seen.grid)

    @show_bad_input
    def pick(chosen: int, seen: Drawn, event: gr.SelectData) -> tuple[Any, str, str]:
        cell = _cell(space, seen, int(event.index))
        return (
            gr.Column(visible=True),
            _large(space, get_job(space, chosen), cell),
            str(event.index),
        )

    def kept(chosen: int, seen: Drawn, picked: str) -> str:
        cell = _cell(space, seen, int(picked))
        job = get_job(space, chosen)
        return _checkpoints.keep(space, job, step=cell.step, strength=cell.strength).name

    @show_bad_input
    def keep(chosen: int, seen: Drawn, picked: str) -> None:
        gr.Info(f"{kept(chosen, seen, picked)} is in the library", title="Kept")

    @show_bad_input
    def mix(chosen: int, seen: Drawn, picked: str) -> tuple[list[str], gr.Tabs]:
        return [kept(chosen, seen, picked)], gr.Tabs(selected="mix")

    again: dict[str, Any] = {
        "fn": looking,
        "inputs": [runs.jobs, own.steps, own.seen],
        "outputs": own.looked,
        **QUIET,
    }
    gr.on([runs.news.input, runs.jobs.change], **again, trigger_mode="always_last")
    asked = [runs.jobs, own.steps, own.strengths, own.prompt, own.seed, own.seen]
    own.draw.click(draw, asked, own.seen, **QUIET).success(**again)
    own.stop.click(stop, own.seen, **QUIET).success(**again)
    chosen: list[Component] = [runs.jobs, own.seen, own.picked]
    own.gallery.select(pick, chosen[:2], [own.one, own.large, own.picked], **QUIET)
    own.keep.click(keep, chosen, api_visibility="private")
    own.mix.click(mix, chosen, [page.adapters, page.tabs], api_visibility="private")


def _look(space: Workspace, chosen: int | None, ticked: list[int], seen: Drawn) -> list[Any]:
    """What is new, in the order of `Comparison.looked`."""
    try:
        job = get_job(space, chosen) if chosen else None
    except BadInput:
        job = None
    there = tuple(_checkpoints.checkpoints(space, job)) if job else ()
    if not (job and there):
        return [gr.Accordion(visible=False), *[gr.skip()] * 6, Drawn()]
    fresh = seen.job != job.id or seen.grid is None
    grid = _checkpoints.latest_grid(space, job) if fresh else get_job(space, seen.grid or 0)
    now = Drawn(
        job.id,
        tuple(sorted(there)),
        grid.id if grid else None,
        len(grid.finished_results) if grid else 0,
        grid.state if grid else "",
    )
    if now == seen:
        return [gr.skip()] * 8
    same = seen.job == job.id
    steps = gr.skip() if same and now.steps == seen.steps else _steps(job, now, seen, ticked)
    prompt = gr.skip() if same else sample_prompts_of(job)[-1]
    return [
        gr.Accordion(visible=True),
        steps,
        prompt,
        gr.Button(visible=bool(grid) and not grid.ended),
        _said(grid) if grid else "",
        _gallery(space, job, grid),
        gr.Column(visible=False) if now.grid != seen.grid else gr.skip(),
        now,
    ]


def _steps(job: Job, now: Drawn, seen: Drawn, ticked: list[int]) -> Any:
    """The checkpoints that can be chosen; as they are chosen by themselves, until somebody does."""
    choices = [(_named(step, job), step) for step in now.steps]
    if seen.job == job.id and ticked != evenly_spaced(list(seen.steps), FEW):
        return gr.CheckboxGroup(choices)
    return gr.CheckboxGroup(choices, value=evenly_spaced(list(now.steps), FEW))


def _named(step: int, job: Job) -> str:
    return f"{step} (the end)" if step == job.total else str(step)


def _gallery(space: Workspace, job: Job, grid: Job | None) -> Any:
    if grid is None:
        return gr.Gallery(visible=False)
    shown = _checkpoints.pictures(space, _checkpoints.drawn(space, grid), total=job.total)
    columns = len({cell.strength for cell in _checkpoints.cells(grid)})
    return gr.Gallery(shown, columns=columns, visible=bool(shown))


def _said(grid: Job) -> str:
    if grid.state == "failed":
        return f'<p class="problem" role="alert">{escape(grid.error)}. {escape(grid.advice)}</p>'
    if not grid.ended:
        drawn = len(grid.finished_results)
        return f'<p class="quiet">{drawn} of {len(_checkpoints.cells(grid))} drawn</p>'
    return '<p class="quiet">Choose one to see it large, keep it or mix with it.</p>'


def _cell(space: Workspace, seen: Drawn, number: int) -> _checkpoints.Cell:
    """The cell of this number among those that are drawn."""
    if seen.grid is None:
        raise BadInput("there is no grid any more: draw it again")
    drawn = _checkpoints.drawn(space, get_job(space, seen.grid))
    if number >= len(drawn):
        raise BadInput("that picture is no longer there: draw the grid again")
    return drawn[number]


def _large(space: Workspace, job: Job, cell: _checkpoints.Cell) -> str:
    said = escape(_checkpoints.said(cell, job.total))
    place = file_url(get_picture(space, cell.picture or "").path)
    return f'<div class="studio-large"><img src="{place}" alt="{said}"><p>{said}</p></div>'
