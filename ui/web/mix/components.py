"""The components of the tab Mix, what stands in them, and how settings are put there."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr
from gradio.components import Component

import compose
from studio.bases.names import BUNDLED_BASES
from studio.workspace import AdapterFile, Workspace, list_adapters, list_bases
from ui.shared.form import Form
from ui.shared.loading import Loading
from ui.web.mix.html import cards, row
from ui.web.mix.settings import WHOLE, Picked, Settings, misfit
from ui.web.server.fields import filled, values, whole_number

__all__ = [
    "SIZE",
    "Given",
    "Parts",
    "Slot",
    "Update",
    "base_choices",
    "fill",
    "library",
    "loading_in",
    "mix_of",
    "settings_in",
]

Given = Mapping[Any, Any]
Update = dict[Any, Any]
LOADING = Form(Loading, "Loading")


@dataclass(frozen=True)
class Size:
    """What of a shot's size is asked for."""

    width: int | None = field(default=None, metadata={"help": "pixels"})
    height: int | None = field(default=None, metadata={"help": "pixels"})


SIZE = Form(Size, "Size", defaults=dict.fromkeys(("width", "height"), "the base's own"))


@dataclass(frozen=True)
class Slot:
    """The row of one adapter."""

    row: gr.Row
    head: gr.HTML
    strength: gr.Slider
    half: gr.Radio
    remove: gr.Button


@dataclass(frozen=True)
class Parts:
    """The tab's components. The first nine are the page's memory: names and numbers only.

    job: the one that is shown. own: the last that this page has asked for. open: whether the tab
    was opened. seen: what is shown of the job; None before the page is loaded. asked: the shot and
    the loading that the job shown was queued with. opened: the picture shown, by its id. many: how
    many pictures of the history are shown. watch: tells of what a person changed, news of what a
    worker did.
    """

    picked: gr.State
    job: gr.State
    own: gr.State
    open: gr.State
    seen: gr.State
    asked: gr.State
    opened: gr.State
    deleted: gr.State
    many: gr.State
    news: gr.HTML
    watch: gr.HTML
    prompt: gr.Textbox
    examples: gr.HTML
    negative: gr.Textbox
    slots: tuple[Slot, ...]
    cards: gr.HTML
    method: gr.Dropdown
    groups: dict[str, gr.Group]
    options: dict[str, dict[str, Component]]
    steps: gr.Slider
    guidance: gr.Slider
    seed: gr.Textbox
    lock: gr.Checkbox
    base: gr.Dropdown
    scheduler: gr.Dropdown
    width: gr.Textbox
    height: gr.Textbox
    start: gr.Image
    denoise: gr.Slider
    loading: dict[str, Component]
    frame: gr.HTML
    note: gr.HTML
    notice: gr.HTML
    draw: gr.Button
    stop: gr.Button
    batch: gr.Button
    delete: gr.Button
    undo: gr.Button
    auto: gr.Checkbox
    score: gr.HTML
    methods: gr.Button
    column: gr.Dropdown
    columns: gr.Textbox
    row: gr.Dropdown
    rows: gr.Textbox
    grid: gr.Button
    history: gr.HTML
    dropped: gr.File

    def choices(self) -> list[Component]:
        """Where something is chosen from a list, of what a picture depends on."""
        fixed = [self.method, self.scheduler]
        more = (*self.loading.values(), *self._options())
        return [*fixed, *(widget for widget in more if isinstance(widget, gr.Dropdown))]

    def given(self) -> set[Any]:
        """All that handlers are given: the settings, and what the page remembers."""
        fixed = {
            self.picked, self.job, self.own, self.open, self.seen, self.asked, self.opened,
            self.deleted, self.many, self.prompt, self.negative, self.method, self.steps,
            self.guidance, self.seed,
            self.lock, self.base, self.scheduler, self.width, self.height, self.start,
            self.denoise, self.auto, self.column, self.columns, self.row, self.rows,
        }  # fmt: skip
        slots = {part for slot in self.slots for part in (slot.strength, slot.half)}
        return fixed | slots | set(self._options()) | set(self.loading.values())

    def forming(self) -> set[Any]:
        """What changes when a picture is asked for."""
        return {
            self.job, self.own, self.seen, self.asked, self.opened, self.frame, self.note,
            self.notice, self.stop, self.delete,
        }  # fmt: skip

    def formed(self) -> set[Any]:
        """What changes while one forms, and when it is there."""
        more = {self.opened, self.delete, self.history, self.score}
        return {self.seen, self.frame, self.note, self.stop} | more

    def depending(self) -> set[Any]:
        """What is shown by the settings alone."""
        return {self.score, self.column, self.row, *self.groups.values()}

    def mix(self) -> set[Any]:
        """The adapters, those in the mix and those to choose from."""
        slots = {
            part for slot in self.slots for part in (slot.row, slot.head, slot.strength, slot.half)
        }
        return {self.picked, self.cards, self.examples} | slots

    def told(self) -> set[Any]:
        """All that handlers may change."""
        shown = self.forming() | self.formed() | self.depending() | self.mix() | {self.undo}
        return {*self.given()} - set(self.loading.values()) | shown

    def _options(self) -> list[Component]:
        return [widget for form in self.options.values() for widget in form.values()]


def settings_in(parts: Parts, given: Given) -> Settings:
    """The settings on the page; BadInput where a field of them is no value."""
    picked = tuple(
        replace(one, strength=float(given[slot.strength]), half=given[slot.half] or WHOLE)
        for one, slot in zip(given[parts.picked], parts.slots, strict=False)
    )
    method = given[parts.method]
    options = {name: given[widget] for name, widget in parts.options[method].items()}
    size = values(SIZE, {"width": given[parts.width], "height": given[parts.height]})
    return Settings(
        prompt=given[parts.prompt] or "",
        negative=given[parts.negative] or "",
        base=given[parts.base],
        seed=whole_number("seed", given[parts.seed] or "0"),
        steps=int(given[parts.steps]),
        guidance=float(given[parts.guidance]),
        width=size.get("width"),
        height=size.get("height"),
        scheduler=given[parts.scheduler] or None,
        picked=picked,
        method=method,
        options=values(Form(compose.methods()[method], method), options),
        start=given[parts.start],
        denoise=float(given[parts.denoise]),
    )


def loading_in(parts: Parts, given: Given) -> dict[str, Any]:
    """How the base is to be opened, where that was said."""
    return values(LOADING, {name: given[widget] for name, widget in parts.loading.items()})


def fill(parts: Parts, space: Workspace, settings: Settings) -> Update:
    """What puts all of these settings onto the page."""
    guidance, steps = settings.guidance, settings.steps
    found: Update = {
        parts.prompt: settings.prompt,
        parts.negative: settings.negative,
        parts.base: settings.base,
        parts.seed: str(settings.seed),
        parts.steps: gr.update(value=steps, maximum=max(100, steps)),
        parts.guidance: gr.update(
            value=guidance, minimum=min(1, guidance), maximum=max(15, guidance)
        ),
        parts.width: str(settings.width or ""),
        parts.height: str(settings.height or ""),
        parts.scheduler: settings.scheduler or "",
        parts.method: settings.method,
        parts.start: settings.start,
        parts.denoise: settings.denoise,
    }
    for name, widgets in parts.options.items():
        form = Form(compose.methods()[name], name)
        shown = filled(form, settings.options if name == settings.method else {})
        found |= {widget: shown[field] for field, widget in widgets.items()}
    return found | mix_of(parts, space, settings.picked, settings.base)


def base_choices(space: Workspace) -> list[tuple[str, str]]:
    """The known bases, each as what it is called and what opens it."""
    return [(one.name, one.source) for one in list_bases(space)]


def mix_of(parts: Parts, space: Workspace, picked: tuple[Picked, ...], base: str) -> Update:
    """What shows these adapters in the mix, and the library beside them."""
    adapters = {one.name: one for one in list_adapters(space)}
    found: Update = {
        parts.picked: tuple(picked),
        parts.examples: gr.HTML(visible=base in BUNDLED_BASES and not picked),
        parts.cards: library(space, base),
    }
    for place, slot in enumerate(parts.slots, start=1):
        one = picked[place - 1] if place <= len(picked) else None
        found |= _slot(slot, adapters.get(one.name) if one else None, one, place)
    return found


def library(space: Workspace, base: str) -> str:
    """The adapters there are, those that do not fit the base told so."""
    family = next((one.family for one in list_bases(space) if one.source == base), "")
    adapters = list_adapters(space)
    return cards([(one, misfit(one, base=base, family=family)) for one in adapters])


def _slot(slot: Slot, adapter: AdapterFile | None, one: Picked | None, place: int) -> Update:
    if one is None:
        return {slot.row: gr.Row(visible=False)}
    halves = bool(adapter and adapter.halves)
    return {
        slot.row: gr.Row(visible=True),
        slot.head: row(adapter, one, place),
        slot.strength: gr.update(
            value=one.strength, minimum=min(-1, one.strength), maximum=max(2, one.strength)
        ),
        slot.half: gr.update(value=one.half, visible=halves),
    }
