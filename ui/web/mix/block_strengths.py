"""Sliders for the strength of single blocks, which write the option `blocks` of the method merge.

The text of that option is what counts. The sliders show it, also where a person typed it.
"""

from functools import partial
from typing import Any

import gradio as gr
from gradio.events import Dependency

from studio.workspace import Workspace, base_family
from ui.web.mix.mix_adapters import MOST
from ui.web.server.page import on

# The blocks that adapters change, by family of the base.
BLOCKS = {
    "sdxl": (
        *("text_encoder", "text_encoder_2", "down_blocks.0", "down_blocks.1", "down_blocks.2"),
        *("mid_block", "up_blocks.0", "up_blocks.1", "up_blocks.2"),
    ),
    "sd1": (
        *("text_encoder", "down_blocks.0", "down_blocks.1", "down_blocks.2", "mid_block"),
        *("up_blocks.1", "up_blocks.2", "up_blocks.3"),
    ),
}
BLOCKS["sd2"] = BLOCKS["sd1"]
NAMES = (*BLOCKS["sdxl"], "up_blocks.3")  # the blocks of all families
ALL = "all"


class BlockSliders:
    """The widgets, laid out where this is created. text: the field of the option `blocks`."""

    def __init__(self, space: Workspace, text: gr.Textbox) -> None:
        self._space, self._text = space, text
        with gr.Accordion("Block strengths", open=False):
            adapters = ((f"Adapter {n}", str(n)) for n in range(1, MOST + 1))
            places = [("All adapters", ALL), *adapters]
            self._place = gr.Dropdown(places, value=ALL, label="Of", min_width=140)
            with gr.Row(elem_classes="studio-fields"):
                self._sliders = {
                    block: gr.Slider(
                        0, 2, 1.0, step=0.05, label=_label(block), buttons=[],
                        visible=block in BLOCKS["sdxl"], min_width=180,
                    )
                    for block in NAMES
                }  # fmt: skip

    def wire(self, base: gr.Dropdown) -> list[Dependency]:
        """Wire the events; returns the events that write the text."""
        sliders = list(self._sliders.values())
        changes = [self._text.change, self._place.change, base.change]
        inputs = [self._text, self._place, base]
        on(changes, self._show, inputs, sliders, mode="always_last")
        text, place = self._text, self._place
        return [
            on(slider.release, partial(with_factor, block), [text, place, slider], text)
            for block, slider in self._sliders.items()
        ]

    def _show(self, text: str, place: str, base: str) -> list[Any]:
        blocks = BLOCKS.get(base_family(self._space, base), NAMES)
        return [
            gr.update(value=factor_in(block, text, place), visible=block in blocks)
            for block in NAMES
        ]


def factor_in(block: str, text: str, place: str) -> float:
    """The factor of a block in the option's text; 1 where there is none, or no number."""
    for entry in reversed(_entries(text)):
        name, _, factor = entry.partition("=")
        if name.strip() == _name(place, block):
            try:
                return float(factor)
            except ValueError:
                break
    return 1.0


def with_factor(block: str, text: str, place: str, factor: float) -> str:
    """The option's text with this factor of a block; a factor of 1 is not written."""
    name = _name(place, block)
    others = [entry for entry in _entries(text) if entry.partition("=")[0].strip() != name]
    return ", ".join(others if factor == 1 else [*others, f"{name}={factor:g}"])


def _label(block: str) -> str:
    """As the chart of the schedule calls it: "down 0"."""
    return block.replace("_blocks.", " ").replace("_", " ")


def _entries(text: str) -> list[str]:
    return [entry.strip() for entry in (text or "").split(",") if entry.strip()]


def _name(place: str, block: str) -> str:
    return block if place == ALL else f"{place}:{block}"
