"""The tab Library: look at adapters, import and export them; the bases; the trash."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from studio.adapters.describe import describe
from studio.files import display_name
from studio.workspace import (
    delete_adapter,
    empty_trash,
    get_adapter,
    label_adapter,
    list_adapters,
    list_trash,
    rename_adapter,
)
from ui.web.first_run import first_run
from ui.web.frontend import MARKED, UNMARKED, notices, script
from ui.web.library.bases import lay_out_bases
from ui.web.library.cards import cards, details, matching, trash_rows
from ui.web.library.import_export import export_file, import_files, restore
from ui.web.library.labels import LabelEditor
from ui.web.server.downloads import file_url
from ui.web.server.page import Page, on
from ui.web.server.polling import tab_news

FAMILIES = [("Any base", ""), ("SDXL, sketch", "sdxl"), ("SD 1", "sd1"), ("SD 2", "sd2")]
TOOLS = [
    ("Studio, as it is", "studio"),
    ("kohya, for A1111, ComfyUI, Forge", "kohya"),
    ("diffusers", "diffusers"),
    ("LyCORIS", "lycoris"),
    ("OneTrainer", "onetrainer"),
]
WHOLE = "both halves"
SELECTED = 4  # the place of `selected` in `_filter`
EMPTY = (
    '<div class="empty"><b>No adapters yet.</b> Train one in Train, or import '
    ".safetensors files that Studio, kohya, diffusers or LyCORIS wrote.</div>"
)
NO_MATCH = '<div class="empty">No adapter fits this filter.</div>'
NONE_SELECTED = '<div class="empty">Select an adapter to see its details.</div>'
CLICKED_ITEM = script("clicked_item.js")
IN_ORDER: Any = {"mode": "always_last", "queue": "library"}
IMPORTS: Any = {"mode": "multiple", "queue": "imports", "progress": "minimal"}


def library_tab(page: Page) -> None:
    """Lay the tab out and wire its events."""
    library = _Library(page)
    library.wire_list()
    library.wire_changes()
    library.wire_selected()


class _Library:
    """The widgets and their events.

    States: selected: the name of the adapter whose details are shown, or "". picked: the names of
    adapters while several are selected. deleted: ids in the trash of what was deleted last.
    """

    def __init__(self, page: Page) -> None:
        self._page, self._space = page, page.space
        self._selected, self._deleted, self._picked = gr.State(""), gr.State(()), gr.State(())
        with gr.Row(equal_height=False, elem_classes="columns"):
            with gr.Column(scale=3, min_width=320):
                self._lay_out_list()
            with gr.Column(
                scale=2, min_width=320, elem_classes="studio-panel", elem_id="library-details"
            ):
                self._lay_out_details()
        with gr.Accordion("Bases", open=False):
            lay_out_bases(page)
        with gr.Accordion("Trash", open=False):
            self._trash = gr.HTML(js_on_load=CLICKED_ITEM, elem_id="trash")
            self._empty = gr.Button("Empty the trash for good", size="sm", variant="stop")
        filters = [self._text, self._family, self._favourites, self._several]
        self._filter = [*filters, self._selected, self._picked]
        self._listed = [self._grid, self._trash]
        actions = [self._actions, self._mix, self._part, self._name, self._star]
        self._details = [self._about, *actions, *self._labels.shown]

    def _lay_out_list(self) -> None:
        with gr.Row(elem_classes="tools"):
            self._text = gr.Textbox(
                "", label="Find", placeholder="name, trigger word, type", scale=3
            )
            self._family = gr.Dropdown(
                FAMILIES, value="", label="Works with", filterable=False, scale=2
            )
            self._upload = gr.UploadButton("Import", file_count="multiple", min_width=110, scale=1)
        with gr.Row(elem_classes="tools"):
            self._favourites = gr.Checkbox(False, label="Only favourites", min_width=140)
            self._several = gr.Checkbox(False, label="Select several", min_width=140)
        with gr.Row(visible=False, elem_classes="tools") as self._bulk:
            self._star_picked = gr.Button("★ Make favourites", size="sm", min_width=110)
            self._delete_picked = gr.Button("Delete", size="sm", variant="stop", min_width=110)
        with gr.Row(visible=False, elem_classes="tools") as self._report:
            self._notices = gr.HTML(elem_classes="notices", min_width=160, scale=4)
            self._undo = gr.Button("Undo", size="sm", min_width=110, scale=1)
        self._grid = gr.HTML(js_on_load=CLICKED_ITEM + script("library.js"), elem_id="library")
        first_run(self._page)

    def _lay_out_details(self) -> None:
        self._about = gr.HTML(NONE_SELECTED, elem_id="about")
        with gr.Column(visible=False) as self._actions:
            with gr.Row(elem_classes="tools"):
                self._mix = gr.Button("Mix with it", variant="primary", scale=3)
                self._star = gr.Button(UNMARKED, min_width=130, scale=1)
            with gr.Row(elem_classes="tools"):
                self._tool = gr.Dropdown(TOOLS, label="Export for", filterable=False, scale=3)
                self._part = gr.Dropdown([WHOLE], label="Part", filterable=False, scale=2)
                self._export = gr.Button("Download", min_width=110, scale=1)
            with gr.Row(elem_classes="tools"):
                self._name = gr.Textbox(label="Name", max_lines=1, scale=3)
                self._rename = gr.Button("Rename", min_width=110, scale=1)
                self._delete = gr.Button("Delete", variant="stop", min_width=110, scale=1)
            self._labels = LabelEditor(self._space, self._selected)

    def wire_list(self) -> None:
        """Wire the list: filter it, select in it, and renew it at news such as a new adapter."""
        # Also after a selection: an answer to an earlier event shows the list without it.
        filtered = [tab_news("library").input, *(each.change for each in self._filter)]
        on(filtered, self._list, self._filter, self._listed, **IN_ORDER)
        chosen = [self._several, self._selected, self._picked]
        shown = [self._selected, self._picked, *self._details]
        on(self._grid.click, self._select, chosen, shown, mode="multiple", queue="selection")
        bulk = [self._picked, self._bulk, self._delete_picked]
        on([self._several.input, self._picked.change], self._offer_bulk, chosen, bulk)

    def wire_changes(self) -> None:
        """Wire the events that change the library. Each says what it did; then all is renewed."""
        outcome = [self._selected, self._deleted, self._notices]
        uploaded, renamed = [self._upload, self._selected], [self._selected, self._name]
        picked = [self._picked, self._selected]
        told = [self._report, self._undo, self._notices]
        on(self._upload.upload, _tell_reading, None, told, mode="multiple")
        changes = [
            on(self._upload.upload, self._import_files, uploaded, outcome, **IMPORTS),
            on([self._rename.click, self._name.submit], self._rename_adapter, renamed, outcome),
            on(self._delete.click, self._delete_adapter, self._selected, outcome),
            on(self._delete_picked.click, self._delete_all, picked, [*outcome, self._picked]),
            on(self._star.click, self._toggle, self._selected, self._notices),
            on(self._star_picked.click, self._mark_all, self._picked, self._notices),
            *self._labels.wire(self._notices),
            on(self._undo.click, self._restore, [self._deleted, self._selected], outcome),
            on(self._trash.click, self._restore_clicked, self._selected, outcome),
            on(self._empty.click, self._empty_trash, self._selected, outcome),
        ]
        asked = [*self._filter, self._deleted]
        shown = [self._report, self._undo, *self._listed, *self._details]
        for change in changes:
            on(change.success, self._show, asked, shown, **IN_ORDER)

    def wire_selected(self) -> None:
        """Wire the buttons that send the selected adapter to Mix, and that export it."""
        page, url = self._page, gr.Textbox(visible=False)
        on(self._mix.click, self._mix_with, self._selected, [page.adapters, page.tabs])
        chosen = [self._selected, self._tool, self._part]
        exported = on(self._export.click, self._export_file, chosen, url, progress="minimal")
        on(exported.success, None, url, js=script("download.js"))

    def _list(self, *asked: Any) -> tuple:
        """asked: the values of `_filter`."""
        text, family, favourites, several, selected, picked = asked
        adapters = list_adapters(self._space)
        listed = matching(adapters, text=text or "", family=family)  # an empty box may be None
        listed = [adapter for adapter in listed if adapter.favourite or not favourites]
        chosen = set(picked) if several else {selected}
        grid = cards(listed, chosen=chosen) if listed else NO_MATCH if adapters else EMPTY
        return grid, trash_rows(list_trash(self._space))

    def _show(self, *asked: Any) -> tuple:
        *filtered, deleted = asked
        return (
            gr.Row(visible=True),
            gr.Button(visible=bool(deleted)),
            *self._list(*filtered),
            *self._adapter(filtered[SELECTED]),
        )

    def _select(
        self, several: bool, selected: str, picked: tuple[str, ...], event: gr.EventData
    ) -> tuple:
        name = str(event.name)
        if not several:
            return name, (), *self._adapter(name)
        rest = tuple(other for other in picked if other != name)
        toggled = (*picked, name) if rest == picked else rest
        return selected, toggled, *(gr.skip() for _ in self._details)

    def _offer_bulk(self, several: bool, selected: str, picked: tuple[str, ...]) -> tuple:
        """The actions on several adapters, which are hidden while none is picked."""
        picked = picked if several else ()
        return picked, gr.Row(visible=bool(picked)), gr.Button(f"Delete {len(picked)}")

    def _adapter(self, name: str) -> tuple:
        """The values of `_details` for an adapter."""
        adapters = {adapter.name: adapter for adapter in list_adapters(self._space)}
        if name not in adapters:
            return NONE_SELECTED, gr.Column(visible=False), *(gr.skip(),) * 2, "", *(gr.skip(),) * 4
        adapter = adapters[name]
        parts = [WHOLE, *adapter.halves]
        return (
            details(adapter, {} if adapter.problem else describe(adapter.path)),
            gr.Column(visible=True),
            gr.Button(interactive=not adapter.problem),
            gr.Dropdown(parts, value=WHOLE, visible=len(parts) > 1),
            name,
            MARKED if adapter.favourite else UNMARKED,
            *self._labels.values(adapter),
        )

    def _import_files(self, files: list[str] | None, selected: str) -> tuple:
        imported, refused = import_files(self._space, [Path(file) for file in files or []])
        added = [f"{adapter.name} is in the library" for adapter in imported]
        return imported[-1].name if imported else selected, (), notices(added, refused)

    def _rename_adapter(self, name: str, new: str) -> tuple:
        renamed = rename_adapter(self._space, name, new.strip())
        return renamed.name, (), notices([f"{name} is now {renamed.name}"])

    def _delete_adapter(self, name: str) -> tuple:
        return "", (delete_adapter(self._space, name),), notices([f"{name} is in the trash"])

    def _delete_all(self, picked: tuple[str, ...], selected: str) -> tuple:
        existing = {adapter.name for adapter in list_adapters(self._space)}
        names = [name for name in picked if name in existing]
        deleted = tuple(delete_adapter(self._space, name) for name in names)
        report = notices([f"{name} is in the trash" for name in names])
        return "" if selected in names else selected, deleted, report, ()

    def _toggle(self, name: str) -> str:
        marked = not get_adapter(self._space, name).favourite
        label_adapter(self._space, name, favourite=marked)
        return notices([f"{name} is {'' if marked else 'no longer '}a favourite"])

    def _mark_all(self, picked: tuple[str, ...]) -> str:
        for name in picked:
            label_adapter(self._space, name, favourite=True)
        return notices([f"{name} is a favourite" for name in picked])

    def _restore(self, deleted: Sequence[str], selected: str) -> tuple:
        paths = [restore(self._space, id) for id in deleted]
        names = [display_name(path) for path in paths]
        if len(paths) == 1 and paths[0].parent == self._space.adapters:
            selected = names[0]
        return selected, (), notices([f"{name} is restored" for name in names])

    def _restore_clicked(self, selected: str, event: gr.EventData) -> tuple:
        return self._restore([str(event.name)], selected)

    def _empty_trash(self, selected: str) -> tuple:
        return selected, (), notices([f"{empty_trash(self._space)} deleted for good"])

    def _mix_with(self, name: str) -> tuple[list[str], gr.Tabs]:
        return [name], gr.Tabs(selected="mix")

    def _export_file(self, name: str, tool: str, part: str) -> str:
        half = "" if part == WHOLE else part
        return file_url(export_file(self._space, name, to=tool, half=half))


def _tell_reading() -> tuple[gr.Row, gr.Button, str]:
    """Say at once that files are being read; an import takes its time."""
    return gr.Row(visible=True), gr.Button(visible=False), notices(["Reading the files"])
