"""The widgets for the settings of one shot. `read` makes the shot, `update` shows one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr
from gradio.components import Component
from PIL import ImageChops

import compose
from studio.bases.names import BUNDLED_BASES
from studio.bases.samplers import SCHEDULERS, SPACINGS
from studio.errors import BadInput
from studio.requests.adapter_tags import take_adapter_tags
from studio.requests.shot import Shot, method_name, method_options
from studio.workspace import Workspace, adapter_path, keep_start_picture, list_bases
from ui.shared.form import Form, form_with
from ui.shared.loading import Loading
from ui.shared.names import adapter_name
from ui.web.frontend import method_choices, script
from ui.web.mix import html
from ui.web.mix.adapter_slots import AdapterSlots
from ui.web.mix.block_strengths import BlockSliders
from ui.web.mix.mix_adapters import EXAMPLES, WHOLE, MixAdapter
from ui.web.mix.region_form import RegionForm
from ui.web.server.fields import (
    FieldWidgets,
    field_widgets,
    read_as,
    read_number,
    shown_on,
)
from ui.web.server.page import Components, Update, Values
from ui.web.words import label, value_label

# On the bundled bases eight steps of this sampler draw as well as twelve of their default sampler,
# and faster. Other bases begin with the defaults of Shot.
FAST = {"steps": 8, "scheduler": "dpmpp_2m", "spacing": "trailing"}
USUAL = {"steps": Shot.steps, "scheduler": None, "spacing": None}
PLAIN = Shot(EXAMPLES[0], **FAST)
SIDES = dict.fromkeys(("width", "height"), "the base's own")
SIZE = form_with(
    Shot, (*SIDES, "second_pass", "second_denoise"), defaults=SIDES | {"second_pass": "none"}
)
AVOIDING = form_with(Shot, ("avoid", "avoid_by", "avoid_strength"))
READING = form_with(Shot, ("syntax", "clip_skip"))


class ShotForm:
    """The widgets, laid out where this is created."""

    def __init__(self, space: Workspace) -> None:
        self.space = space
        self._lay_out_prompt()
        self.adapters = AdapterSlots(space)
        self._lay_out_method()
        self._lay_out_sampling()
        self._lay_out_base()
        self._lay_out_start_picture()
        with gr.Accordion("Model loading", open=False):
            self.loading = field_widgets(Form(Loading))

    def _lay_out_prompt(self) -> None:
        self.prompt = gr.Textbox(
            PLAIN.prompt, label="Prompt", lines=2, max_lines=6, elem_id="mix-prompt",
            info="What to draw. Trigger words call up the adapters.",
        )  # fmt: skip
        self.examples = gr.HTML(
            html.examples(EXAMPLES), js_on_load=script("clicked_item.js"), elem_id="mix-examples"
        )
        with gr.Accordion("Negative prompt and words to avoid", open=False):
            self.negative = gr.Textbox(
                label="Negative prompt", show_label=False, lines=1, max_lines=4,
                placeholder="What the picture must not show",
            )  # fmt: skip
            with gr.Row():
                self.avoiding = field_widgets(AVOIDING)
        with gr.Accordion("How prompts are read", open=False), gr.Row():
            self.reading = field_widgets(READING)
        with gr.Row(equal_height=True):
            self.clip_note = gr.HTML(elem_id="mix-clip-note")
            self.use_clip_skip = gr.Button(size="sm", visible=False, min_width=140, scale=0)

    def _lay_out_method(self) -> None:
        self.method = gr.Dropdown(
            method_choices(compose.methods(), told=True), value=method_name(PLAIN.method),
            label="Method",
            info="How the adapters share the picture",
        )  # fmt: skip
        self.regions = RegionForm()
        self.groups: dict[str, gr.Group] = {}
        self.options: dict[str, FieldWidgets] = {}
        with gr.Accordion("Method options", open=False):
            for name, method in compose.methods().items():
                shown = name == method_name(PLAIN.method)
                with gr.Group(visible=shown) as self.groups[name]:
                    there = {"masks": self.regions.masks} if name == "regions" else None
                    self.options[name] = field_widgets(Form(method), there)
                    if name == "merge":
                        self.blocks = BlockSliders(self.space, self.options[name]["blocks"])  # pyright: ignore

    def _lay_out_sampling(self) -> None:
        with gr.Row():
            self.steps = gr.Slider(
                1, 100, PLAIN.steps, step=1, label="Steps", info="More take longer", buttons=[]
            )
            self.guidance = gr.Slider(
                1, 15, float(PLAIN.guidance), step=0.5, label="CFG scale", buttons=[],
                info="Prompt weight",
            )  # fmt: skip
        self.before_speed = gr.State(None)  # the sampling before a speed adapter changed it
        with gr.Row(equal_height=True):
            self.sampling_note = gr.HTML(elem_id="mix-sampling-note")
            self.undo_speed = gr.Button(
                "Undo these settings", size="sm", visible=False, min_width=140, scale=0
            )
        with gr.Row(equal_height=True):
            # Not a gr.Number: numbers in a browser have 53 bits, seeds have up to 63.
            self.seed = gr.Textbox(
                str(PLAIN.seed), label="Seed", info="The same seed draws the same picture",
                max_lines=1, scale=2, min_width=120,
            )  # fmt: skip
            self.lock = gr.Checkbox(
                False, label="Lock seed", info="Off: Draw takes a new one", scale=2,
                min_width=120,
            )  # fmt: skip

    def _lay_out_base(self) -> None:
        with gr.Row():
            self.base = gr.Dropdown(
                base_choices(self.space), value=PLAIN.base, label="Base model", min_width=140
            )
            self.scheduler, self.spacing = (
                gr.Dropdown(
                    [("Default", ""), *((value_label(one), one) for one in names)],
                    value=getattr(PLAIN, field),
                    label=label(field),
                    min_width=140,
                )
                for field, names in (("scheduler", SCHEDULERS), ("spacing", SPACINGS))
            )
        with gr.Accordion("Size and second pass", open=False), gr.Row():
            self.size = field_widgets(SIZE)

    def _lay_out_start_picture(self) -> None:
        with gr.Accordion("Start from a picture", open=False):
            with gr.Row():
                self.start, self.mask = (
                    gr.Image(
                        label=words, type="filepath", sources=["upload", "clipboard"], height=200,
                        buttons=[], min_width=140,
                    )
                    for words in ("Picture", "Mask: only white is redrawn")
                )  # fmt: skip
            with gr.Accordion("Paint the mask", open=False):
                self.paint = gr.ImageEditor(
                    label="Paint over the part to redraw", type="pil", sources=(),
                    transforms=(), layers=False, height=320, buttons=[], format="png",
                    brush=gr.Brush(colors=["#ffffff"], color_mode="fixed"),
                )  # fmt: skip
                self.use_painted = gr.Button("Use as mask", size="sm")
            self.denoise = gr.Slider(
                0.05, 1, PLAIN.denoise, step=0.05, label="Denoise", buttons=[],
                info="How much changes; 1 redraws all of it",
            )  # fmt: skip

    def sampling_widgets(self) -> dict[str, Component]:
        """The widgets that a speed adapter sets, by the names of the shot's fields."""
        return {
            "scheduler": self.scheduler,
            "spacing": self.spacing,
            "steps": self.steps,
            "guidance": self.guidance,
        }

    def speed_outputs(self) -> Components:
        """The components that change when a speed adapter is added, and when that is undone."""
        notes = {self.before_speed, self.sampling_note, self.undo_speed}
        return notes | {*self.sampling_widgets().values()}

    def choices(self) -> list[gr.Dropdown | gr.Radio]:
        """The choices whose change needs nothing but a new picture: no method, no masks."""
        kinds = gr.Dropdown, gr.Radio
        choices = [widget for widget in self._field_widgets() if isinstance(widget, kinds)]
        others = (choice for choice in choices if choice != self.regions.masks)
        return [self.scheduler, self.spacing, *others]

    def inputs(self) -> Components:
        """The components whose values `read` takes, and the widgets of `loading`."""
        return (
            {self.prompt, self.negative, self.method, self.steps, self.guidance, self.seed}
            | {self.base, self.scheduler, self.spacing, *self._field_widgets()}
            | {self.start, self.mask, self.denoise, self.before_speed}
            | self.adapters.inputs()
            | self.regions.inputs()
        )

    def widgets(self) -> set[Component]:
        """The inputs that a person sets, without the canvas."""
        left_out = (gr.State, gr.ImageEditor)
        components = (each for each in self.inputs() if isinstance(each, Component))
        return {each for each in components if not isinstance(each, left_out)}

    def outputs(self) -> Components:
        """The components that `update` changes."""
        settings = self.inputs() - {*self.loading.values()}
        return settings | self.mix_outputs() | self.speed_outputs()

    def mix_outputs(self) -> Components:
        """The components that `update_mix` changes."""
        return self.adapters.outputs() | {self.examples}

    def read(self, given: Values, mix: Sequence[MixAdapter] | None = None) -> Shot:
        """The shot of these values. Its adapters, start picture and mask are in the workspace.

        Adapters that the prompt names follow those of the mix. mix: the adapters, if other ones
        than on the page. Raises BadInput for a wrong value, and for adapters that are gone.
        """
        mix = self.adapters.read(given) if mix is None else mix
        start = self._keep_picture(given[self.start])
        shot = Shot(
            prompt=given[self.prompt] or "",
            base=given[self.base],
            negative=given[self.negative] or "",
            seed=read_as("seed", int, given[self.seed] or "0"),
            steps=int(read_number("steps", given[self.steps])),
            guidance=read_number("CFG scale", given[self.guidance]),
            scheduler=given[self.scheduler] or None,
            spacing=given[self.spacing] or None,
            adapters=tuple((each.file(self.space), each.strength) for each in mix if each.on),
            method=self._read_method(given),
            regions=self.regions.read(given) if given[self.method] == "regions" else (),
            init_image=start,
            mask=start and self._keep_picture(given[self.mask]),
            denoise=read_number("denoise", given[self.denoise]),
            **self.size.read(given),
            **self.reading.read(given),
            **self.avoiding.read(given),
        )
        shot.check()
        shot = take_adapter_tags(shot, partial(adapter_path, self.space))
        return shot if shot.adapters or shot.regions else replace(shot, method=None)

    def sampling_for(self, given: Values) -> Update:
        """Show the default steps and sampler of the base, unless the user has chosen others."""
        widgets = {"steps": self.steps, "scheduler": self.scheduler, "spacing": self.spacing}
        if {name: given[widget] or None for name, widget in widgets.items()} not in (FAST, USUAL):
            return {}
        defaults = FAST if given[self.base] in BUNDLED_BASES else USUAL
        return {widget: defaults[name] or "" for name, widget in widgets.items()}

    def update(self, shot: Shot) -> Update:
        """Show this shot. Its adapters must be files of the library."""
        # Plain numbers: Gradio sends numbers of a subclass as text.
        guidance, steps = float(shot.guidance), int(shot.steps)
        update: Update = {
            self.prompt: shot.prompt,
            self.negative: shot.negative,
            self.base: shot.base,
            self.seed: str(shot.seed),
            self.steps: shown_on(self.steps, steps),
            self.guidance: shown_on(self.guidance, guidance),
            self.scheduler: shot.scheduler or "",
            self.spacing: shot.spacing or "",
            self.start: shot.init_image,
            self.mask: shot.mask,
            self.denoise: shown_on(self.denoise, shot.denoise),
            self.before_speed: None,
            self.undo_speed: gr.Button(visible=False),
        }
        for fields in (self.size, self.reading, self.avoiding):
            update |= fields.show(vars(shot))
        mix = [_mix_adapter(str(file), strength) for file, strength in shot.adapters]
        update |= self._update_method(shot) | self.regions.update(shot)
        return update | self.update_mix(mix, shot.base)

    def update_mix(self, mix: Sequence[MixAdapter], base: str) -> Update:
        """Show these adapters, and the library beside them."""
        examples = gr.HTML(visible=base in BUNDLED_BASES and not mix)
        return {self.examples: examples} | self.adapters.update(mix, base)

    def _keep_picture(self, path: str | None) -> str | None:
        return str(keep_start_picture(self.space, path)) if path else None

    def _read_method(self, given: Values) -> object | None:
        """The chosen method with its options; None for a plain merge."""
        name = given[self.method]
        method = compose.method_named(name, self.options[name].read(given))
        return None if method == compose.Merge() else method

    def _update_method(self, shot: Shot) -> Update:
        chosen = method_name(shot.method, shot.regions)
        update: Update = {self.method: chosen}
        for name, fields in self.options.items():
            update |= fields.show(method_options(shot.method) if name == chosen else {})
        return update

    def _field_widgets(self) -> list[Component]:
        """The widgets that `field_widgets` made: of Loading, of a shot's fields, of all methods."""
        groups = (self.loading, self.reading, self.avoiding, self.size, *self.options.values())
        return [widget for fields in groups for widget in fields.values()]


def base_choices(space: Workspace) -> list[tuple[str, str]]:
    """The name and source of each base that the workspace knows."""
    return [(base.name, base.source) for base in list_bases(space)]


def _mix_adapter(file: str, strength: float) -> MixAdapter:
    name, _, half = adapter_name(file).partition(":")
    return MixAdapter(name, strength, half or WHOLE)


def keep_painted(space: Workspace, painted: Mapping[str, Any] | None) -> str:
    """Keep a mask in the workspace, white where something was painted; returns its path.

    painted: the value of a gr.ImageEditor of type "pil". Raises BadInput where nothing was painted.
    """
    layers = [layer.getchannel("A") for layer in (painted or {}).get("layers") or ()]
    mask = reduce(ImageChops.lighter, layers).point([0] + [255] * 255) if layers else None
    if mask is None or mask.getbbox() is None:
        raise BadInput("nothing is painted: paint over the part to redraw")
    with TemporaryDirectory(dir=space.cache) as scratch:
        file = Path(scratch) / "mask.png"
        mask.save(file)
        return str(keep_start_picture(space, file))
