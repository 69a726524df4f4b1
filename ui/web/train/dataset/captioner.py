"""The part of the caption table that has a model write captions, for the user to check and save."""

from collections.abc import Iterator
from typing import Any

import gradio as gr
from gradio.events import Dependency

from studio.dataset.captioner import ADVICE, NAMES, find_captioner, find_captioners
from studio.errors import BadInput
from studio.workspace import Workspace, get_set
from ui.web.frontend import ONCE, paragraph, sentence
from ui.web.server.page import on
from ui.web.server.torch_process import TorchProcess
from ui.web.train.dataset.caption_process import write_caption

Written = dict[str, dict[str, str]]  # captions, by set and picture
NONE_FOUND = (
    f"No captioner is on this machine. Type the folder of a {NAMES} model, or "
    f"fetch one in a terminal with: {ADVICE}"
)


class CaptionerForm:
    """The widgets and what they do. written: a state that gets the captions of a set."""

    def __init__(self, space: Workspace) -> None:
        self._space = space
        self._at_work: dict[str, TorchProcess] = {}  # by the name of the set
        self.written = gr.State({})
        with gr.Row(elem_classes="tools"):
            self._model = gr.Dropdown(
                [],
                label="Captioner",
                info=f"A {NAMES} model: its folder, or one that is downloaded",
                allow_custom_value=True,
                scale=3,
                min_width=220,
            )
            self._all = gr.Checkbox(
                label="Replace captions", info="Else only missing ones", min_width=160
            )
        with gr.Row(elem_classes="tools"):
            self._write = gr.Button("Write captions", size="sm", min_width=140, elem_classes=ONCE)
            self._stop = gr.Button("Stop writing", size="sm", min_width=140, visible=False)
        self._said = gr.HTML(padding=False)

    def wire(self, opened: gr.Accordion, sets: gr.Dropdown, drafts: gr.State) -> Dependency:
        """Wire the events; `written` is there after the one that is returned.

        opened: what shows these widgets. sets: its value is the name of the set.
        """
        on(opened.expand, self._find, self._model, [self._model, self._said])
        on(self._stop.click, self._end, sets)
        shown = [self.written, self._said, self._stop]
        given = [self._model, self._all, sets, drafts]
        return on(self._write.click, self._write_all, given, shown)

    def _find(self, chosen: str | None) -> tuple[gr.Dropdown, str]:
        found = find_captioners()
        value = chosen or (found[0] if found else None)
        said = "" if value else paragraph(NONE_FOUND)
        return gr.Dropdown(found, value=value), said

    def _write_all(
        self, model: str | None, replace: bool, name: str, drafts: Written
    ) -> Iterator[tuple[Any, ...]]:
        """Captions of a set's pictures, told as they come. Pictures with one are left out."""
        texts = drafts.get(name, {})
        pictures = [
            one.path
            for one in get_set(self._space, name).pictures
            if replace or not texts.get(one.name, one.caption)
        ]
        if not (model or "").strip():
            yield {}, paragraph(NONE_FOUND, "problem"), gr.Button(visible=False)
            return
        if not pictures:
            said = "Every picture has a caption. Choose Replace captions to write them anew."
            yield {}, paragraph(said), gr.Button(visible=False)
            return
        if name in self._at_work:
            yield {}, paragraph("They are being written already."), gr.skip()
            return
        found: dict[str, str] = {}
        yield {}, paragraph("Opening the captioner…"), gr.Button(visible=True)
        wrong, process = "", TorchProcess()
        self._at_work[name] = process
        try:
            find_captioner(str(model).strip())
            for picture in pictures:
                found[picture.name] = process.call(write_caption, str(model).strip(), picture)
                at = f"{len(found)} of {len(pictures)}: {found[picture.name]}"
                yield {}, paragraph(at), gr.skip()
        except BadInput as error:
            if name in self._at_work:  # it was not stopped
                wrong = sentence(str(error))
        finally:
            self._at_work.pop(name, None)
            process.end()
        written = f"{len(found)} of {len(pictures)} captions written. Check them, then save."
        said = paragraph(wrong, "problem") if wrong else paragraph(written)
        yield {name: found}, said, gr.Button(visible=False)

    def _end(self, name: str) -> None:
        if process := self._at_work.pop(name, None):
            process.end()
