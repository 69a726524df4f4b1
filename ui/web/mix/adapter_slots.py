"""The widgets of the mix: a row for each adapter in it, and the library to choose from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import gradio as gr

from studio.workspace import AdapterFile, Workspace, base_family, list_adapters
from ui.web.frontend import script
from ui.web.mix import html
from ui.web.mix.mix_adapters import MOST, WHOLE, MixAdapter, misfit
from ui.web.server.fields import read_number, shown_on
from ui.web.server.page import Components, Update, Values


@dataclass(frozen=True)
class Slot:
    """The row of one adapter."""

    row: gr.Row
    head: gr.HTML
    strength: gr.Slider
    half: gr.Radio
    used: gr.Checkbox
    lock: gr.Checkbox
    remove: gr.Button

    def inputs(self) -> Components:
        return {self.strength, self.half, self.used, self.lock}

    def outputs(self) -> Components:
        return {self.row, self.head, self.remove} | self.inputs()

    def locked(self, locked: bool) -> Update:
        """Whether the strength and the half may be changed, and the adapter removed."""
        changeable = gr.update(interactive=not locked)
        return {self.strength: changeable, self.half: changeable, self.remove: changeable}

    def update(self, one: MixAdapter | None, adapter: AdapterFile | None, place: int) -> Update:
        """adapter: of the library; None where it was deleted."""
        if one is None:
            return {self.row: gr.Row(visible=False)}
        free = not one.locked
        return {
            self.row: gr.Row(visible=True),
            self.head: html.slot_head(adapter, one.name, place),
            self.strength: shown_on(self.strength, one.strength) | {"interactive": free},
            self.half: gr.update(
                value=one.half, visible=bool(adapter and adapter.halves), interactive=free
            ),
            self.used: one.on,
            self.lock: one.locked,
            self.remove: gr.Button(interactive=free),
        }


class AdapterSlots:
    """Lays them out where it is made.

    mix: the adapters, a tuple of MixAdapter. Their strengths and halves are those of the slots.
    """

    def __init__(self, space: Workspace) -> None:
        self.space = space
        self.mix = gr.State(())
        gr.HTML('<div class="section">Adapters</div>')
        self.slots = [_lay_out_slot(place) for place in range(1, MOST + 1)]
        with gr.Accordion("Add an adapter", open=True):
            self.library = gr.HTML(
                js_on_load=script("clicked_item.js") + script("find_card.js"), elem_id="mix-library"
            )

    def inputs(self) -> Components:
        """The components whose values `read` takes."""
        return {self.mix} | {one for slot in self.slots for one in slot.inputs()}

    def outputs(self) -> Components:
        """The components that `update` changes."""
        return {self.mix, self.library} | {one for slot in self.slots for one in slot.outputs()}

    def read(self, values: Values) -> tuple[MixAdapter, ...]:
        """The mix, with the strengths and halves that are set now."""
        return tuple(
            replace(
                one,
                strength=read_number(f"strength of {one.name}", values[slot.strength]),
                half=values[slot.half] or WHOLE,
                on=bool(values[slot.used]),
                locked=bool(values[slot.lock]),
            )
            for one, slot in zip(values[self.mix], self.slots, strict=False)
        )

    def update(self, mix: Sequence[MixAdapter], base: str) -> Update:
        """Show this mix, and which adapters of the library fit the base."""
        adapters = {one.name: one for one in list_adapters(self.space)}
        update: Update = {self.mix: tuple(mix), self.library: self.cards(base)}
        for at, slot in enumerate(self.slots):
            one = mix[at] if at < len(mix) else None
            update |= slot.update(one, adapters.get(one.name) if one else None, at + 1)
        return update

    def cards(self, base: str) -> str:
        """The library as HTML; adapters that don't fit the base come last and can't be chosen."""
        family = base_family(self.space, base)
        return html.library_cards(
            [(one, misfit(one, base=base, family=family)) for one in list_adapters(self.space)]
        )


def _lay_out_slot(place: int) -> Slot:
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
        used, lock = (
            gr.Checkbox(
                value, label=label, min_width=70, scale=0, container=False,
                elem_classes="mix-tick", elem_id=f"mix-{label.split()[0].lower()}-{place}",
            )
            for label, value in (("On", True), ("Lock strength", False))
        )  # fmt: skip
        remove = gr.Button("Remove", size="sm", min_width=80, elem_classes="mix-remove")
    return Slot(row, head, strength, half, used, lock, remove)
