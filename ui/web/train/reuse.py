"""Put a training's settings back into the form."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import gradio as gr

import trainers
from studio.files import read_text
from studio.queue.job import Job
from studio.requests.training import without_fp8
from studio.workspace import Workspace, list_adapters, list_sets
from ui.shared.names import adapter_name
from ui.web.server.page import Update
from ui.web.train.dataset.picture_sets import set_choices
from ui.web.train.options import adapter_choices, prior_choices
from ui.web.train.request import TrainForm
from ui.web.train.reward import ALIGN, FIRST


def settings_of(space: Workspace, form: TrainForm, job: Job) -> tuple[Update, list[str]]:
    """The values of the widgets, and a sentence for each setting that is no longer here."""
    asked, missing = cast("Any", without_fp8(job.arguments)), list[str]()
    recipe, more = asked["recipe"], form.more
    kind, aligns = asked["kind"], asked["kind"] in trainers.reward_kinds()
    library = {adapter.name for adapter in list_adapters(space)}
    update: Update = {
        form.sets: gr.update(
            choices=set_choices(space), value=_set_of(space, asked["pictures"], missing)
        ),
        form.trigger: asked["trigger"],
        form.base: asked["base"],
        form.kind: ALIGN if aligns else kind,
        form.reward.name: kind if aligns else FIRST,
        form.sampled: "\n".join(recipe.get("sample_prompts") or ()),
        **_prompted(library, form, asked, missing),
        more.name: asked["name"] if asked["name"] != asked["trigger"] else "",
        more.init: gr.update(
            choices=adapter_choices(space), value=_adapter_of(library, asked["init"], missing)
        ),
    }
    update |= more.recipe.show(recipe) | more.loading.show(asked["loading"])
    update |= more.of_kind[kind].show(asked["options"])
    prior = asked["prior_pictures"]
    chosen = _set_of(space, [[prior, 1]], missing) if prior else ""
    update[more.prior] = gr.update(choices=prior_choices(space), value=chosen)
    return update, missing


def _prompted(
    library: Collection[str], form: TrainForm, asked: Mapping[str, Any], missing: list[str]
) -> Update:
    """The prompts and the merged adapters. Jobs of older versions of Studio have neither."""
    file, mixed = asked.get("prompts"), asked.get("adapters") or ()
    path = Path(file) if file else None
    exists = path is not None and path.is_file()
    if path and not exists:
        missing.append(f"Its prompts, {file}, are no longer there: give some.")
    merged = [(_adapter_of(library, adapter, missing), strength) for adapter, strength in mixed]
    return {
        form.prompted.prompts: read_text(path) if path and exists else "",
        form.prompted.adapters: [f"{name}:{strength:g}" for name, strength in merged if name],
    }


def _set_of(space: Workspace, folders: Sequence[Sequence[Any]], missing: list[str]) -> str:
    """The name of the set in these folders; "" where they are not a set of the workspace.

    folders: as in a job, each with its number of repeats.
    """
    if not folders:  # the training learned from the base, without pictures
        return ""
    sets = {pictures.path: pictures.name for pictures in list_sets(space)}
    names = [sets.get(Path(folder), "") for folder, _ in folders]
    if len(names) == 1 and names[0]:
        return names[0]
    paths = " and ".join(str(folder) for folder, _ in folders)
    missing.append(f"Its pictures, {paths}, are not a set here: add them again.")
    return ""


def _adapter_of(library: Collection[str], file: str | None, missing: list[str]) -> str:
    """The name in the library of an adapter that a training began with; "" if it is gone."""
    if not file:
        return ""
    name = adapter_name(file)
    if name in library:
        return name
    missing.append(f"The adapter that it began with, {name}, is no longer in the library.")
    return ""
