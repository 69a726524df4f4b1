"""The tab Mix: a prompt, adapters and how they share a picture; the picture, forming; comparisons;
the history."""

from dataclasses import fields

import gradio as gr

import compose
from studio.requests.shot import SCHEDULERS
from ui.shared.form import Form
from ui.shared.loading import Loading
from ui.web.frontend import script
from ui.web.mix.comparison import NOTHING
from ui.web.mix.components import SIZE, Parts, Slot, base_choices
from ui.web.mix.handlers import Mixing
from ui.web.mix.html import empty, examples
from ui.web.mix.settings import EXAMPLES, MOST, WHOLE, Settings
from ui.web.mix.wiring import wire
from ui.web.server.fields import widgets
from ui.web.server.page import Page
from ui.web.server.polling import tab_news

__all__ = ["mix_tab"]

CLICKED_ITEM = script("clicked_item.js")
PLAIN = Settings()
OWN = "The base's own"
# What was changed is told once it is meant: a slider let go, a text left, a box ticked; so it is
# for the keyboard too. Ctrl or Cmd and Enter draw.
WATCH = """
let due;
document.addEventListener('change', (event) => {
  if (!event.target.closest('#mix-settings')) return;
  clearTimeout(due);
  due = setTimeout(() => trigger('input'), 20);
});
document.addEventListener('keydown', (event) => {
  const draw = document.querySelector('#mix-draw');
  if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey) || !draw?.offsetParent) return;
  event.preventDefault();
  draw.click();
});
"""


def mix_tab(page: Page) -> None:
    """Lay it out and wire it."""
    made: dict[str, object] = {
        "picked": gr.State(()),
        "job": gr.State(None),
        "own": gr.State(None),
        "open": gr.State(False),
        "seen": gr.State(None),
        "asked": gr.State(None),
        "opened": gr.State(None),
        "deleted": gr.State(None),
        "many": gr.State(24),
        "news": tab_news("mix"),
        "watch": gr.HTML(js_on_load=WATCH, visible="hidden"),
    }
    with gr.Row(elem_id="mix-main"):
        with gr.Column(scale=5, min_width=340, elem_id="mix-settings"):
            made |= _texts() | _adapters() | _method() | _picture(page) | _folded()
        with gr.Column(scale=6, min_width=340, elem_id="mix-side"):
            made |= _result() | _comparison()
    with gr.Column():
        made |= _history()
    parts = Parts(**{one.name: made[one.name] for one in fields(Parts)})  # pyright: ignore
    wire(Mixing(page, parts))


def _texts() -> dict[str, object]:
    return {
        "prompt": gr.Textbox(
            PLAIN.prompt,
            label="Prompt",
            info="What the picture shows; the triggers of adapters belong in it",
            lines=2,
            max_lines=6,
            elem_id="mix-prompt",
        ),
        "examples": gr.HTML(examples(EXAMPLES), js_on_load=CLICKED_ITEM, elem_id="mix-examples"),
        "negative": _negative(),
    }


def _negative() -> gr.Textbox:
    with gr.Accordion("Negative prompt", open=False):
        return gr.Textbox(
            show_label=False,
            label="Negative prompt",
            placeholder="What the picture is not to show",
            lines=1,
            max_lines=4,
        )


def _adapters() -> dict[str, object]:
    gr.HTML('<div class="mix-head">Adapters</div>')
    slots = tuple(_slot(place) for place in range(1, MOST + 1))
    with gr.Accordion("Add an adapter", open=True):
        cards = gr.HTML(js_on_load=CLICKED_ITEM, elem_id="mix-library")
    return {"slots": slots, "cards": cards}


def _slot(place: int) -> Slot:
    with gr.Row(visible=False, elem_classes="mix-slot", equal_height=False) as row:
        head = gr.HTML(elem_classes="mix-face")
        strength = gr.Slider(
            -1, 2, 1.0, step=0.05, label=f"Strength of adapter {place}", show_label=False,
            min_width=170, scale=2, buttons=[],
        )  # fmt: skip
        half = gr.Radio(
            [("Whole", WHOLE), ("Content", "content"), ("Style", "style")],
            value=WHOLE, label=f"Half of adapter {place}", show_label=False, visible=False,
            min_width=200,
        )  # fmt: skip
        remove = gr.Button("Remove", size="sm", min_width=80, elem_classes="mix-remove")
    return Slot(row, head, strength, half, remove)


def _method() -> dict[str, object]:
    method = gr.Dropdown(
        list(compose.methods()),
        value=PLAIN.method,
        label="Method",
        info="How the adapters share the picture",
    )
    groups, options = {}, {}
    with gr.Accordion("Options of the method", open=False):
        for name, kind in compose.methods().items():
            with gr.Group(visible=name == PLAIN.method) as groups[name]:
                options[name] = widgets(Form(kind, name))
    return {"method": method, "groups": groups, "options": options}


def _picture(page: Page) -> dict[str, object]:
    with gr.Row():
        steps = gr.Slider(
            1, 100, PLAIN.steps, step=1, label="Steps", info="More are slower", buttons=[]
        )
        guidance = gr.Slider(
            1, 15, PLAIN.guidance, step=0.5, label="Guidance", buttons=[],
            info="How strictly the prompt is followed",
        )  # fmt: skip
    with gr.Row(equal_height=True):
        # No gr.Number: a browser's numbers have 53 bits, a seed has up to 63.
        seed = gr.Textbox(
            str(PLAIN.seed), label="Seed", info="Of the noise that it begins as", max_lines=1,
            scale=2, min_width=120,
        )  # fmt: skip
        lock = gr.Checkbox(
            False, label="Keep the seed", info="Else Draw takes a new one", scale=2, min_width=120
        )
    with gr.Row():
        base = gr.Dropdown(base_choices(page.space), value=PLAIN.base, label="Base", min_width=140)
        scheduler = gr.Dropdown(
            [(OWN, ""), *SCHEDULERS], value="", label="Scheduler", min_width=140
        )
    return {
        "steps": steps,
        "guidance": guidance,
        "seed": seed,
        "lock": lock,
        "base": base,
        "scheduler": scheduler,
    }


def _folded() -> dict[str, object]:
    with gr.Accordion("Size", open=False), gr.Row():
        sides = widgets(SIZE)
    with gr.Accordion("Start from a picture", open=False):
        start = gr.Image(
            label="Picture", type="filepath", sources=["upload", "clipboard"], height=200,
            buttons=[],
        )  # fmt: skip
        denoise = gr.Slider(
            0.05, 1, PLAIN.denoise, step=0.05, label="Denoise", buttons=[],
            info="How much of it is drawn anew",
        )  # fmt: skip
    with gr.Accordion("How the base is opened", open=False):
        loading = widgets(Form(Loading, "Loading"))
    return {**sides, "start": start, "denoise": denoise, "loading": loading}


def _result() -> dict[str, object]:
    frame = gr.HTML(
        empty("Press Draw to make a picture."), js_on_load=CLICKED_ITEM, elem_id="mix-frame"
    )
    note = gr.HTML('<div class="mix-note"></div>', elem_id="mix-note")
    notice = gr.HTML(visible=False, elem_id="mix-notice")
    with gr.Row(equal_height=True):
        draw = gr.Button("Draw", variant="primary", elem_id="mix-draw", min_width=110, scale=2)
        stop = gr.Button("Stop", interactive=False, elem_id="mix-stop", min_width=80)
        auto = gr.Checkbox(
            True, label="Draw as you change", info="Or Draw by Ctrl+Enter", min_width=170, scale=2
        )
    with gr.Row():
        batch = gr.Button("Send to Batch", size="sm", min_width=100)
        delete = gr.Button("Delete this picture", size="sm", interactive=False, min_width=100)
        undo = gr.Button("Undo delete", size="sm", visible=False, min_width=100)
    score = gr.HTML(elem_id="mix-score")
    return {
        "frame": frame, "note": note, "notice": notice, "draw": draw, "stop": stop, "batch": batch,
        "delete": delete, "undo": undo, "auto": auto, "score": score,
    }  # fmt: skip


def _comparison() -> dict[str, object]:
    with gr.Accordion("Compare", open=False):
        methods = gr.Button("Every method side by side")
        with gr.Row():
            column = gr.Dropdown(
                [("Method", "method")],
                value="method",
                label="Columns",
                info="What changes",
                min_width=140,
            )
            columns = gr.Textbox(label="Values", info="Separated by commas", min_width=140)
        with gr.Row():
            row = gr.Dropdown(
                [("Nothing", NOTHING)],
                value=NOTHING,
                label="Rows",
                info="What changes",
                min_width=140,
            )
            rows = gr.Textbox(label="Values", info="Separated by commas", min_width=140)
        grid = gr.Button("Draw the grid")
    return {
        "methods": methods, "column": column, "columns": columns, "row": row, "rows": rows,
        "grid": grid,
    }  # fmt: skip


def _history() -> dict[str, object]:
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            gr.HTML('<div class="mix-head">History</div>')
            history = gr.HTML(js_on_load=CLICKED_ITEM, elem_id="mix-history")
        with gr.Column(scale=1, min_width=220):
            dropped = gr.File(
                label="Open a picture's settings",
                file_types=[".png"],
                height=150,
                elem_id="mix-drop",
            )
    return {"history": history, "dropped": dropped}
