"""Change the settings of Mix: the page shows what follows from them, and draws them."""

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
    """What the handlers that act on the settings of the tab share."""

    def __init__(self, settings: "Settings") -> None:
        self.settings, self.view, self.drawing = settings, settings.view, settings.drawing
        self.page, self.space = settings.page, settings.space
        self.tab, self.form = settings.tab, settings.form


class Settings:
    """The form, the adapters of the mix, and what both decide."""

    def __init__(self, page: Page, tab: MixTab) -> None:
        self.page, self.space, self.tab, self.form = page, page.space, tab, tab.form
        self.view, self.drawing = JobView(page.space, tab), Drawing(page.space, tab)

    def change(self, values: Values, mix: Sequence[MixAdapter] | None = None) -> Update:
        """Any setting was changed. mix: the adapters, where they are not those of the page."""
        try:
            shot = self.form.read(values, mix)
        except BadInput as wrong:
            return self.refused(values, wrong)
        return self.computed(shot, values) | self.drawing.draw_change(values, shot)

    def change_regions(self, values: Values, mix: Sequence[MixAdapter] | None = None) -> Update:
        """The method, what is painted, or the adapters that share the picture were changed."""
        shown: Update = {}
        if values[self.form.method] == "regions":
            found = self.form.adapters.read(values) if mix is None else mix
            shown = self.form.regions.suggest(values, sum(one.on for one in found))
        return shown | self.change({**values, **shown}, mix)

    def change_base(self, values: Values) -> Update:
        """Other adapters fit the new base. A base of the user's is not drawn at every change."""
        base = values[self.form.base]
        update: Update = {self.tab.auto: base in BUNDLED_BASES, **self.form.sampling_for(values)}
        changed = self.change({**values, **update})
        return update | self.form.update_mix(self.form.adapters.read(values), base) | changed

    def use_example(self, values: Values, event: gr.EventData) -> Update:
        """An example becomes the prompt."""
        shown: Update = {self.form.prompt: str(event.name)}
        return shown | self.change({**values, **shown})

    def add(self, values: Values, event: gr.EventData) -> Update:
        """An adapter of the library joins the mix, and its trigger the prompt."""
        name = str(event.name)
        there = any(one.name == name for one in values[self.form.adapters.mix])
        if there and not get_adapter(self.space, name).halves:
            gr.Info(as_html(f"{name} is in the mix twice now: both act."), title="Added again")
        return self._add(values, [name])

    def add_sent(self, values: Values) -> Update:
        """Adapters sent by another tab join the mix, unless they are in it already."""
        known = {one.name for one in values[self.form.adapters.mix]}
        names = [name for name in values[self.page.adapters] if name not in known]
        update = self._add(values, names) if names else {}
        return update | {self.page.adapters: []}

    def remove(self, values: Values, place: int) -> Update:
        """An adapter leaves the mix, and its trigger the prompt."""
        mix, prompt = self.form.adapters.read(values), values[self.form.prompt] or ""
        if place >= len(mix):  # the button was pressed twice
            return gr.skip()
        return self._mixed(values, *remove_from_mix(mix, prompt, place))

    def _add(self, values: Values, names: Sequence[str]) -> Update:
        mix, prompt = self.form.adapters.read(values), values[self.form.prompt] or ""
        added = [get_adapter(self.space, name) for name in names]
        for one in added:
            mix, prompt = add_to_mix(mix, prompt, one)
        return self._joined(values, mix, prompt, [(one.path, 1.0) for one in added])

    def take_tags(self, values: Values) -> Update:
        """Adapters that the prompt names, as in <lora:NAME:0.8>, become adapters of the mix."""
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
        """Some adapters have joined the mix: a speed adapter among them sets what it needs."""
        faster, said = speed_fields(files, ())
        if not said:
            return self._mixed(values, mix, prompt)
        widgets = self.form.sampling_widgets()
        before = {name: values[widget] for name, widget in widgets.items()}
        update = {widgets[name]: value or "" for name, value in faster.items()}
        mixed = self._mixed({**values, **update}, mix, prompt)
        undo = {self.form.before_speed: before, self.form.undo_speed: gr.Button(visible=True)}
        return mixed | update | undo | {self.form.sampling_note: paragraph(said)}

    def use_clip_skip(self, values: Values) -> Update:
        """Prompts are read with the clip skip that an adapter of the mix was trained with."""
        shot = self.form.read(values)
        wanted = clip_skip_hint(shot, base_family(self.space, shot.base))[1]
        if wanted is None:  # the button was pressed twice
            return gr.skip()
        shown: Update = {self.form.reading["clip_skip"]: str(wanted)}
        return shown | self.change({**values, **shown})

    def show_in_editor(self, values: Values) -> Update:
        """The picture to start from can be painted over."""
        picture = values[self.form.start]
        shown = {"background": picture, "layers": [], "composite": picture} if picture else None
        return {self.form.paint: shown}

    def take_painted(self, values: Values) -> Update:
        """What was painted is the mask."""
        mask = keep_painted(self.space, values[self.form.paint])
        shown: Update = {self.form.mask: mask}
        return shown | self.change({**values, **shown})

    def undo_speed(self, values: Values) -> Update:
        """Sampler, spacing, steps and CFG are again what a speed adapter found."""
        before = values[self.form.before_speed]
        if before is None:  # the button was pressed twice
            return gr.skip()
        widgets = self.form.sampling_widgets()
        update: Update = {widgets[name]: value for name, value in before.items()}
        changed = {**values, **update}
        shown = {self.form.before_speed: None, self.form.undo_speed: gr.Button(visible=False)}
        return update | shown | self.change(changed)

    def send_to_batch(self, values: Values) -> Update:
        """The tab Batch opens with these settings."""
        return {self.page.shot: self.form.read(values), self.page.tabs: gr.Tabs(selected="batch")}

    def _mixed(self, values: Values, mix: Sequence[MixAdapter], prompt: str) -> Update:
        """Another mix and another prompt."""
        base, said = values[self.form.base], {self.form.prompt: prompt}
        changed = self.change_regions({**values, **said}, mix)
        return self.form.update_mix(mix, base) | said | changed

    def refused(self, values: Values, wrong: BadInput) -> Update:
        """Name the field that no picture can be made with; the buttons wait until it is right."""
        shown = gr.HTML(paragraph(sentence(str(wrong)), "problem"), visible=True)
        return {self.tab.problem: shown} | self._buttons(ready=False) | self._method_options(values)

    def _buttons(self, *, ready: bool) -> Update:
        """The buttons that draw."""
        return {one: gr.Button(interactive=ready) for one in self.tab.drawing_buttons()}

    def _method_options(self, values: Values) -> Update:
        groups = [*self.form.groups.items(), ("regions", self.form.regions.group)]
        chosen, regions = values[self.form.method], self.form.regions
        shown: Update = {group: gr.Group(visible=name == chosen) for name, group in groups}
        painted = values[regions.masks] == "drawn"
        return shown | {regions.painting: gr.Accordion(visible=painted)}

    def computed(self, shot: Shot, values: Values) -> Update:
        """Update what the settings decide: the method's options, the schedule, the axes."""
        tab, found = self.tab, axes(shot)
        choices = [(NOTHING.capitalize(), NOTHING), *((axis.label, axis.name) for axis in found)]
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
        for axis, usual in ((tab.column, "method"), (tab.row, NOTHING)):
            chosen = values[axis] if values[axis] in names else usual
            update[axis] = gr.update(choices=choices, value=chosen)
        return update

    def filled(self, shot: Shot, values: Values) -> Update:
        """All settings are those of this shot."""
        update = self.form.update(shot)
        settings = {self.tab.column: "", self.tab.row: "", **values}
        settings |= {one: update[one] for one in (self.form.method, self.form.regions.masks)}
        return update | self.computed(shot, settings) | {self.tab.auto: shot.base in BUNDLED_BASES}
