"""The pictures of a training: dropped in, chosen again, captioned, taken out."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from studio.bases.info import read_base_info
from studio.errors import BadInput
from studio.workspace import (
    UploadSet,
    Workspace,
    delete_set,
    delete_upload,
    get_set,
    undelete,
    upload_thumbnail,
    write_caption,
)
from ui.web.server.page import QUIET, show_bad_input
from ui.web.train.crops import cuts, cuts_of
from ui.web.train.picture_sets import EXAMPLES, choices, take, take_examples

__all__ = ["EXAMPLES", "Pictures", "choices", "pictures", "take", "take_examples", "wire_pictures"]

EMPTY = (
    "Drop five pictures or more of one thing or in one style, or begin with an example. "
    "Captions may come along, as .txt files of the pictures' names."
)
How = tuple[str | None, str | None, bool]  # base, size and buckets as they stand in the form


@dataclass(frozen=True)
class Pictures:
    """The widgets. sets: its value is the name of the set, "" for a new one."""

    sets: gr.Dropdown
    remove_set: gr.Button
    drop: gr.File
    examples: dict[str, gr.Button]
    hint: gr.HTML
    note: gr.HTML
    gallery: gr.Gallery
    editor: gr.Group
    chosen: gr.Textbox
    caption: gr.Textbox
    remove: gr.Button
    undo: gr.Button
    gone: gr.Textbox
    cutting: gr.Accordion
    cuts: gr.HTML

    @property
    def shown(self) -> list[Component]:
        """What `_shown` gives values for."""
        parts = [self.gallery, self.editor, self.cutting, self.cuts]
        return [self.sets, self.remove_set, self.hint, *parts]


def pictures(space: Workspace) -> Pictures:
    """Lay them out."""
    sets = gr.Dropdown(
        choices(space), value="", label="Pictures", info="A set of yours, or a new one"
    )
    drop = gr.File(
        file_count="multiple",
        file_types=["image", ".txt"],
        label="Add pictures",
        height=120,
        elem_classes="studio-drop",
    )
    with gr.Row(elem_classes="studio-buttons"):
        examples = {
            name: gr.Button(f"Example: {words}", size="sm", min_width=120)
            for name, words in EXAMPLES.items()
        }
        remove_set = gr.Button("Remove this set", size="sm", min_width=120, visible=False)
    hint = gr.HTML(f'<p class="quiet">{EMPTY}</p>', padding=False)
    note = gr.HTML(padding=False, visible=False)
    gallery = gr.Gallery(
        show_label=False,
        columns=6,
        height="auto",
        object_fit="contain",
        allow_preview=False,
        interactive=False,
        buttons=[],
        visible=False,
        elem_classes="studio-thumbs",
    )
    with gr.Group(visible=False) as editor:
        chosen = gr.Textbox(visible=False)
        caption = gr.Textbox(
            label="Caption",
            info="What this picture shows, with the trigger; kept when you leave the field",
            lines=2,
        )
        remove = gr.Button("Remove this picture", size="sm")
    gone = gr.Textbox(visible=False)
    undo = gr.Button("Undo", size="sm", visible=False)
    with gr.Accordion("How they are cut", open=False, visible=False) as cutting:
        cut = gr.HTML(padding=False)
    return Pictures(
        sets,
        remove_set,
        drop,
        examples,
        hint,
        note,
        gallery,
        editor,
        chosen,
        caption,
        remove,
        undo,
        gone,
        cutting,
        cut,
    )


def wire_pictures(
    space: Workspace,
    own: Pictures,
    trigger: gr.Textbox,
    base: gr.Dropdown,
    cutting: dict[str, Component],
) -> None:
    """Let them do what they say. cutting: the fields of Recipe that say how pictures are cut."""
    how = [base, cutting["size"], cutting["buckets"]]

    @show_bad_input
    def show(name: str, base: str | None, size: str | None, buckets: bool) -> list[Any]:
        return _shown(space, name, (base, size, buckets))

    @show_bad_input
    def put_back(name: str, gone: str) -> tuple[Any, Any]:
        place = undelete(space, gone)
        back = place.name if place.is_dir() else name
        return gr.Dropdown(choices(space), value=back), gr.Button(visible=False)

    again = {"fn": show, "inputs": [own.sets, *how], "outputs": own.shown, **QUIET}
    gr.on(
        [own.sets.input, base.change, cutting["size"].blur, cutting["buckets"].input],  # pyright: ignore
        **again,
        trigger_mode="always_last",
    )
    gr.on(None, lambda: gr.Dropdown(choices(space)), None, own.sets, **QUIET)
    undone = own.undo.click(put_back, [own.sets, own.gone], [own.sets, own.undo], **QUIET)
    for changed in (undone, *_wire_sets(space, own, trigger), _wire_picture(space, own)):
        changed.success(**again)


def _wire_sets(space: Workspace, own: Pictures, trigger: gr.Textbox) -> list[Dependency]:
    """Filling sets and removing them; after each of these events all is shown again."""

    def choose(name: str) -> Any:
        return gr.Dropdown(choices(space), value=name)

    @show_bad_input
    def dropped(name: str, files: list[str] | None, words: str | None) -> tuple[Any, Any, None]:
        name, left_out = take(space, name, files or [], otherwise=words or "")
        return choose(name), gr.HTML(_note(left_out), visible=bool(left_out)), None

    @show_bad_input
    def example(which: str) -> tuple[Any, str, Any]:
        return choose(take_examples(space, which)), EXAMPLES[which], gr.HTML(visible=False)

    @show_bad_input
    def remove_set(name: str) -> tuple[str, str, Any]:
        return "", delete_set(space, name), gr.Button(f"Undo: put {name} back", visible=True)

    given, filled = [own.sets, own.drop, trigger], [own.sets, own.note, own.drop]
    begun = [own.sets, trigger, own.note]
    return [
        own.drop.upload(dropped, given, filled, api_visibility="private"),
        own.remove_set.click(remove_set, own.sets, [own.sets, own.gone, own.undo], **QUIET),
        *(
            button.click(partial(example, name), None, begun, **QUIET)
            for name, button in own.examples.items()
        ),
    ]


def _wire_picture(space: Workspace, own: Pictures) -> Dependency:
    """Choosing a picture and its caption; returns its removal, after which all is shown again."""

    @show_bad_input
    def edit(name: str, picked: gr.SelectData) -> tuple[Any, str, Any]:
        there = get_set(space, name).pictures
        if picked.index >= len(there):
            raise BadInput("that picture is no longer there: choose the set again")
        picture = there[picked.index]
        return (
            gr.Group(visible=True),
            picture.name,
            gr.Textbox(picture.caption, label=f"Caption of {picture.name}"),
        )

    @show_bad_input
    def write(name: str, chosen: str, text: str) -> Any:
        if not (name and chosen):
            return gr.skip()
        write_caption(space, name, chosen, text)
        return gr.Gallery(_gallery(space, get_set(space, name)))

    @show_bad_input
    def remove(name: str, chosen: str) -> tuple[str, Any]:
        gone = delete_upload(space, name, chosen)
        return gone, gr.Button(f"Undo: put {chosen} back", visible=True)

    own.gallery.select(edit, own.sets, [own.editor, own.chosen, own.caption], **QUIET)
    written = [own.caption.blur, own.caption.submit]
    gr.on(written, write, [own.sets, own.chosen, own.caption], own.gallery, **QUIET)
    return own.remove.click(remove, [own.sets, own.chosen], [own.gone, own.undo], **QUIET)


def _shown(space: Workspace, name: str, how: How) -> list[Any]:
    """The set as it is now: sets, its thumbnails, and how they are cut."""
    known = choices(space)
    if name not in dict(known).values():
        name = ""
    one = get_set(space, name) if name else None
    gallery = _gallery(space, one) if one else []
    there = bool(gallery)
    cut = _cut(space, one, how) if one and there else ""
    return [
        gr.Dropdown(known, value=name),
        gr.Button(visible=bool(name)),
        gr.HTML(visible=not there),
        gr.Gallery(gallery, visible=there),
        gr.Group(visible=False),
        gr.Accordion(visible=there),
        cut,
    ]


def _gallery(space: Workspace, one: UploadSet) -> list[tuple[str, str]]:
    return [(str(upload_thumbnail(space, one.name, p.name)), p.caption) for p in one.pictures]


def _cut(space: Workspace, one: UploadSet, how: How) -> str:
    base, size, buckets = how
    small = {p.name: upload_thumbnail(space, one.name, p.name) for p in one.pictures}
    try:
        known = read_base_info(base or "")
    except BadInput as error:
        return f'<p class="quiet">{escape(str(error))}</p>'
    if known is None:
        return '<p class="quiet">Known once the base is downloaded.</p>'
    asked = (size or "").strip() or str(known.size)
    side = int(asked) if asked.isdecimal() else 0
    if side < known.step or side % known.step:
        return f'<p class="quiet">The size needs to be a multiple of {known.step}.</p>'
    return cuts(cuts_of(one, size=side, step=known.step, buckets=buckets), small)


def _note(left_out: Sequence[str]) -> str:
    """What was left out, and why."""
    items = "".join(f"<li>{escape(one)}</li>" for one in left_out)
    return f'<div role="alert" class="studio-left-out">Left out:<ul>{items}</ul></div>'
