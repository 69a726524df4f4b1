"""The options of a training as widgets, in groups, and their values."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
from gradio.components import Component

import trainers
from studio.bases.info import BaseInfo
from studio.workspace import Workspace, adapter_path, get_set, list_adapters, list_sets
from trainers import Recipe
from ui.shared.form import Form, fields_of, form_with
from ui.shared.loading import Loading
from ui.web.server.fields import FieldWidgets, field_widgets, help_of
from ui.web.server.page import Values
from ui.web.train.reward import ALIGN, FIRST, RewardWidgets, shared_form

DESCRIPTIONS = {
    "lora": "For a subject or a style. Every other program reads its files: start with this one.",
    "diffusekrona": "For a subject. Its files are about a sixth of the size of a LoRA.",
    "blora": "Learns from one picture; mix its content and its style apart. For SDXL and sketch.",
    "sara": "For a style, from many pictures. Trains the base's least important weights.",
    "tlora": "For a subject, from one or two pictures. It leaves poses to the prompt.",
    "oft": "Turns weights instead of adding to them. Only peft and OneTrainer read its files.",
    "guidance": "Makes the base fast: half the time at every step, with any sampler. No pictures.",
    "lcm": "Makes the base faster still: pictures in four to eight steps. No pictures.",
    ALIGN: "Moves the base's pictures to a reward, such as a palette or seamless tiles.",
}
MAIN = ("steps", "sample_prompts")  # fields of Recipe that are not folded away
GROUPS = {
    "Learning": (
        *("batch", "accumulation", "lr", "schedule", "warmup", "optimizer", "weight_decay"),
        *("lora_plus", "ema", "clip", "seed"),
    ),
    "Pictures": (
        *("size", "buckets", "flip", "crops", "caption_dropout", "masked", "unmasked_weight"),
        *("background", "caption_syntax"),
    ),
    "Noise and loss": ("min_snr", "noise_offset", "input_perturbation"),
    "Text encoders and new words": (
        "clip_skip",
        *("text_encoders", "text_lr", "new_tokens", "token", "token_init", "token_lr"),
    ),
    "Class pictures": ("prior_class", "prior_count", "prior_weight"),
    "Samples and checkpoints": ("sample_every", "save_every", "keep", "tensorboard"),
    "Memory and precision": ("checkpointing", "compile", "precision", "cache"),
}
# Fields whose presets depend on the base and the adapter type; the others have fixed defaults.
PRESET = ("steps", "batch", "accumulation", "lr", "schedule", "sample_every", "save_every")
SHOWN = tuple(name for name in PRESET if name not in MAIN)
Choices = list[tuple[str, str]]  # labels and values
SAMPLES, CHECKPOINTS = 8, 4  # how many times a training draws samples and saves, unless set
ELSEWHERE = ", in the snowy mountains"  # after the trigger words, in the second sample prompt


@dataclass(frozen=True)
class Options:
    """The widgets of the options.

    of_kind, groups: the widgets of each adapter type, and their container.
    """

    recipe: FieldWidgets
    loading: FieldWidgets
    of_kind: dict[str, FieldWidgets]
    groups: dict[str, gr.Group]
    name: gr.Textbox
    init: gr.Dropdown
    prior: gr.Dropdown

    def all(self) -> set[Component]:
        """All widgets."""
        return {*self.deciding(), self.name, self.init, self.prior}

    def of_pictures(self) -> list[Component]:
        """The widgets that only trainings on pictures use."""
        unused = trainers.distillation_kinds()["lcm"].unused
        return [self.prior, *(widget for name, widget in self.recipe.items() if name in unused)]

    def deciding(self) -> list[Component]:
        """The widgets that time and memory depend on."""
        of_kind = [widget for kind in self.of_kind.values() for widget in kind.values()]
        return list(dict.fromkeys([*self.recipe.values(), *self.loading.values(), *of_kind]))


def shown_kinds() -> dict[str, type[trainers.Kind]]:
    """The adapter types to choose from. All rewards are a single choice, ALIGN."""
    rewards = {ALIGN: trainers.reward_kinds()[FIRST]}
    return trainers.kinds() | trainers.distillation_kinds() | rewards


def preset(kind: trainers.Kind, base: BaseInfo | None, steps: int | None = None) -> Recipe:
    """The preset of this kind on this base, with samples and checkpoints during the training.

    base: None if the base is not downloaded yet. steps: by default those of the preset.
    """
    recipe = trainers.recipe_for(base, kind) if base else Recipe()
    steps = steps or recipe.steps
    every = {
        "sample_every": max(1, round(steps / SAMPLES)),
        "save_every": max(1, round(steps / CHECKPOINTS)),
    }
    return trainers.with_options(recipe, {"steps": steps} | every)


def lay_out_options(space: Workspace, steps: gr.Textbox, rewards: RewardWidgets) -> Options:
    """Lay out the options in closed accordions, except for MAIN and the widgets of `rewards`.

    steps: the widget of the field `steps`.
    """
    start = preset(trainers.kinds()["lora"](), None)
    presets = {name: f"{getattr(start, name)}" for name in PRESET}
    recipe: dict[str, Component] = {"steps": steps}
    of_kind, groups = {}, {}
    with gr.Accordion("More options", open=False):
        with gr.Accordion("Options of the adapter type", open=True):
            for name, kind in shown_kinds().items():
                with gr.Group(visible=name == "lora") as groups[name]:
                    of_kind[name] = _row(shared_form() if name == ALIGN else Form(kind))
            of_kind |= rewards.with_shared(of_kind.pop(ALIGN))
        for title, names in GROUPS.items():
            with gr.Accordion(title, open=False):
                recipe |= _row(form_with(Recipe, names, presets))
                if title == "Class pictures":
                    info = "A set of your own; missing pictures are drawn"
                    prior = _dropdown(partial(prior_choices, space), "Class pictures", info)
        with gr.Accordion("Model loading", open=False):
            loading = _row(Form(Loading))
        name = gr.Textbox(
            label="Name",
            info="What to call the adapter in the library",
            placeholder="the trigger words",
        )
        info = "Go on from an adapter of this type (warm start)"
        init = _dropdown(partial(adapter_choices, space), "Start from", info)
    fields = FieldWidgets(form_with(Recipe, recipe, presets), recipe)
    return Options(fields, loading, of_kind, groups, name, init, prior)  # pyright: ignore[reportPossiblyUnboundVariable]


def preset_placeholders(
    kind: trainers.Kind, base: BaseInfo | None, steps: int | None
) -> dict[str, Any]:
    """Updates of widgets, by field, that show which values are used where they are left empty."""
    recipe = preset(kind, base, steps)
    presets = {name: getattr(recipe, name) for name in SHOWN}
    help_texts = {field.name: help_of(field) for field in fields_of(Form(Recipe))}
    return {
        name: gr.Dropdown(info=f"{help_texts[name]}; usual here: {value}")
        if name == "schedule"
        else gr.Textbox(placeholder=f"{value:g}")
        for name, value in presets.items()
    }


def fields_given(space: Workspace, more: Options, kind: str, data: Values) -> dict[str, Any]:
    """The fields of a TrainingRequest that these widgets hold.

    Raises BadInput for a wrong value, and for an adapter or a set that is gone.
    """
    init, prior, unused = data[more.init], data[more.prior], trainers.all_kinds()[kind].unused
    recipe = more.recipe.read(data).items()
    return {
        "options": more.of_kind[kind].read(data),
        "recipe": {name: value for name, value in recipe if name not in unused},
        "loading": more.loading.read(data),
        "name": (data[more.name] or "").strip(),
        "init": str(adapter_path(space, init)) if init else None,
        "prior_pictures": get_set(space, prior).path if prior and not unused else None,
    }


def _dropdown(choices: Callable[[], Choices], label: str, info: str) -> gr.Dropdown:
    """A dropdown that renews its choices whenever it is opened."""
    dropdown = gr.Dropdown(choices(), value="", label=label, info=info)
    dropdown.focus(lambda: gr.Dropdown(choices()), outputs=dropdown, api_visibility="private")
    return dropdown


def _row(form: Form) -> FieldWidgets:
    """A form's widgets, side by side where there is room."""
    with gr.Row(elem_classes="studio-fields"):
        return field_widgets(form)


def prior_choices(space: Workspace) -> Choices:
    """The choices of class pictures: none, or a set."""
    return [("None", ""), *((pictures.name, pictures.name) for pictures in list_sets(space))]


def adapter_choices(space: Workspace) -> Choices:
    """The choices of an adapter to start from: nothing, or an adapter of the library."""
    return [("Nothing", ""), *((adapter.name, adapter.name) for adapter in list_adapters(space))]
