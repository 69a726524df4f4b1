"""Handlers for changed settings of Mix: show what follows from them, and draw them."""

from collections.abc import Sequence

import gradio as gr

from studio.bases.names import BUNDLED_BASES
from studio.errors import BadInput
from studio.requests.adapter_tags import read_adapter_tag
from studio.requests.prompt_syntax import split_adapter_tags
from studio.requests.shot import Shot
from studio.requests.speed import negative_note, speed_fields
from studio.workspace import adapter_path, base_family, get_adapter
from ui.shared.clip_skip import clip_skip_hint
from ui.web.frontend import paragraph, sentence
from ui.web.mix.comparison import NOTHING, axes
from ui.web.mix.handlers.drawing import Drawing
from ui.web.mix.job_view import JobView
from ui.web.mix.mix_adapters import WHOLE, MixAdapter, add_to_mix, remove_from_mix, with_tagged
from ui.web.mix.shot_form import keep_painted
from ui.web.mix.tab import MixTab
from ui.web.server.page import Page, Update, Values, as_html


class Handlers:
    """What the other groups of handlers of this tab share with `Settings`."""

    def __init__(self, settings: "Settings") -> None:
        self.settings, self.view, self.drawing = settings, settings.view, settings.drawing
        self.page, self.space = settings.page, settings.space
        self.tab, self.form = settings.tab, settings.form


class Settings:
    """Handlers for changes of the form and of the adapters in the mix."""

    def __init__(self, page: Page, tab: MixTab) -> None:
        self.page, self.space, self.tab, self.form = page, page.space, tab, tab.form
        self.view, self.drawing = JobView(page.space, tab), Drawing(page.space, tab)

    def change(self, values: Values, mix: Sequence[MixAdapter] | None = None) -> Update:
        """A setting was changed. mix: the adapters, if other ones than on the page."""
        try:
            shot = self.form.read(values, mix)
        except BadInput as wrong:
            return self.refused(values, wrong)
        return self.computed(shot, values) | self.drawing.draw_change(values, shot)

    def change_regions(self, values: Values, mix: Sequence[MixAdapter] | None = None) -> Update:
        """The method, the painted regions or the mix was changed: suggest regions if need be."""
        suggested: Update = {}
        if values[self.form.method] == "regions":
            adapters = self.form.adapters.read(values) if mix is None else mix
            suggested = self.form.regions.suggest(values, sum(each.on for each in adapters))
        return suggested | self.change({**values, **suggested}, mix)

    def change_base(self, values: Values) -> Update:
        """The base was changed, and with it the adapters that fit and the default sampling.

        A base that the user added is not drawn at every change, until they ask for that.
        """
        base = values[self.form.base]
        update: Update = {self.tab.auto: base in BUNDLED_BASES, **self.form.sampling_for(values)}
        changed = self.change({**values, **update})
        return update | self.form.update_mix(self.form.adapters.read(values), base) | changed

    def use_example(self, values: Values, event: gr.EventData) -> Update:
        """Take an example as the prompt."""
        prompt: Update = {self.form.prompt: str(event.name)}
        return prompt | self.change({**values, **prompt})

    def add(self, values: Values, event: gr.EventData) -> Update:
        """Add an adapter of the library to the mix, and its trigger to the prompt."""
        name = str(event.name)
        mixed = any(adapter.name == name for adapter in values[self.form.adapters.mix])
        if mixed and not get_adapter(self.space, name).halves:
            gr.Info(as_html(f"{name} is in the mix twice now: both act."), title="Added again")
        return self._add(values, [name])

    def add_sent(self, values: Values) -> Update:
        """Add the adapters that another tab sent, except for those that are in the mix already."""
        mixed = {adapter.name for adapter in values[self.form.adapters.mix]}
        names = [name for name in values[self.page.adapters] if name not in mixed]
        update = self._add(values, names) if names else {}
        return update | {self.page.adapters: []}

    def remove(self, values: Values, place: int) -> Update:
        """Remove an adapter from the mix, and its trigger from the prompt."""
        mix, prompt = self.form.adapters.read(values), values[self.form.prompt] or ""
        if place >= len(mix):  # the button was pressed twice
            return gr.skip()
        return self._mixed(values, *remove_from_mix(mix, prompt, place))

    def _add(self, values: Values, names: Sequence[str]) -> Update:
        mix, prompt = self.form.adapters.read(values), values[self.form.prompt] or ""
        added = [get_adapter(self.space, name) for name in names]
        for adapter in added:
            mix, prompt = add_to_mix(mix, prompt, adapter)
        return self._joined(values, mix, prompt, [(adapter.path, 1.0) for adapter in added])

    def take_tags(self, values: Values) -> Update:
        """Move adapters that the prompt names, as in <lora:NAME:0.8>, from there into the mix."""
        prompt, tags = split_adapter_tags(values[self.form.prompt] or "")
        if not tags or values[self.form.reading["syntax"]] != "a1111":
            return gr.skip()
        mix, files = self.form.adapters.read(values), []
        for name, strength in map(read_adapter_tag, tags):
            files.append((adapter_path(self.space, name), strength))
            plain, _, half = name.partition(":")
            mix = with_tagged(mix, MixAdapter(plain, strength, half or WHOLE))
        return self._joined(values, mix, prompt, files)

    def _joined(
        self,
        values: Values,
        mix: Sequence[MixAdapter],
        prompt: str,
        files: Sequence[tuple[object, float]],
    ) -> Update:
        """The page after adapters have joined the mix.

        files: the path and strength of each of them. A speed adapter among them sets the sampling
        that it needs.
        """
        sampling, note = speed_fields(files, ())
        if not note:
            return self._mixed(values, mix, prompt)
        widgets = self.form.sampling_widgets()
        before = {name: values[widget] for name, widget in widgets.items()}
        update = {widgets[name]: value or "" for name, value in sampling.items()}
        mixed = self._mixed({**values, **update}, mix, prompt)
        undo = {self.form.before_speed: before, self.form.undo_speed: gr.Button(visible=True)}
        return mixed | update | undo | {self.form.sampling_note: paragraph(note)}

    def use_clip_skip(self, values: Values) -> Update:
        """Set the clip skip that an adapter of the mix was trained with."""
        shot = self.form.read(values)
        wanted = clip_skip_hint(shot, base_family(self.space, shot.base))[1]
        if wanted is None:  # the button was pressed twice
            return gr.skip()
        clip_skip: Update = {self.form.reading["clip_skip"]: str(wanted)}
        return clip_skip | self.change({**values, **clip_skip})

    def show_in_editor(self, values: Values) -> Update:
        """Open the start picture in the editor, where a mask is painted over it."""
        picture = values[self.form.start]
        drawing = {"background": picture, "layers": [], "composite": picture} if picture else None
        return {self.form.paint: drawing}

    def take_painted(self, values: Values) -> Update:
        """Take what was painted as the mask."""
        mask: Update = {self.form.mask: keep_painted(self.space, values[self.form.paint])}
        return mask | self.change({**values, **mask})

    def undo_speed(self, values: Values) -> Update:
        """Set sampler, spacing, steps and CFG to what they were before a speed adapter came."""
        before = values[self.form.before_speed]
        if before is None:  # the button was pressed twice
            return gr.skip()
        widgets = self.form.sampling_widgets()
        update: Update = {widgets[name]: value for name, value in before.items()}
        changed = {**values, **update}
        undone = {self.form.before_speed: None, self.form.undo_speed: gr.Button(visible=False)}
        return update | undone | self.change(changed)

    def send_to_batch(self, values: Values) -> Update:
        """Open the tab Batch with these settings."""
        return {self.page.shot: self.form.read(values), self.page.tabs: gr.Tabs(selected="batch")}

    def _mixed(self, values: Values, mix: Sequence[MixAdapter], prompt: str) -> Update:
        """The page with another mix and another prompt."""
        base, prompted = values[self.form.base], {self.form.prompt: prompt}
        changed = self.change_regions({**values, **prompted}, mix)
        return self.form.update_mix(mix, base) | prompted | changed

    def refused(self, values: Values, wrong: BadInput) -> Update:
        """Say which field is wrong, and disable the buttons that draw."""
        problem = gr.HTML(paragraph(sentence(str(wrong)), "problem"), visible=True)
        update: Update = {self.tab.problem: problem}
        return update | self._buttons(ready=False) | self._method_options(values)

    def _buttons(self, *, ready: bool) -> Update:
        """Enable or disable the buttons that draw."""
        return {button: gr.Button(interactive=ready) for button in self.tab.drawing_buttons()}

    def _method_options(self, values: Values) -> Update:
        groups = [*self.form.groups.items(), ("regions", self.form.regions.group)]
        chosen, regions = values[self.form.method], self.form.regions
        update: Update = {group: gr.Group(visible=name == chosen) for name, group in groups}
        painted = values[regions.masks] == "drawn"
        return update | {regions.painting: gr.Accordion(visible=painted)}

    def computed(self, shot: Shot, values: Values) -> Update:
        """Show what follows from the settings: the method's options, the schedule, the axes."""
        tab, possible = self.tab, axes(shot)
        choices = [(NOTHING.capitalize(), NOTHING), *((axis.label, axis.name) for axis in possible)]
        names = [name for _, name in choices]
        update: Update = {tab.schedule: self.view.schedule(shot)}
        update |= {self.form.sampling_note: paragraph(negative_note(shot))}
        update |= {tab.problem: gr.HTML(visible=False)} | self._buttons(ready=True)
        update |= self._method_options(values)
        hint, wanted = clip_skip_hint(shot, base_family(self.space, shot.base))
        update[self.form.clip_note] = paragraph(hint)
        update[self.form.use_clip_skip] = gr.Button(
            f"Use clip skip {wanted}", visible=wanted is not None
        )
        for axis, default in ((tab.column, "method"), (tab.row, NOTHING)):
            chosen = values[axis] if values[axis] in names else default
            update[axis] = gr.update(choices=choices, value=chosen)
        return update

    def filled(self, shot: Shot, values: Values) -> Update:
        """Set all settings to those of this shot."""
        update = self.form.update(shot)
        settings = {self.tab.column: "", self.tab.row: "", **values}
        settings |= {field: update[field] for field in (self.form.method, self.form.regions.masks)}
        return update | self.computed(shot, settings) | {self.tab.auto: shot.base in BUNDLED_BASES}
