"""The tab Library: adapters to look at, take in and give away; the bases; what was deleted."""

from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from studio.adapters.describe import describe
from studio.errors import BadInput
from studio.workspace import (
    Workspace,
    add_base,
    delete_adapter,
    display_name,
    empty_trash,
    forget_base,
    list_adapters,
    list_bases,
    list_trash,
    rename_adapter,
)
from ui.web.frontend import notices, script
from ui.web.library.cards import base_rows, cards, details, matching, trash_rows
from ui.web.library.import_export import export_file, import_files, restore
from ui.web.server.downloads import file_url
from ui.web.server.page import QUIET, SLOW, Page, in_order, show_bad_input
from ui.web.server.polling import library_version, tab_news

__all__ = ["library_tab"]

FAMILIES = [("Any base", ""), ("SDXL, sketch", "sdxl"), ("SD 1", "sd1"), ("SD 2", "sd2")]
TOOLS = [
    ("Studio, as it is", "studio"),
    ("kohya, for A1111, ComfyUI, Forge", "kohya"),
    ("diffusers", "diffusers"),
    ("LyCORIS", "lycoris"),
]
WHOLE = "both halves"
EMPTY = (
    '<div class="empty"><b>No adapters yet.</b> Train one from a few pictures in the tab Train, or '
    "import .safetensors files of Studio, kohya, diffusers or LyCORIS.</div>"
)
NOTHING_FITS = '<div class="empty">No adapter fits this filter.</div>'
NOTHING_CHOSEN = '<div class="empty">Choose an adapter to see all that is known of it.</div>'
CLICKED_ITEM = script("clicked_item.js")
IN_ORDER = in_order("library")


@dataclass(frozen=True)
class _Look:
    """The widgets that others than their own handlers write to."""

    text: gr.Textbox
    family: gr.Dropdown
    report: gr.Row
    said: gr.HTML
    undo: gr.Button
    grid: gr.HTML
    about: gr.HTML
    actions: gr.Column
    mix: gr.Button
    part: gr.Dropdown
    name: gr.Textbox
    trash: gr.HTML
    chosen: gr.State
    """the name of an adapter, or "\""""
    deleted: gr.State
    """the id in the trash of what was deleted last here, or "\""""
    seen: gr.State
    """the library as the list shows it, told by its mark"""


def library_tab(page: Page) -> None:
    """Lay it out and wire it."""
    space = page.space
    states = gr.State(""), gr.State(""), gr.State("")
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=320):
            with gr.Row(elem_classes="tools"):
                text = gr.Textbox("", label="Find", placeholder="name, trigger word, kind", scale=3)
                family = gr.Dropdown(FAMILIES, value="", label="Fits", filterable=False, scale=2)
                upload = gr.UploadButton("Import", file_count="multiple", min_width=110, scale=1)
            with gr.Row(visible=False, elem_classes="tools") as report:
                said = gr.HTML(elem_classes="said", min_width=160, scale=4)
                undo = gr.Button("Undo", size="sm", min_width=110, scale=1)
            grid = gr.HTML(js_on_load=CLICKED_ITEM + script("library.js"), elem_id="library")
        with gr.Column(scale=2, min_width=320):
            about = gr.HTML(NOTHING_CHOSEN, elem_id="about")
            with gr.Column(visible=False) as actions:
                mix = gr.Button("Mix with it", variant="primary")
                with gr.Row(elem_classes="tools"):
                    tool = gr.Dropdown(TOOLS, label="Export for", filterable=False, scale=3)
                    part = gr.Dropdown([WHOLE], label="Part", filterable=False, scale=2)
                    export = gr.Button("Download", min_width=110, scale=1)
                with gr.Row(elem_classes="tools"):
                    name = gr.Textbox(label="Name", max_lines=1, scale=3)
                    rename = gr.Button("Rename", min_width=110, scale=1)
                    delete = gr.Button("Delete", variant="stop", min_width=110, scale=1)
    with gr.Accordion("Bases", open=False):
        _bases(page)
    with gr.Accordion("Trash", open=False):
        trash = gr.HTML(js_on_load=CLICKED_ITEM, elem_id="trash")
        emptied = gr.Button("Empty the trash for good", size="sm", variant="stop")
    look = _Look(
        text, family, report, said, undo, grid, about, actions, mix, part, name, trash, *states
    )
    _wire_list(page, look)
    _wire_changes(space, look, upload, rename, delete, emptied)
    _wire_giving(page, look, tool, export)


def _wire_list(page: Page, look: _Look) -> None:
    """Looking: the list, the filter, the adapter that is chosen, and what trainings add."""
    space = page.space
    asked = [look.text, look.family, look.chosen]

    def fill(text: str, family: str, chosen: str) -> tuple:
        seen = library_version(space)  # before it is shown: what comes meanwhile is then news
        return _grid(space, text, family, chosen), seen, _trash(space)

    def choose(event: gr.EventData) -> tuple:
        name = str(event.name)
        return name, *_adapter(space, name)

    def freshen(text: str, family: str, chosen: str, seen: str) -> tuple:
        return fill(text, family, chosen) if library_version(space) != seen else (gr.skip(),) * 3

    filled = [look.grid, look.seen, look.trash]
    one = [look.about, look.actions, look.mix, look.part, look.name]
    # Also once one is chosen: a list that was asked for before does not show it as chosen.
    filtered = [look.text.change, look.family.change, look.chosen.change]
    gr.on(filtered, fill, asked, filled, trigger_mode="always_last", **IN_ORDER)
    look.grid.click(
        show_bad_input(choose), None, [look.chosen, *one], trigger_mode="multiple", **QUIET
    )
    news = tab_news("library")
    news.input(freshen, [*asked, look.seen], filled, trigger_mode="always_last", **IN_ORDER)


def _wire_changes(
    space: Workspace,
    look: _Look,
    upload: gr.UploadButton,
    rename: gr.Button,
    delete: gr.Button,
    emptied: gr.Button,
) -> None:
    """What changes the library: each says what it did, and then all is shown anew."""
    outcome = [look.chosen, look.deleted, look.said]

    def bring_in(files: list[str] | None, chosen: str) -> tuple:
        taken, refused = import_files(space, [Path(file) for file in files or []])
        added = [f"{one.name} is in the library" for one in taken]
        return taken[-1].name if taken else chosen, "", notices(added, refused)

    def call(name: str, new: str) -> tuple:
        found = rename_adapter(space, name, new.strip())
        return found.name, "", notices([f"{name} is now {found.name}"])

    def throw(name: str) -> tuple:
        return "", delete_adapter(space, name), notices([f"{name} is in the trash"])

    def fetch(deleted: str, chosen: str) -> tuple:
        found = restore(space, deleted)
        title = display_name(found)
        return (
            title if found.parent == space.adapters else chosen,
            "",
            notices([f"{title} is back"]),
        )

    def fetch_one(chosen: str, event: gr.EventData) -> tuple:
        return fetch(str(event.name), chosen)

    def clear(chosen: str) -> tuple:
        return chosen, "", notices([f"{empty_trash(space)} deleted for good"])

    done = [
        upload.upload(show_bad_input(bring_in), [upload, look.chosen], outcome, **SLOW),
        gr.on(
            [rename.click, look.name.submit],
            show_bad_input(call),
            [look.chosen, look.name],
            outcome,
            **QUIET,
        ),
        delete.click(show_bad_input(throw), look.chosen, outcome, **QUIET),
        look.undo.click(show_bad_input(fetch), [look.deleted, look.chosen], outcome, **QUIET),
        look.trash.click(show_bad_input(fetch_one), look.chosen, outcome, **QUIET),
        emptied.click(show_bad_input(clear), look.chosen, outcome, **QUIET),
    ]

    def show(text: str, family: str, chosen: str, deleted: str) -> tuple:
        seen = library_version(space)
        return (
            _grid(space, text, family, chosen),
            seen,
            _trash(space),
            gr.Row(visible=True),
            gr.Button(visible=bool(deleted)),
            *_adapter(space, chosen),
        )

    asked = [look.text, look.family, look.chosen, look.deleted]
    one = [look.about, look.actions, look.mix, look.part, look.name]
    shown = [look.grid, look.seen, look.trash, look.report, look.undo, *one]
    for event in done:
        event.success(show, asked, shown, trigger_mode="always_last", **IN_ORDER)


def _wire_giving(page: Page, look: _Look, tool: gr.Dropdown, export: gr.Button) -> None:
    """Giving the chosen adapter away: to Mix, and as a file."""
    link = gr.Textbox(visible=False)

    def export_it(name: str, to: str, part: str) -> str:
        half = "" if part == WHOLE else part
        return file_url(export_file(page.space, name, to=to, half=half))

    def mix_it(name: str) -> tuple:
        return [name], gr.Tabs(selected="mix")

    look.mix.click(mix_it, look.chosen, [page.adapters, page.tabs], **QUIET)
    given = export.click(show_bad_input(export_it), [look.chosen, tool, look.part], link, **SLOW)
    given.success(None, link, None, js=script("download.js"), **QUIET)


def _bases(page: Page) -> None:
    """The bases: those that are known, one more, one less."""
    space = page.space
    rows = gr.HTML(_known(space), js_on_load=CLICKED_ITEM, elem_id="bases")
    said = gr.HTML(visible=False)
    with gr.Row(elem_classes="tools"):
        source = gr.Textbox(
            label="Another base",
            info="A Hugging Face id, or a diffusers folder or .safetensors checkpoint on the "
            "machine that Studio runs on",
            placeholder="stabilityai/stable-diffusion-xl-base-1.0",
            max_lines=1,
            scale=4,
        )
        add = gr.Button("Add", min_width=110, scale=1)

    def take(source: str) -> tuple:
        try:
            if not source.strip():
                raise BadInput("Name the base that is to be added: an id, a folder or a file.")
            add_base(space, source.strip())
        except BadInput as error:
            return gr.skip(), gr.skip(), gr.HTML(notices([], [str(error)]), visible=True)
        return _known(space), "", gr.HTML(visible=False)

    def drop(event: gr.EventData) -> str:
        forget_base(space, str(event.name))
        return _known(space)

    gr.on([add.click, source.submit], take, source, [rows, source, said], **QUIET)
    rows.click(show_bad_input(drop), None, rows, **QUIET)
    page.tab.select(lambda: _known(space), None, rows, **QUIET)


def _adapter(space: Workspace, name: str) -> tuple:
    """The page of one adapter: what is known, what can be done, its halves, its name."""
    found = next((one for one in list_adapters(space) if one.name == name), None)
    if found is None:
        return NOTHING_CHOSEN, gr.Column(visible=False), gr.skip(), gr.skip(), ""
    facts = {} if found.problem else describe(found.path)
    parts = [WHOLE, *found.halves]
    part = gr.Dropdown(parts, value=WHOLE, visible=len(parts) > 1)
    mix = gr.Button(interactive=not found.problem)
    return details(found, facts), gr.Column(visible=True), mix, part, found.name


def _grid(space: Workspace, text: str, family: str, chosen: str) -> str:
    found = list_adapters(space)
    fit = matching(found, text=text or "", family=family)  # an empty box may say None
    return cards(fit, chosen=chosen) if fit else NOTHING_FITS if found else EMPTY


def _trash(space: Workspace) -> str:
    return trash_rows(list_trash(space))


def _known(space: Workspace) -> str:
    return base_rows(list_bases(space))
