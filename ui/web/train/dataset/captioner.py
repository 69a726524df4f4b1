"""Let a model write the captions of a set, for the user to check and save."""

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
    """The widgets and their events. written: a state that gets the captions, by set."""

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
        self._status = gr.HTML(padding=False)

    def wire(self, opened: gr.Accordion, sets: gr.Dropdown, drafts: gr.State) -> Dependency:
        """Wire the events; returns the event after which `written` has captions.

        opened: the accordion around these widgets. sets: its value is the name of the set.
        """
        on(opened.expand, self._find, self._model, [self._model, self._status])
        on(self._stop.click, self._end, sets)
        shown = [self.written, self._status, self._stop]
        given = [self._model, self._all, sets, drafts]
        return on(self._write.click, self._write_all, given, shown)

    def _find(self, chosen: str | None) -> tuple[gr.Dropdown, str]:
        captioners = find_captioners()
        value = chosen or (captioners[0] if captioners else None)
        return gr.Dropdown(captioners, value=value), "" if value else paragraph(NONE_FOUND)

    def _write_all(
        self, model: str | None, replace: bool, name: str, drafts: Written
    ) -> Iterator[tuple[Any, ...]]:
        """Write captions for the pictures of a set, and show each as it comes.

        replace: also for pictures that have a caption or a draft of one.
        """
        texts = drafts.get(name, {})
        pictures = [
            picture.path
            for picture in get_set(self._space, name).pictures
            if replace or not texts.get(picture.name, picture.caption)
        ]
        if not (model or "").strip():
            yield {}, paragraph(NONE_FOUND, "problem"), gr.Button(visible=False)
            return
        if not pictures:
            status = "Every picture has a caption. Choose Replace captions to write them again."
            yield {}, paragraph(status), gr.Button(visible=False)
            return
        if name in self._at_work:
            yield {}, paragraph("The captions of this set are being written already."), gr.skip()
            return
        captions: dict[str, str] = {}
        yield {}, paragraph("Opening the captioner…"), gr.Button(visible=True)
        wrong, process = "", TorchProcess()
        self._at_work[name] = process
        try:
            find_captioner(str(model).strip())
            for picture in pictures:
                caption = process.call(write_caption, str(model).strip(), picture)
                captions[picture.name] = caption
                yield {}, paragraph(f"{len(captions)} of {len(pictures)}: {caption}"), gr.skip()
        except BadInput as error:
            if name in self._at_work:  # it was not stopped
                wrong = sentence(str(error))
        finally:
            self._at_work.pop(name, None)
            process.end()
        written = f"{len(captions)} of {len(pictures)} captions written. Check them, then save."
        status = paragraph(wrong, "problem") if wrong else paragraph(written)
        yield {name: captions}, status, gr.Button(visible=False)

    def _end(self, name: str) -> None:
        if process := self._at_work.pop(name, None):
            process.end()
