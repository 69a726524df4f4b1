"""The tab Batch: many pictures from a grid or a manifest, made while nobody waits."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import gradio as gr

import compose
from studio.errors import BadInput
from studio.jobs import Job, get_job, list_jobs, remove_job, restore_job, resume_job, stop_job
from studio.workspace import Workspace, list_adapters, list_bases
from ui._queue import queue_pictures
from ui.web._batches import ENDED, batch_rows, pictures, progress, spoken, zipped
from ui.web._cards import PICK, lines
from ui.web._cost import evaluations, seconds_for
from ui.web._download import TAKE, address
from ui.web._grid import ALONE, NONE, TOGETHER, Grid, grid_of, manifest_of
from ui.web._manifests import ENDINGS, shots_of
from ui.web._page import Page, told

__all__ = ["batch_tab"]

QUIET: Any = {"show_progress": "hidden", "api_visibility": "private"}
LOOK = 1.0  # seconds between two looks at a batch that is being made
LISTED = 50  # batches
LARGEST = 4 * 10**6  # bytes of a manifest that is opened in a page
HINT = (
    '<div class="empty">Write a prompt, such as <b>a red robot in a meadow</b>, or open a '
    "manifest. What it will cost is said here.</div>"
)
NO_BATCH = '<div class="empty">No batch was made yet.</div>'


@dataclass(frozen=True)
class _Form:
    """The widgets of a grid; those that a Grid is made of bear its fields' names."""

    prompts: gr.Textbox
    seeds: gr.Textbox
    adapters: gr.Dropdown
    strengths: gr.Textbox
    mixes: gr.CheckboxGroup
    methods: gr.CheckboxGroup
    options: gr.State
    base: gr.Dropdown
    steps: gr.Number
    guidance: gr.Number
    more: gr.State

    def all(self) -> list:
        return [getattr(self, one.name) for one in fields(self)]


@dataclass(frozen=True)
class _Made:
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
        shown = [self.rows, self.bar, self.sheet, self.buttons, self.stop, self.resume, self.take]
        return [*shown, self.remove, self.undo, self.seen]


def batch_tab(page: Page) -> None:
    """Lay it out and wire it."""
    space = page.space
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=320):
            form = _lay_out_grid(space)
        with gr.Column(scale=1, min_width=320):
            text = gr.Textbox(
                "",
                label="Manifest",
                info="What the grid says; write here for more than a grid can say",
                lines=9,
                max_lines=24,
                elem_classes="manifest",
            )
            with gr.Row(elem_classes="tools"):
                ending = gr.Dropdown(
                    list(ENDINGS), value="toml", label="Written as", filterable=False, scale=2
                )
                file = gr.UploadButton(
                    "Open a manifest", file_types=[f".{one}" for one in ENDINGS], scale=2
                )
                start = gr.Button("Start", variant="primary", interactive=False, scale=2)
            verdict = gr.HTML(HINT, elem_id="verdict")
    made = _lay_out_batches()
    _wire_grid(page, form, text, ending)
    _wire_manifest(page, text, ending, file, start, verdict, made)
    _wire_batches(page, made)


def _lay_out_grid(space: Workspace) -> _Form:
    options, more = gr.State({}), gr.State({})
    plain = Grid("")
    prompts = gr.Textbox(
        "", label="Prompts", info="One a line; {red|blue} stands for one of them", lines=4
    )
    with gr.Row():
        adapters = gr.Dropdown(
            _mixable(space),
            value=[],
            multiselect=True,
            label="Adapters",
            info="From the library; robot:0.8 keeps that strength",
            allow_custom_value=True,
            scale=3,
        )
        strengths = gr.Textbox(
            value=plain.strengths, label="Strengths", info="Such as 0.6, 1", scale=1, min_width=120
        )
    mixes = gr.CheckboxGroup(
        [TOGETHER, ALONE, NONE], value=list(plain.mixes), label="Mixed", info="To be compared"
    )
    methods = gr.CheckboxGroup(
        list(compose.methods()), value=list(plain.methods), label="Methods of mixing"
    )
    with gr.Row():
        seeds = gr.Textbox(value="1..2", label="Seeds", info="Such as 1..8 or 3, 7", min_width=120)
        steps = gr.Number(
            value=plain.steps, precision=0, label="Steps", info="Of denoising", min_width=120
        )
        guidance = gr.Number(
            value=plain.guidance, label="Guidance", info="To the prompt", min_width=120
        )
    base = gr.Dropdown(_bases(space), value=plain.base, label="Base", filterable=False)
    return _Form(
        prompts, seeds, adapters, strengths, mixes, methods, options, base, steps, guidance, more
    )


def _lay_out_batches() -> _Made:
    states = gr.State(None), gr.State(None), gr.State(None)
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=320):
            gr.Markdown("### Batches")
            rows = gr.HTML(NO_BATCH, js_on_load=PICK, elem_id="batches")
            undo = gr.Button("Undo remove", size="sm", visible=False)
        with gr.Column(scale=3, min_width=320):
            bar = gr.HTML(elem_id="batch")
            with gr.Row(visible=False) as buttons:
                stop = gr.Button("Stop", min_width=110)
                resume = gr.Button("Resume", min_width=110)
                take = gr.Button("Download as zip", min_width=110)
                remove = gr.Button("Remove", variant="stop", min_width=110)
            sheet = gr.HTML(elem_id="batch-pictures")
    return _Made(rows, bar, sheet, buttons, stop, resume, take, remove, undo, *states)


def _wire_grid(page: Page, form: _Form, text: gr.Textbox, ending: gr.Dropdown) -> None:
    """What is put into the grid stands in the manifest at once; a shot of Mix fills the grid."""
    space = page.space

    def write(*given: Any) -> tuple:
        return manifest_of(_grid(given)), "toml"

    def open_shot(recipe: dict | None) -> list:
        if not recipe:
            return [gr.skip()] * len(fields(_Form))
        found = grid_of(recipe)
        values = replace(found, methods=list(found.methods), adapters=list(found.adapters))
        return [getattr(values, one.name) for one in fields(_Form)]

    def offer() -> tuple:
        return gr.Dropdown(choices=_mixable(space)), gr.Dropdown(choices=_bases(space))

    typed = [one.change for one in form.all() if not isinstance(one, gr.State)]
    gr.on(typed, told(write), form.all(), [text, ending], trigger_mode="always_last", **QUIET)
    page.shot.change(told(open_shot), page.shot, form.all(), **QUIET)
    page.tabs.select(offer, None, [form.adapters, form.base], **QUIET)


def _wire_manifest(
    page: Page,
    text: gr.Textbox,
    ending: gr.Dropdown,
    file: gr.UploadButton,
    start: gr.Button,
    verdict: gr.HTML,
    made: _Made,
) -> None:
    """A manifest is read whenever it changes, and started when it has no mistake."""
    space = page.space

    def judge(text: str, ending: str) -> tuple:
        if not text.strip():
            return HINT, gr.Button("Start", interactive=False)
        try:
            shots = shots_of(space, text, ending)
        except BadInput as error:
            wrong = [line.strip() for line in str(error).splitlines()]
            return lines([], wrong), gr.Button("Start", interactive=False)
        many = f"{len(shots)} pictures" if len(shots) > 1 else "1 picture"
        return _cost(space, many, shots), gr.Button(f"Make {many}", interactive=True)

    def read(path: str) -> tuple:
        found = Path(path)
        if found.stat().st_size > LARGEST:
            raise BadInput(f"{found.name} is too large for a page: use studio batch")
        try:
            return found.read_text(encoding="utf-8-sig"), found.suffix.lower().lstrip(".")
        except UnicodeDecodeError:
            raise BadInput(f"{found.name} is no text in UTF-8") from None

    def begin(text: str, ending: str) -> int:
        return queue_pictures(space, shots_of(space, text, ending), kind="batch").id

    judged = [text.change, ending.change]
    outputs = [verdict, start]
    gr.on(judged, judge, [text, ending], outputs, trigger_mode="always_last", **QUIET)
    file.upload(told(read), file, [text, ending], **QUIET)
    begun = start.click(told(begin), [text, ending], made.chosen, **QUIET)
    show = _shower(space)
    begun.success(show, [made.chosen, made.removed], made.all(), **QUIET)


def _wire_batches(page: Page, made: _Made) -> None:
    """The batches made before, and the one that is looked at."""
    space, show = page.space, _shower(page.space)
    link = gr.Textbox(visible=False)
    asked = [made.chosen, made.removed]

    def choose(event: gr.EventData) -> int:
        return int(str(event.name))

    def look(chosen: int | None, removed: int | None, seen: object) -> list:
        if _state(space, chosen, removed) == seen:
            return [gr.skip()] * len(made.all())
        return show(chosen, removed)

    def stop(chosen: int | None) -> None:
        stop_job(space, _one(space, chosen).id)

    def resume(chosen: int | None) -> None:
        resume_job(space, _one(space, chosen).id)

    def take(chosen: int | None) -> str:
        return address(zipped(space, _one(space, chosen)))

    def remove(chosen: int | None) -> tuple:
        id = _one(space, chosen).id
        remove_job(space, id)
        return None, id

    def undo(removed: int) -> tuple:
        return restore_job(space, removed).id, None

    made.take.click(
        told(take), made.chosen, link, show_progress="minimal", api_visibility="private"
    ).success(None, link, None, js=TAKE, **QUIET)
    changes = [
        made.rows.click(told(choose), None, made.chosen, **QUIET),
        made.stop.click(told(stop), made.chosen, None, **QUIET),
        made.resume.click(told(resume), made.chosen, None, **QUIET),
        made.remove.click(told(remove), made.chosen, asked, **QUIET),
        made.undo.click(told(undo), made.removed, asked, **QUIET),
    ]
    for change in changes:
        change.success(show, asked, made.all(), **QUIET)
    timer = gr.Timer(LOOK, active=False)
    timer.tick(look, [*asked, made.seen], made.all(), **QUIET)

    def turn(event: gr.SelectData) -> gr.Timer:
        return gr.Timer(active=event.value == "Batch")

    page.tabs.select(turn, None, timer, **QUIET).then(show, asked, made.all(), **QUIET)


def _shower(space: Workspace):
    """What fills the widgets of _Made."""

    def show(chosen: int | None, removed: int | None) -> list:
        jobs = list_jobs(space, kinds=("batch",), limit=LISTED)
        job = next((one for one in jobs if one.id == chosen), jobs[0] if jobs else None)
        state = _state(space, chosen, removed)
        undo = gr.Button(visible=removed is not None)
        if job is None:
            return [NO_BATCH, "", "", gr.Row(visible=False), *[gr.skip()] * 4, undo, state]
        ended = job.state in ENDED
        return [
            batch_rows(jobs, chosen=job.id),
            progress(job),
            pictures(space, job),
            gr.Row(visible=True),
            gr.Button(visible=not ended, interactive=not job.stopping),
            gr.Button(visible=job.state in ("failed", "stopped")),
            gr.Button(visible=bool(job.results)),
            gr.Button(visible=ended),
            undo,
            state,
        ]

    return show


def _state(space: Workspace, chosen: int | None, removed: int | None) -> tuple:
    """What the widgets show depends on this alone."""
    jobs = list_jobs(space, kinds=("batch",), limit=LISTED)
    told = [
        (one.id, one.state, one.stopping, one.step, one.phase, len(one.results)) for one in jobs
    ]
    return chosen, removed, tuple(told)


def _one(space: Workspace, chosen: int | None) -> Job:
    """The batch that is looked at."""
    if chosen is not None:
        return get_job(space, chosen)
    jobs = list_jobs(space, kinds=("batch",), limit=1)
    if not jobs:
        raise BadInput("there is no batch")
    return jobs[0]


def _grid(given: Sequence[Any]) -> Grid:
    """The widgets' values as a grid; what is empty is as a plain grid has it."""
    plain = Grid("")
    values = {
        one.name: getattr(plain, one.name) if value in (None, "") else value
        for one, value in zip(fields(_Form), given, strict=True)
    }
    return Grid(**values)


def _cost(space: Workspace, many: str, shots: Sequence) -> str:
    work, seconds = evaluations(shots), seconds_for(space, shots)
    time = "time unknown before a first picture" if seconds is None else f"about {spoken(seconds)}"
    return lines([f"{many}, {work:,.0f} evaluations of the UNet, {time}."])


def _mixable(space: Workspace) -> list[str]:
    """What a mix can name: adapters and their halves."""
    found = [one for one in list_adapters(space) if not one.problem]
    return [name for one in found for name in (one.name, *(f"{one.name}:{h}" for h in one.halves))]


def _bases(space: Workspace) -> list[tuple[str, str]]:
    return [(one.name, one.source) for one in list_bases(space)]
