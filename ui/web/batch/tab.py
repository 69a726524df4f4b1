"""The tab Batch: draw many pictures from a grid or a manifest."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

import compose
from studio.duration import format_duration
from studio.errors import BadInput
from studio.files import read_text
from studio.requests.shot import Shot
from studio.workspace import Workspace, list_adapters
from ui.shared.queue_requests import queue_pictures
from ui.web.batch.cost import evaluations, seconds_for
from ui.web.batch.grid import ALONE, NONE, TOGETHER, Grid, grid_of, manifest_of
from ui.web.batch.library_names import ENDINGS, shots_of
from ui.web.batch.runs import BatchPanel
from ui.web.frontend import ONCE, method_choices, notices
from ui.web.mix.shot_form import base_choices
from ui.web.server.kept_form import KeptForm
from ui.web.server.page import Page, Update, on
from ui.web.server.waiting import waiting
from ui.web.words import in_words

LARGEST = 4 * 10**6  # bytes of a manifest that is opened in a page
HINT = (
    '<div class="empty">Write a prompt, such as <b>a red robot in a meadow</b>, or open a '
    "manifest. The number of pictures and the time appear here.</div>"
)


def batch_tab(page: Page) -> None:
    """Lay the tab out and wire its events."""
    space = page.space
    with gr.Row(equal_height=False, elem_classes="columns"):
        with gr.Column(scale=1, min_width=320, elem_classes="studio-panel"):
            form = _lay_out_grid(space)
        with gr.Column(scale=1, min_width=320):
            text = gr.Textbox(
                "",
                label="Manifest",
                info="Written from the fields. Edit it for more than they offer.",
                lines=9,
                max_lines=24,
                elem_classes="manifest",
            )
            with gr.Row(elem_classes="tools"):
                ending = gr.Dropdown(
                    list(ENDINGS), value="toml", label="Format", filterable=False, scale=2
                )
                file = gr.UploadButton(
                    "Open a manifest", file_types=[f".{name}" for name in ENDINGS], scale=2
                )
                start = gr.Button(
                    "Start", variant="primary", interactive=False, scale=2, elem_classes=ONCE
                )
            verdict = gr.HTML(HINT, elem_id="verdict")
    batches = BatchPanel(space)
    _wire_grid(page, form, text, ending, [verdict, start])
    batches.wire(_wire_manifest(space, text, ending, file, start, verdict, batches.chosen))


def _lay_out_grid(space: Workspace) -> dict[str, Any]:
    """The widgets of a grid, by the fields of Grid."""
    plain, form = Grid(""), dict[str, Any]()
    for name in ("options", "more"):
        form[name] = gr.JSON({}, visible="hidden")
    form["prompts"] = gr.Textbox(
        "", label="Prompts", info="One a line. {red|blue} picks one of them, by the seed.", lines=4
    )
    with gr.Row():
        form["adapters"] = gr.Dropdown(
            _mixable(space),
            value=[],
            multiselect=True,
            label="Adapters",
            info="From the library. robot:0.8 keeps that strength.",
            allow_custom_value=True,
            scale=3,
        )
        form["strengths"] = gr.Textbox(
            value=plain.strengths, label="Strengths", info="Such as 0.6, 1", scale=1, min_width=120
        )
    form["mixes"] = gr.CheckboxGroup(
        [TOGETHER, ALONE, NONE],
        value=list(plain.mixes),
        label="Mixes",
        info="Which adapters share a picture",
    )
    form["methods"] = gr.CheckboxGroup(
        method_choices(compose.methods()), value=list(plain.methods), label="Methods"
    )
    with gr.Row():
        form["seeds"] = gr.Textbox(
            value="1..2", label="Seeds", info="Such as 1..8 or 3, 7", min_width=120
        )
        form["steps"] = gr.Number(
            value=plain.steps, precision=0, label="Steps", info="More take longer", min_width=120
        )
        form["guidance"] = gr.Number(
            value=float(plain.guidance),
            label="CFG scale",
            info="Prompt weight",
            min_width=120,
        )
    form["base"] = gr.Dropdown(
        base_choices(space), value=plain.base, label="Base model", filterable=False
    )
    return form


def _wire_grid(
    page: Page, form: dict[str, Any], text: gr.Textbox, ending: gr.Dropdown, judged: list[Any]
) -> None:
    """Write the manifest whenever the grid changes, and fill the grid with a shot of Mix.

    judged: the verdict and the button, which say what is wrong with a field of the grid.
    """
    space = page.space
    last = gr.State("")  # the manifest that the grid wrote last; None while a field is wrong
    written = [text, ending, last]
    widgets = list(form.values())
    shown = [*widgets, *written]

    def write(last: str | None, *given: Any) -> Any:
        try:
            manifest = manifest_of(_grid(dict(zip(form, given, strict=True))))
        except BadInput as error:
            return gr.skip(), gr.skip(), None, *_refused(error)
        # Widgets fire `change` also when they are first shown and when their choices are renewed.
        # By then a person may have edited the manifest.
        if manifest == last:
            return [gr.skip()] * 5
        # After a wrong field the text may be the same as before it: then nothing else judges it.
        verdict = _judge(space, manifest, "toml") if last is None else [gr.skip()] * 2
        return manifest, "toml", manifest, *verdict

    def open_shot(shot: Shot | None) -> list:
        if shot is None:
            return [gr.skip()] * len(shown)
        grid = grid_of(shot)
        manifest = manifest_of(grid)
        lists = {name: list(getattr(grid, name)) for name in ("methods", "adapters", "mixes")}
        values = replace(grid, **lists)
        return [*(getattr(values, name) for name in form), manifest, "toml", manifest]

    def offer() -> tuple:
        return gr.Dropdown(choices=_mixable(space)), gr.Dropdown(choices=base_choices(space))

    typed = [widget.change for widget in widgets if not isinstance(widget, gr.JSON)]
    _wire_kept(space, form, written)
    on(typed, write, [last, *widgets], [*written, *judged], mode="always_last")
    on(page.shot.change, open_shot, page.shot, shown)
    on(page.tab.select, offer, None, [form["adapters"], form["base"]])


def _wire_kept(space: Workspace, form: dict[str, Any], written: Sequence[Component]) -> None:
    """Keep the grid and the manifest when the page is reloaded.

    written: the components that the grid writes: text, format, and the text that it wrote last.
    """
    text, ending, last = written
    adapters, chosen_base = form["adapters"], form["base"]

    def restore(stored: dict[Component, Any]) -> Update:
        bases = base_choices(space)
        update: Update = {adapters: gr.Dropdown(_mixable(space)), chosen_base: gr.Dropdown(bases)}
        if not stored:  # the page has its values already, or a person has typed newer ones
            return update
        names = [name for name in stored.get(adapters) or () if isinstance(name, str)]
        base = stored.get(chosen_base)
        base = base if base in dict(bases).values() else chosen_base.value
        update |= {widget: gr.update(value=value) for widget, value in stored.items()}
        update[adapters] = gr.Dropdown(choices=_mixable(space), value=names)
        update[chosen_base] = gr.Dropdown(choices=bases, value=base)
        try:  # otherwise the grid would write over a manifest that a person edited
            update[last] = manifest_of(
                _grid({name: stored.get(widget, widget.value) for name, widget in form.items()})
            )
        except BadInput:
            update[last] = None
        return update

    kept = KeptForm(space, "batch", [*form.values(), text, ending])
    kept.wire(restore, [*form.values(), *written])


def _wire_manifest(
    space: Workspace,
    text: gr.Textbox,
    ending: gr.Dropdown,
    file: gr.UploadButton,
    start: gr.Button,
    verdict: gr.HTML,
    started: gr.State,
) -> Dependency:
    """Check the manifest whenever it changes, and let it be started when it has no mistake.

    started: a state that gets the batch's number. Returns the event that starts a batch.
    """

    def judge(text: str, ending: str) -> tuple[str, gr.Button]:
        return _judge(space, text, ending)

    def read(path: str) -> tuple:
        file = Path(path)
        if file.stat().st_size > LARGEST:
            raise BadInput(f"{file.name} is too large for a page: use studio batch")
        return read_text(file), file.suffix.lower().lstrip(".")

    def begin(text: str, ending: str) -> int:
        return queue_pictures(space, shots_of(space, text, ending), kind="batch", once=True).id

    manifest = [text, ending]
    on([text.change, ending.change], judge, manifest, [verdict, start], mode="always_last")
    on(file.upload, read, file, manifest, mode="always_last")
    return on(start.click, begin, manifest, started)


def _judge(space: Workspace, text: str, ending: str) -> tuple[str, gr.Button]:
    """The verdict on a manifest, and the button that starts its batch."""
    if not text.strip():
        return HINT, gr.Button("Start", interactive=False)
    try:
        shots = shots_of(space, text, ending)
    except BadInput as error:
        return _refused(error)
    many = f"{len(shots)} pictures" if len(shots) > 1 else "1 picture"
    return _cost(space, many, shots), gr.Button(f"Make {many}", interactive=True)


def _refused(error: BadInput) -> tuple[str, gr.Button]:
    """The verdict and the button where no picture can be made."""
    wrong = [in_words(line.strip(), names=True) for line in str(error).splitlines()]
    return notices([], wrong), gr.Button("Start", interactive=False)


def _grid(given: Mapping[str, Any]) -> Grid:
    """The widgets' values as a grid; empty ones become defaults."""
    plain = Grid("")
    values = {
        name: getattr(plain, name) if value in (None, "") else value
        for name, value in given.items()
    }
    return Grid(**values)


def _cost(space: Workspace, many: str, shots: Sequence) -> str:
    work, seconds = evaluations(shots), seconds_for(space, shots)
    unknown = "the time is known after the first picture"
    time = unknown if seconds is None else f"about {format_duration(seconds)}"
    ahead = waiting(space, ("render", "batch"))
    return notices([f"{many}, {work:,.0f} UNet passes, {time}.{ahead}"])


def _mixable(space: Workspace) -> list[str]:
    """The names that a mix can have: adapters and their halves."""
    names = []
    for adapter in list_adapters(space):
        if not adapter.problem:
            names += [adapter.name, *(f"{adapter.name}:{half}" for half in adapter.halves)]
    return names
