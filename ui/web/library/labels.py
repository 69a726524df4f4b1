"""Edit the labels of an adapter: trigger words, tags, notes and the cover."""

from pathlib import Path

import gradio as gr
from gradio.events import Dependency

from studio.workspace import (
    AdapterFile,
    Workspace,
    add_upload,
    get_adapter,
    get_or_create_set,
    label_adapter,
)
from ui.web.frontend import notices
from ui.web.server.page import on

COVERS = "covers"  # the set of uploads in which covers are kept


class LabelEditor:
    """The widgets and their events. They show the selected adapter."""

    def __init__(self, space: Workspace, selected: gr.State) -> None:
        self._space, self._selected = space, selected
        with gr.Accordion("Notes, tags and cover", open=False):
            self._triggers = gr.Textbox(label="Trigger words", info="Separated by commas")
            self._tags = gr.Textbox(label="Tags", info="Separated by commas; Find finds them")
            self._notes = gr.Textbox(label="Notes", lines=3, max_lines=10)
            with gr.Row(elem_classes="tools"):
                self._save = gr.Button("Save", variant="primary", size="sm", min_width=90)
                self._cover = gr.UploadButton(
                    "Choose a cover", file_types=["image"], size="sm", min_width=130
                )
                self._own = gr.Button("Take the cover away", size="sm", min_width=130)
        self.shown = [self._triggers, self._tags, self._notes]

    def wire(self, report: gr.HTML) -> list[Dependency]:
        """Wire the events; returns those after which the adapter must be shown again."""
        chosen, uploaded = self._selected, [self._selected, self._cover]
        return [
            on(self._save.click, self._save_label, [chosen, *self.shown], report),
            # The last of several uploads must win, even if it comes while another is answered.
            on(self._cover.upload, self._take_cover, uploaded, report, mode="always_last"),
            on(self._own.click, self._own_cover, chosen, report),
        ]

    def values(self, adapter: AdapterFile) -> tuple[str, str, str]:
        """The values of `shown`."""
        return ", ".join(adapter.triggers), ", ".join(adapter.tags), adapter.notes

    def _save_label(self, name: str, triggers: str, tags: str, notes: str) -> str:
        before = get_adapter(self._space, name)
        changes: dict[str, object] = {"tags": _words(tags), "notes": notes.strip()}
        if _words(triggers) != before.triggers:
            changes["triggers"] = _words(triggers)
        label_adapter(self._space, name, **changes)
        return notices([f"{name} is saved"])

    def _take_cover(self, name: str, file: str) -> str:
        covers = get_or_create_set(self._space, COVERS)
        cover = add_upload(self._space, covers.name, Path(file))
        label_adapter(self._space, name, cover=f"uploads/{covers.name}/{cover.name}")
        return notices([f"{name} has a new cover"])

    def _own_cover(self, name: str) -> str:
        label_adapter(self._space, name, cover="")
        return notices([f"{name} has the cover of its file"])


def _words(text: str) -> tuple[str, ...]:
    """The phrases between commas, each once."""
    phrases = (" ".join(phrase.split()) for phrase in (text or "").split(","))
    return tuple(dict.fromkeys(filter(None, phrases)))
