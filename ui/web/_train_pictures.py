"""The pictures of a training: dropped in, chosen again, captioned, taken out."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from studio.errors import BadInput
from studio.outline import outline
from studio.workspace import (
    UploadSet,
    Workspace,
    add_upload,
    clean_name,
    delete_set,
    delete_upload,
    get_set,
    list_sets,
    new_set,
    small_upload,
    undelete,
    write_caption,
)
from ui.web._cuts import cuts, cuts_of
from ui.web._page import told

__all__ = ["EXAMPLES", "Pictures", "choices", "pictures", "take", "take_examples", "wire_pictures"]

ASSETS = Path(__file__).resolve().parents[2] / "assets" / "examples"
EXAMPLES = {"robot": "sks robot", "ink": "ink style"}  # folders, with what they are to be called
EMPTY = (
    "Drop five pictures or more of one thing or in one style, or begin with an example. "
    "Captions may come along, as .txt files of the pictures' names."
)


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


def choices(space: Workspace) -> list[tuple[str, str]]:
    """What there is to choose from: the label and the name of every set, and a new one."""
    found = [(f"{one.name} · {_count(one)}", one.name) for one in list_sets(space)]
    return [*found, ("A new set", "")]


def take(
    space: Workspace, name: str, files: Sequence[str | Path], *, otherwise: str
) -> tuple[str, list[str]]:
    """Put files into a set, or into a new one where the name is empty.

    Text files are captions of the pictures of the same name. otherwise: what to call a new set.
    Returns the set's name and why files were left out, a sentence each.
    """
    paths = [Path(file) for file in files]
    captions = {path.stem: path for path in paths if path.suffix.lower() == ".txt"}
    added, left_out = {}, []
    for path in paths:
        if path.suffix.lower() == ".txt":
            continue
        try:
            name = name or new_set(space, clean_name(otherwise, otherwise="pictures")).name
            added[path.stem] = add_upload(space, name, path).name
        except BadInput as error:
            left_out.append(str(error))
    for stem, path in captions.items():
        if stem not in added:
            left_out.append(f"{path.name} is no picture, and none of that name came with it")
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        write_caption(space, name, added[stem], text)
    return name, left_out


def take_examples(space: Workspace, example: str) -> str:
    """The name of a set that holds an example's pictures, made where there is none."""
    folder = ASSETS / example
    wanted = [path for path in sorted(folder.glob("*")) if path.suffix in (".png", ".txt")]
    if not wanted:
        raise BadInput(
            f"the example pictures {folder} are not there: `python -m studio.sketch.examples` "
            "draws them"
        )
    pictures = {path.name for path in wanted if path.suffix == ".png"}
    for one in list_sets(space):
        if one.name == example and {picture.name for picture in one.pictures} == pictures:
            return example
    return take(space, "", wanted, otherwise=example)[0]


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

    def show(name: str, *how: Any) -> list[Any]:
        return _shown(space, name, *how)

    def choose(name: str) -> Any:
        return gr.Dropdown(choices(space), value=name)

    @told
    def dropped(name: str, files: list[str] | None, words: str | None) -> tuple[Any, Any, None]:
        name, left_out = take(space, name, files or [], otherwise=words or "")
        return choose(name), gr.HTML(_note(left_out), visible=bool(left_out)), None

    @told
    def example(which: str) -> tuple[Any, str, Any]:
        return choose(take_examples(space, which)), EXAMPLES[which], gr.HTML(visible=False)

    @told
    def remove_set(name: str) -> tuple[str, str, Any]:
        return "", delete_set(space, name), gr.Button(f"Undo: put {name} back", visible=True)

    @told
    def remove(name: str, chosen: str) -> tuple[str, Any]:
        gone = delete_upload(space, name, chosen)
        return gone, gr.Button(f"Undo: put {chosen} back", visible=True)

    @told
    def put_back(name: str, gone: str) -> tuple[Any, Any]:
        place = undelete(space, gone)
        return choose(place.name if place.is_dir() else name), gr.Button(visible=False)

    @told
    def edit(name: str, picked: gr.SelectData) -> tuple[Any, str, Any]:
        picture = get_set(space, name).pictures[picked.index]
        return (
            gr.Group(visible=True),
            picture.name,
            gr.Textbox(picture.caption, label=f"Caption of {picture.name}"),
        )

    @told
    def write(name: str, chosen: str, text: str) -> Any:
        if not (name and chosen):
            return gr.skip()
        write_caption(space, name, chosen, text)
        return gr.Gallery(_gallery(space, get_set(space, name)))

    hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    again = {"fn": show, "inputs": [own.sets, *how], "outputs": own.shown, **hidden}
    gr.on(
        [own.sets.input, base.change, cutting["size"].blur, cutting["buckets"].input],  # pyright: ignore
        **again,
    )
    gr.on(None, lambda: gr.Dropdown(choices(space)), None, own.sets, **hidden)
    own.drop.upload(
        dropped,
        [own.sets, own.drop, trigger],
        [own.sets, own.note, own.drop],
        api_visibility="private",
    ).success(**again)
    for name, button in own.examples.items():
        button.click(partial(example, name), None, [own.sets, trigger, own.note], **hidden).success(
            **again
        )
    own.remove_set.click(remove_set, own.sets, [own.sets, own.gone, own.undo], **hidden).success(
        **again
    )
    own.remove.click(remove, [own.sets, own.chosen], [own.gone, own.undo], **hidden).success(
        **again
    )
    own.undo.click(put_back, [own.sets, own.gone], [own.sets, own.undo], **hidden).success(**again)
    own.gallery.select(edit, own.sets, [own.editor, own.chosen, own.caption], **hidden)
    gr.on(
        [own.caption.blur, own.caption.submit],
        write,
        [own.sets, own.chosen, own.caption],
        own.gallery,
        **hidden,
    )


def _shown(space: Workspace, name: str, base: str, size: float | None, buckets: bool) -> list[Any]:
    """The set as it is now: sets, its thumbnails, and how they are cut."""
    known = choices(space)
    if name not in dict(known).values():
        name = ""
    one = get_set(space, name) if name else None
    gallery = _gallery(space, one) if one else []
    there = bool(gallery)
    cut = _cut(space, one, base, size, buckets) if one and there else ""
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
    return [(str(small_upload(space, one.name, p.name)), p.caption) for p in one.pictures]


def _cut(space: Workspace, one: UploadSet, base: str, size: float | None, buckets: bool) -> str:
    small = {p.name: small_upload(space, one.name, p.name) for p in one.pictures}
    try:
        known = outline(base)
    except BadInput as error:
        return f'<p class="quiet">{escape(str(error))}</p>'
    if known is None:
        return '<p class="quiet">Known once the base is downloaded.</p>'
    side = int(size or known.size)
    if side < known.step or side % known.step:
        return f'<p class="quiet">The size needs to be a multiple of {known.step}.</p>'
    return cuts(cuts_of(one, size=side, step=known.step, buckets=buckets), small)


def _note(left_out: Sequence[str]) -> str:
    """What was left out, and why."""
    items = "".join(f"<li>{escape(one)}</li>" for one in left_out)
    return f'<div role="alert" class="studio-left-out">Left out:<ul>{items}</ul></div>'


def _count(one: UploadSet) -> str:
    return "1 picture" if len(one.pictures) == 1 else f"{len(one.pictures)} pictures"
