"""The options of a training as widgets, in groups, and what was asked for with them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import gradio as gr
from gradio.components import Component

import trainers
from studio.bases.info import BaseInfo
from studio.workspace import Workspace, adapter_path, get_set, list_adapters, list_sets
from trainers import Recipe
from ui.shared.form import Form
from ui.shared.loading import Loading
from ui.web.server.fields import values, widgets

__all__ = [
    "GROUPS",
    "MAIN",
    "NAMES",
    "SHOWN",
    "STEPS",
    "WORDS",
    "Options",
    "asked",
    "options",
    "preset",
    "shown",
]

NAMES = {
    "lora": "LoRA",
    "diffusekrona": "DiffuseKronA",
    "blora": "B-LoRA",
    "sara": "SaRA",
}
WORDS = {
    "lora": "Subjects and styles; every other program reads its files. Begin with this one.",
    "diffusekrona": "Subjects, in files about a sixth of a LoRA's size.",
    "blora": "One picture, whose content and style can then be mixed apart; for SDXL and sketch.",
    "sara": "The base's least important weights themselves; styles, from more pictures.",
}
MAIN = ("steps", "sample_prompts")  # fields of Recipe that are not folded away
GROUPS = {
    "Learning": (
        *("batch", "accumulation", "lr", "schedule", "warmup", "optimizer", "weight_decay"),
        *("lora_plus", "ema", "clip", "seed"),
    ),
    "Pictures": (
        *("size", "buckets", "flip", "crops", "caption_dropout", "masked", "unmasked_weight"),
    ),
    "Noise and loss": ("min_snr", "noise_offset", "input_perturbation"),
    "Text encoders and new words": (
        *("text_encoders", "text_lr", "new_tokens", "token", "token_init", "token_lr"),
    ),
    "Class pictures": ("prior_class", "prior_count", "prior_weight"),
    "Samples and checkpoints": ("sample_every", "save_every", "keep", "tensorboard"),
    "Memory and precision": ("checkpointing", "precision", "cache"),
}
# What a base and a kind decide where nothing is asked for; of the others the dataclass tells.
PRESET = ("steps", "batch", "accumulation", "lr", "schedule", "sample_every", "save_every")
SHOWN = tuple(name for name in PRESET if name not in MAIN)
SAMPLES, CHECKPOINTS = 8, 4  # of a training, where nothing else is asked for
ELSEWHERE = ", in the snowy mountains"  # behind the trigger, in the second sample prompt
STEPS = Form(
    Recipe,
    "",
    without=frozenset(one.name for one in fields(Recipe)) - {"steps"},
    defaults={"steps": "of the preset"},
)


@dataclass(frozen=True)
class Options:
    """The widgets. of_kind: for each kind its own, by field; groups: what holds them."""

    recipe: dict[str, Component]
    loading: dict[str, Component]
    of_kind: dict[str, dict[str, Component]]
    groups: dict[str, gr.Group]
    name: gr.Textbox
    init: gr.Dropdown
    prior: gr.Dropdown

    def all(self) -> set[Component]:
        """Every one of them."""
        return {*self.deciding(), self.name, self.init, self.prior}

    def deciding(self) -> list[Component]:
        """Those on which time and memory hang."""
        own = [one for kind in self.of_kind.values() for one in kind.values()]
        return [*self.recipe.values(), *self.loading.values(), *own]


def preset(kind: trainers.Kind, base: BaseInfo | None, steps: int | None = None) -> Recipe:
    """Where a training of this kind starts from, with samples and checkpoints on the way.

    base: None for one that is not here yet. steps: where they were asked for.
    """
    chosen = trainers.recipe_for(base, kind) if base else Recipe()
    steps = steps or chosen.steps
    every = {
        "sample_every": max(1, round(steps / SAMPLES)),
        "save_every": max(1, round(steps / CHECKPOINTS)),
    }
    return trainers.with_options(chosen, {"steps": steps} | every)


def options(space: Workspace) -> Options:
    """Lay out all but those in MAIN, folded away."""
    recipe: dict[str, Component] = {}
    own, groups = {}, {}
    with gr.Accordion("More options", open=False):
        with gr.Accordion("Kind", open=True):
            for name, kind in trainers.kinds().items():
                with gr.Group(visible=name == "lora") as groups[name]:
                    own[name] = _row(Form(kind, ""))
        for title, names in GROUPS.items():
            with gr.Accordion(title, open=False):
                recipe |= _row(_form(names))
                if title == "Class pictures":
                    prior = gr.Dropdown(
                        _sets(space),
                        value="",
                        label="Class pictures",
                        info="A set that holds some; those that are missing are drawn",
                    )
                    prior.focus(
                        lambda: gr.Dropdown(_sets(space)), outputs=prior, api_visibility="private"
                    )
        with gr.Accordion("Opening the base", open=False):
            loading = _row(Form(Loading, ""))
        name = gr.Textbox(
            label="Name", info="Of the adapter in the library", placeholder="as the trigger"
        )
        init = gr.Dropdown(
            _adapters(space),
            value="",
            label="Start from",
            info="An adapter of this kind that is there already",
        )
        init.focus(lambda: gr.Dropdown(_adapters(space)), outputs=init, api_visibility="private")
    return Options(recipe, loading, own, groups, name, init, prior)  # pyright: ignore[reportPossiblyUnboundVariable]


def shown(kind: trainers.Kind, base: BaseInfo | None, steps: int | None) -> dict[str, Any]:
    """Updates of the widgets, by field, that show what holds where nothing is asked for."""
    recipe = preset(kind, base, steps)
    told = {name: getattr(recipe, name) for name in SHOWN}
    return {
        name: gr.Dropdown(info=f"{_help(name)}; {value} here")
        if name == "schedule"
        else gr.Textbox(placeholder=f"{value:g}")
        for name, value in told.items()
    }


def asked(
    space: Workspace, given: Options, kind: str, data: Mapping[Component, Any]
) -> dict[str, Any]:
    """What `queue_training` takes besides pictures, trigger and base; of the recipe what was given.

    Raises BadInput.
    """
    made, init, prior = trainers.kinds()[kind], data[given.init], data[given.prior]
    recipe = {}
    for names in GROUPS.values():
        recipe |= values(_form(names), {name: data[given.recipe[name]] for name in names})
    own = values(Form(made, ""), {name: data[one] for name, one in given.of_kind[kind].items()})
    loading = values(Form(Loading, ""), {name: data[one] for name, one in given.loading.items()})
    return {
        "kind": made(**own),
        "recipe": recipe,
        "loading": loading,
        "name": (data[given.name] or "").strip(),
        "init": adapter_path(space, init) if init else None,
        "prior_pictures": get_set(space, prior).path if prior else None,
    }


def _row(form: Form) -> dict[str, Component]:
    """A form's widgets, as many beside each other as there is room for."""
    with gr.Row(elem_classes="studio-fields"):
        return widgets(form)


def _form(names: tuple[str, ...]) -> Form:
    others = {entry.name for entry in fields(Recipe)} - set(names)
    start = preset(trainers.kinds()["lora"](), None)
    defaults = {name: f"{getattr(start, name)}" for name in names if name in PRESET}
    return Form(Recipe, "", without=frozenset(others), defaults=defaults)


def _help(name: str) -> str:
    said = next(entry for entry in fields(Recipe) if entry.name == name).metadata["help"]
    return said[:1].upper() + said[1:]


def _sets(space: Workspace) -> list[tuple[str, str]]:
    return [("None", ""), *((one.name, one.name) for one in list_sets(space))]


def _adapters(space: Workspace) -> list[tuple[str, str]]:
    return [("Nothing", ""), *((one.name, one.name) for one in list_adapters(space))]
