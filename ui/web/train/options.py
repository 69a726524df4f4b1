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
    "diffusekrona": "For a subject. Its files are about a sixth as large as those of a LoRA.",
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
SAMPLES, CHECKPOINTS = 8, 4  # of a training, unless set
ELSEWHERE = ", in the snowy mountains"  # after the trigger words, in the second sample prompt


@dataclass(frozen=True)
class Options:
    """The widgets, by field. of_kind: those of each adapter type; groups: their containers."""

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
        """The widgets that say nothing where nothing is learned from pictures."""
        unused = trainers.distillation_kinds()["lcm"].unused
        return [self.prior, *(one for name, one in self.recipe.items() if name in unused)]

    def deciding(self) -> list[Component]:
        """The widgets that time and memory depend on."""
        own = [one for kind in self.of_kind.values() for one in kind.values()]
        return list(dict.fromkeys([*self.recipe.values(), *self.loading.values(), *own]))


def shown_kinds() -> dict[str, type[trainers.Kind]]:
    """The adapter types to choose from; one of the rewards stands for all of them."""
    rewards = {ALIGN: trainers.reward_kinds()[FIRST]}
    return trainers.kinds() | trainers.distillation_kinds() | rewards


def preset(kind: trainers.Kind, base: BaseInfo | None, steps: int | None = None) -> Recipe:
    """The preset of this kind on this base, with samples and checkpoints during the training.

    base: None for one that is not downloaded yet. steps: if they were set.
    """
    chosen = trainers.recipe_for(base, kind) if base else Recipe()
    steps = steps or chosen.steps
    every = {
        "sample_every": max(1, round(steps / SAMPLES)),
        "save_every": max(1, round(steps / CHECKPOINTS)),
    }
    return trainers.with_options(chosen, {"steps": steps} | every)


def lay_out_options(space: Workspace, steps: gr.Textbox, rewards: RewardWidgets) -> Options:
    """Lay out all options but those in MAIN and of `rewards`, in closed accordions.

    steps: the widget of `steps`.
    """
    start = preset(trainers.kinds()["lora"](), None)
    presets = {name: f"{getattr(start, name)}" for name in PRESET}
    recipe: dict[str, Component] = {"steps": steps}
    own, groups = {}, {}
    with gr.Accordion("More options", open=False):
        with gr.Accordion("Options of the adapter type", open=True):
            for name, kind in shown_kinds().items():
                with gr.Group(visible=name == "lora") as groups[name]:
                    own[name] = _row(shared_form() if name == ALIGN else Form(kind))
            own |= rewards.with_shared(own.pop(ALIGN))
        for title, names in GROUPS.items():
            with gr.Accordion(title, open=False):
                recipe |= _row(form_with(Recipe, names, presets))
                if title == "Class pictures":
                    info = "A set of your own; what is missing is drawn"
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
    return Options(fields, loading, own, groups, name, init, prior)  # pyright: ignore[reportPossiblyUnboundVariable]


def preset_placeholders(
    kind: trainers.Kind, base: BaseInfo | None, steps: int | None
) -> dict[str, Any]:
    """Updates of the widgets, by field, that show the values used when they are left empty."""
    recipe = preset(kind, base, steps)
    presets = {name: getattr(recipe, name) for name in SHOWN}
    told = {field.name: help_of(field) for field in fields_of(Form(Recipe))}
    return {
        name: gr.Dropdown(info=f"{told[name]}; usual here: {value}")
        if name == "schedule"
        else gr.Textbox(placeholder=f"{value:g}")
        for name, value in presets.items()
    }


def fields_given(space: Workspace, given: Options, kind: str, data: Values) -> dict[str, Any]:
    """The fields of a TrainingRequest that these widgets hold. Raises BadInput."""
    init, prior, unused = data[given.init], data[given.prior], trainers.all_kinds()[kind].unused
    recipe = given.recipe.read(data).items()
    return {
        "options": given.of_kind[kind].read(data),
        "recipe": {name: value for name, value in recipe if name not in unused},
        "loading": given.loading.read(data),
        "name": (data[given.name] or "").strip(),
        "init": str(adapter_path(space, init)) if init else None,
        "prior_pictures": get_set(space, prior).path if prior and not unused else None,
    }


def _dropdown(choices: Callable[[], Choices], label: str, info: str) -> gr.Dropdown:
    """Its choices are those of the moment in which it is opened."""
    made = gr.Dropdown(choices(), value="", label=label, info=info)
    made.focus(lambda: gr.Dropdown(choices()), outputs=made, api_visibility="private")
    return made


def _row(form: Form) -> FieldWidgets:
    """A form's widgets, side by side as far as there is room."""
    with gr.Row(elem_classes="studio-fields"):
        return field_widgets(form)


def prior_choices(space: Workspace) -> Choices:
    """The sets of pictures, and none."""
    return [("None", ""), *((one.name, one.name) for one in list_sets(space))]


def adapter_choices(space: Workspace) -> Choices:
    """The library, and nothing."""
    return [("Nothing", ""), *((one.name, one.name) for one in list_adapters(space))]
