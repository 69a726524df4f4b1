"""The list of bases in the tab Library: add a base, or forget one."""

from typing import Any

import gradio as gr

from studio.errors import BadInput
from studio.workspace import Workspace, add_base, forget_base, list_bases
from ui.web.frontend import notices, script
from ui.web.library.cards import base_rows
from ui.web.server.page import Page, on


def lay_out_bases(page: Page) -> None:
    """Lay out the list of bases and wire its events."""
    space = page.space
    rows = gr.HTML(_rows(space), js_on_load=script("clicked_item.js"), elem_id="bases")
    problem = gr.HTML(visible=False)
    with gr.Row(elem_classes="tools"):
        source = gr.Textbox(
            label="Another base",
            info="A Hugging Face id, or a folder or .safetensors file on the computer that runs "
            "Studio",
            placeholder="stabilityai/stable-diffusion-xl-base-1.0",
            max_lines=1,
            scale=4,
        )
        add = gr.Button("Add", min_width=110, scale=1)

    def add_source(source: str | None) -> tuple[Any, Any, gr.HTML]:
        source = (source or "").strip()  # None while nothing was typed
        try:
            if not source:
                raise BadInput("Type the base to add: an id, a folder or a file.")
            add_base(space, source)
        except BadInput as error:
            return gr.skip(), gr.skip(), gr.HTML(notices([], [str(error)]), visible=True)
        return _rows(space), "", gr.HTML(visible=False)

    def forget(event: gr.EventData) -> str:
        forget_base(space, str(event.name))
        return _rows(space)

    on([add.click, source.submit], add_source, source, [rows, source, problem])
    on(rows.click, forget, None, rows)
    on(page.tab.select, lambda: _rows(space), None, rows)


def _rows(space: Workspace) -> str:
    return base_rows(list_bases(space))
