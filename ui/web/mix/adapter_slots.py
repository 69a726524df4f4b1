"""The widgets of the mix: a row for each adapter in it, and the library to choose from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import gradio as gr

from studio.workspace import AdapterFile, Workspace, base_family, list_adapters
from ui.web.frontend import paragraph, script
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
        """Allow or forbid changes of strength and half, and removing the adapter."""
        changeable = gr.update(interactive=not locked)
        return {self.strength: changeable, self.half: changeable, self.remove: changeable}

    def update(self, mixed: MixAdapter | None, file: AdapterFile | None, place: int) -> Update:
        """Show an adapter of the mix, or hide the row where `mixed` is None.

        file: the adapter in the library; None where it was deleted.
        """
        if mixed is None:
            return {self.row: gr.Row(visible=False)}
        free = not mixed.locked
        return {
            self.row: gr.Row(visible=True),
            self.head: html.slot_head(file, mixed.name, place),
            self.strength: shown_on(self.strength, mixed.strength) | {"interactive": free},
            self.half: gr.update(
                value=mixed.half, visible=bool(file and file.halves), interactive=free
            ),
            self.used: mixed.on,
            self.lock: mixed.locked,
            self.remove: gr.Button(interactive=free),
        }


class AdapterSlots:
    """The rows and the library, laid out where this is created.

    mix: a state with a tuple of MixAdapter. Strengths, halves and ticks are read from the rows.
    """

    def __init__(self, space: Workspace) -> None:
        self.space = space
        self.mix = gr.State(())
        told = paragraph("Lock keeps the strength of an adapter as it is.")
        gr.HTML(f'<div class="section">Adapters</div>{told}')
        self.slots = [_lay_out_slot(place) for place in range(1, MOST + 1)]
        with gr.Accordion("Add an adapter", open=True):
            self.library = gr.HTML(
                js_on_load=script("clicked_item.js") + script("find_card.js"), elem_id="mix-library"
            )

    def inputs(self) -> Components:
        """The components whose values `read` takes."""
        return {self.mix}.union(*(slot.inputs() for slot in self.slots))

    def outputs(self) -> Components:
        """The components that `update` changes."""
        return {self.mix, self.library}.union(*(slot.outputs() for slot in self.slots))

    def read(self, values: Values) -> tuple[MixAdapter, ...]:
        """The mix, with the current values of the rows."""
        return tuple(
            replace(
                mixed,
                strength=read_number(f"strength of {mixed.name}", values[slot.strength]),
                half=values[slot.half] or WHOLE,
                on=bool(values[slot.used]),
                locked=bool(values[slot.lock]),
            )
            for mixed, slot in zip(values[self.mix], self.slots, strict=False)
        )

    def update(self, mix: Sequence[MixAdapter], base: str) -> Update:
        """Show this mix, and which adapters of the library fit the base."""
        files = {file.name: file for file in list_adapters(self.space)}
        update: Update = {self.mix: tuple(mix), self.library: self.cards(base)}
        for at, slot in enumerate(self.slots):
            mixed = mix[at] if at < len(mix) else None
            update |= slot.update(mixed, files.get(mixed.name) if mixed else None, at + 1)
        return update

    def cards(self, base: str) -> str:
        """The library as HTML; adapters that don't fit the base come last and can't be chosen."""
        family = base_family(self.space, base)
        return html.library_cards(
            [(file, misfit(file, base=base, family=family)) for file in list_adapters(self.space)]
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
                elem_classes="mix-tick", elem_id=f"mix-{label.lower()}-{place}",
            )
            for label, value in (("On", True), ("Lock", False))
        )  # fmt: skip
        remove = gr.Button("Remove", size="sm", min_width=80, elem_classes="mix-remove")
    return Slot(row, head, strength, half, used, lock, remove)
