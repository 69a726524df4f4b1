"""The pictures of a training: drop them in, choose a set, edit captions, remove pictures."""

from functools import partial
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from studio.bases.info import read_base_info
from studio.errors import BadInput
from studio.picture.formats import ENDINGS
from studio.workspace import (
    UploadSet,
    Workspace,
    delete_set,
    delete_upload,
    get_set,
    undelete,
    upload_thumbnail,
)
from ui.web.frontend import paragraph, sentence, template
from ui.web.server.page import on
from ui.web.train.dataset.captions import CaptionPanel, Drafts
from ui.web.train.dataset.crops import crop_preview, crops_of
from ui.web.train.dataset.picture_sets import EXAMPLES, add_example, add_files, set_choices

EMPTY = (
    "Drop in five or more pictures of one subject or one style, or take an example. A .txt file "
    "with the name of a picture is its caption."
)
# The files that a browser offers to add. It knows a picture by its type or by its ending.
DROPPED = ["image", *sorted(ENDINGS), ".txt", ".caption", ".csv", ".jsonl"]


class PicturePanel:
    """The widgets and their events. sets: its value is the name of the set, "" for a new one."""

    def __init__(self, space: Workspace) -> None:
        self._space = space
        self._lay_out_sets()
        self._lay_out_pictures()

    def wire(
        self,
        trigger: gr.Textbox,
        base: gr.Dropdown,
        recipe: dict[str, Component],
        example: gr.State,
    ) -> None:
        """Wire the events.

        recipe: widgets by fields of Recipe, of which `size` and `buckets` decide the crops.
        example: a state in which another tab names the example pictures to take.
        """
        size, buckets = recipe["size"], recipe["buckets"]
        crops = [self.preview, self.crops]
        self._showing: dict[str, Any] = {
            "handler": self._show,
            "inputs": [self.sets, self.captions.drafts, base, size, buckets],
            "outputs": [self.sets, self.remove_set, self.hint, *self.captions.shown, *crops],
            "mode": "always_last",
        }
        changed = [self.sets.input, base.change, size.blur, buckets.input]  # pyright: ignore
        on(changed, **self._showing)
        on(None, self._choices, None, self.sets)
        undone = on(self.undo.click, self._undo, [self.sets, self.deleted], [self.sets, self.undo])
        removal = [self.deleted, self.undo]
        removed = on(self.captions.rows.click, self._remove, self.sets, removal)
        for event in (undone, removed, *self._wire_sets(trigger, example)):
            self.show_after(event)
        self.captions.wire(self.sets, trigger)

    def show_after(self, event: Dependency) -> None:
        """Show the chosen set again after an event that may have changed it."""
        on(event.success, **self._showing)

    def _lay_out_sets(self) -> None:
        self.sets = gr.Dropdown(
            set_choices(self._space),
            value="",
            label="Pictures",
            info="One of your sets, or a new one",
        )
        self.drop = gr.File(
            file_count="multiple",
            file_types=DROPPED,
            label="Add pictures",
            height=120,
            elem_classes="studio-drop",
        )
        with gr.Row(elem_classes="studio-buttons"):
            self.examples = {
                name: gr.Button(f"Example: {words}", size="sm", min_width=120)
                for name, words in EXAMPLES.items()
            }
            self.remove_set = gr.Button("Remove this set", size="sm", min_width=120, visible=False)
        self.hint = gr.HTML(paragraph(EMPTY), padding=False)
        self.note = gr.HTML(padding=False, visible=False)

    def _lay_out_pictures(self) -> None:
        self.deleted = gr.State("")
        self.captions = CaptionPanel(self._space)
        self.undo = gr.Button("Undo", size="sm", visible=False)
        with gr.Accordion("Crop preview", open=False, visible=False) as self.preview:
            self.crops = gr.HTML(padding=False)

    def _wire_sets(self, trigger: gr.Textbox, example: gr.State) -> list[Dependency]:
        """Wire the events that fill or remove a set; returns them."""
        filled = [self.sets, self.note, self.drop]
        started = [self.sets, trigger, self.note]
        removed = [self.sets, self.deleted, self.undo]
        return [
            on(
                self.drop.upload,
                self._add,
                [self.sets, self.drop, trigger],
                filled,
                progress="full",
                mode="multiple",
                queue="uploads",
            ),
            on(self.remove_set.click, self._remove_set, self.sets, removed),
            on(example.change, self._add_example, example, started),
            *(
                on(button.click, partial(self._add_example, name), None, started)
                for name, button in self.examples.items()
            ),
        ]

    def _choices(self, name: str | None = None) -> Any:
        choices = set_choices(self._space)
        return gr.Dropdown(choices) if name is None else gr.Dropdown(choices, value=name)

    def _add(self, name: str, files: list[str] | None, trigger: str | None) -> tuple:
        name, left_out = add_files(self._space, name, files or [], new_name=trigger or "")
        note = template("train/left_out.html").render(reasons=left_out)
        return self._choices(name), gr.HTML(note, visible=bool(left_out)), None

    def _add_example(self, example: str) -> tuple:
        name = add_example(self._space, example)
        return self._choices(name), EXAMPLES[example], gr.HTML(visible=False)

    def _remove_set(self, name: str) -> tuple:
        return "", delete_set(self._space, name), _undo_button(name)

    def _remove(self, name: str, event: gr.EventData) -> tuple:
        picture = str(event.name)
        return delete_upload(self._space, name, picture), _undo_button(picture)

    def _undo(self, name: str, deleted: str) -> tuple:
        restored = undelete(self._space, deleted)
        is_set = restored.is_dir()
        return self._choices(restored.name if is_set else name), gr.Button(visible=False)

    def _show(
        self, name: str, drafts: Drafts, base: str | None, size: str | None, buckets: bool
    ) -> tuple:
        """Show the set as it is now: its pictures with their captions, and their crops."""
        choices = set_choices(self._space)
        # The value is only sent if its set is gone: the user may choose another set meanwhile.
        gone = name not in dict(choices).values()
        name = "" if gone else name
        pictures = get_set(self._space, name) if name else None
        some = bool(pictures and pictures.pictures)
        crops = self._crop_preview(pictures, base, size, buckets) if pictures and some else ""
        return (
            gr.Dropdown(choices, value="") if gone else gr.Dropdown(choices),
            gr.Button(visible=bool(name)),
            gr.HTML(visible=not some),
            *self.captions.show(name, drafts),
            gr.Accordion(visible=some),
            crops,
        )

    def _crop_preview(
        self, pictures: UploadSet, base: str | None, size: str | None, buckets: bool
    ) -> str:
        try:
            info = read_base_info(base or "")
        except BadInput as error:
            return paragraph(sentence(str(error)))
        if info is None:
            return paragraph("The crops are shown once the base is downloaded.")
        text = (size or "").strip() or str(info.size)
        side = int(text) if text.isdecimal() else 0
        if side < info.step or side % info.step:
            return paragraph(f"The size must be a multiple of {info.step}.")
        thumbnails = {
            picture.name: upload_thumbnail(self._space, pictures.name, picture.name)
            for picture in pictures.pictures
        }
        crops = crops_of(pictures, size=side, step=info.step, buckets=buckets)
        return crop_preview(crops, thumbnails)


def _undo_button(name: str) -> gr.Button:
    return gr.Button(f"Undo: restore {name}", visible=True)
