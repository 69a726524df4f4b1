"""The captions of a set as a table. They are edited one by one or all at once, and then saved."""

import secrets
from collections.abc import Mapping
from typing import Any

import gradio as gr
from gradio.events import Dependency

from studio.dataset.caption_edits import CaptionEdit
from studio.dataset.captions import tidy
from studio.workspace import UploadSet, Workspace, get_set, save_captions, upload_thumbnail
from ui.web.frontend import paragraph, script, template
from ui.web.server.page import on
from ui.web.train.dataset.captioner import CaptionerForm, Written

Drafts = dict[str, dict[str, str]]  # captions that are not saved yet, by set and picture
IN_ORDER = "captions"


class CaptionPanel:
    """The widgets and their events.

    rows: the table; its `click` carries the name of a picture to remove. drafts: a state with
    the captions that are not saved yet.
    """

    def __init__(self, space: Workspace) -> None:
        self._space = space
        self.drafts = gr.State({})
        scripts = script("clicked_item.js") + script("captions.js")
        self.rows = gr.HTML(js_on_load=scripts, padding=False, visible=False, elem_id="captions")
        with gr.Row(elem_classes="tools", visible=False) as self._unsaved:
            self._count = gr.HTML(padding=False, min_width=200)
            self._save = gr.Button("Save captions", variant="primary", size="sm", min_width=130)
            self._discard = gr.Button("Discard changes", size="sm", min_width=130)
        with gr.Accordion("Edit all captions", open=False, visible=False) as self._all:
            with gr.Row():
                self._edit = [
                    gr.Textbox(label=label, placeholder=example, min_width=200)
                    for label, example in (
                        ("Find", "red"),
                        ("Replace with", "crimson"),
                        ("Put before", "photo of"),
                        ("Put behind", ", white background"),
                    )
                ]
            with gr.Row():
                self._apply = gr.Button("Change all captions", size="sm", min_width=160)
                self._trigger = gr.Button("Add trigger words to all", size="sm", min_width=160)
        with gr.Accordion("Have captions written", open=False, visible=False) as self._auto:
            self._captioner = CaptionerForm(space)
        self.shown = [self.rows, self._unsaved, self._count, self._all, self._auto]

    def wire(self, sets: gr.Dropdown, trigger: gr.Textbox) -> None:
        """Wire the events. sets: its value is the name of the set."""
        drafts, both = self.drafts, [sets, self.drafts]
        on(
            self.rows.input,
            self._type,
            both,
            [drafts, self._unsaved, self._count],
            mode="multiple",
            queue=IN_ORDER,
        )
        changes: list[Dependency] = [
            on(self._apply.click, self._change_all, [*both, *self._edit], drafts, queue=IN_ORDER),
            on(self._trigger.click, self._add_trigger, [*both, trigger], drafts, queue=IN_ORDER),
            on(self._save.click, self._save_all, both, drafts, queue=IN_ORDER),
            on(self._discard.click, self._discard_all, both, drafts, queue=IN_ORDER),
        ]
        written = self._captioner.wire(self._auto, sets, drafts)
        taken = [self._captioner.written, drafts]
        changes.append(on(written.success, self._take_written, taken, drafts, queue=IN_ORDER))
        for change in changes:
            on(change.success, self.show, both, self.shown, mode="always_last", queue=IN_ORDER)

    def show(self, name: str, drafts: Drafts) -> tuple[Any, ...]:
        """The values of `shown` for a set."""
        pictures = get_set(self._space, name) if name else None
        some = bool(pictures and pictures.pictures)
        if pictures:
            drafts = self._changed(name, drafts, {})  # drops drafts of pictures that were removed
        rows = captions_html(self._space, pictures, drafts[name]) if pictures else ""
        accordions = (gr.Accordion(visible=some),) * 2
        return gr.HTML(rows, visible=some), *_unsaved(name, drafts), *accordions

    def _type(self, name: str, drafts: Drafts, event: gr.EventData) -> tuple[Any, ...]:
        changed = self._changed(name, drafts, {str(event.name): str(event.text)})
        return changed, *_unsaved(name, changed)

    def _change_all(self, name: str, drafts: Drafts, *words: str) -> Drafts:
        find, replace, prefix, suffix = (word or "" for word in words)
        edit = CaptionEdit(find=find, replace=replace, prefix=prefix, suffix=suffix)
        return self._apply_to_all(name, drafts, edit)

    def _add_trigger(self, name: str, drafts: Drafts, trigger: str) -> Drafts:
        return self._apply_to_all(name, drafts, CaptionEdit(trigger=trigger or ""))

    def _apply_to_all(self, name: str, drafts: Drafts, edit: CaptionEdit) -> Drafts:
        captions = {each.name: each.caption for each in get_set(self._space, name).pictures}
        captions |= drafts.get(name, {})
        edited = {picture: edit.apply(text) for picture, text in captions.items()}
        return self._changed(name, drafts, edited)

    def _changed(self, name: str, drafts: Drafts, texts: Mapping[str, str]) -> Drafts:
        """The drafts with these texts, by picture. A text equal to the saved one is no draft."""
        saved = {each.name: each.caption for each in get_set(self._space, name).pictures}
        tidied = {picture: tidy(text) for picture, text in texts.items()}
        both = {**drafts.get(name, {}), **tidied}
        return drafts | {name: {n: text for n, text in both.items() if saved.get(n, text) != text}}

    def _take_written(self, written: Written, drafts: Drafts) -> Drafts:
        for name, texts in written.items():
            drafts = self._changed(name, drafts, texts)
        return drafts

    def _save_all(self, name: str, drafts: Drafts) -> Drafts:
        save_captions(self._space, name, self._changed(name, drafts, {})[name])
        return drafts | {name: {}}

    def _discard_all(self, name: str, drafts: Drafts) -> Drafts:
        return drafts | {name: {}}


def captions_html(space: Workspace, pictures: UploadSet, drafts: Mapping[str, str]) -> str:
    """The pictures of a set with their captions, as HTML. drafts: by picture."""
    names = [picture.name for picture in pictures.pictures]
    thumbnails = {name: upload_thumbnail(space, pictures.name, name) for name in names}
    return template("train/captions.html").render(
        pictures=pictures.pictures,
        thumbnails=thumbnails,
        drafts=drafts,
        version=secrets.token_hex(4),
    )


def _unsaved(name: str, drafts: Drafts) -> tuple[gr.Row, str]:
    count = len(drafts.get(name, {}))
    captions = f"{count} captions are" if count > 1 else "1 caption is"
    note = f"{captions} changed but not saved: trainings use the saved captions."
    return gr.Row(visible=bool(count)), paragraph(note)
