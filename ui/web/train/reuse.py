"""A training's settings put back into the form that it was asked for with."""

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
from ui.web.train.request import Form
from ui.web.train.reward import ALIGN, FIRST


def settings_of(space: Workspace, form: Form, job: Job) -> tuple[Update, list[str]]:
    """What the widgets are to hold, and a sentence for each thing that is no longer here."""
    asked, missing = cast("Any", without_fp8(job.arguments)), list[str]()
    recipe, more = asked["recipe"], form.more
    kind, aligns = asked["kind"], asked["kind"] in trainers.reward_kinds()
    library = {one.name for one in list_adapters(space)}
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
    library: Collection[str], form: Form, asked: Mapping[str, Any], missing: list[str]
) -> Update:
    """Prompts, and the adapters that were merged in; older trainings have none."""
    file, mixed = asked.get("prompts"), asked.get("adapters") or ()
    path = Path(file) if file else None
    there = path is not None and path.is_file()
    if path and not there:
        missing.append(f"Its prompts, {file}, are no longer there: give some.")
    found = [(_adapter_of(library, one, missing), strength) for one, strength in mixed]
    return {
        form.prompted.prompts: read_text(path) if path and there else "",
        form.prompted.adapters: [f"{name}:{strength:g}" for name, strength in found if name],
    }


def _set_of(space: Workspace, folders: Sequence[Sequence[Any]], missing: list[str]) -> str:
    """The set of a training's pictures; "" where they are not one of the workspace."""
    if not folders:  # it learned from the base
        return ""
    known = {one.path: one.name for one in list_sets(space)}
    names = [known.get(Path(folder), "") for folder, _ in folders]
    if len(names) == 1 and names[0]:
        return names[0]
    said = " and ".join(str(folder) for folder, _ in folders)
    missing.append(f"Its pictures, {said}, are not a set here: add them again.")
    return ""


def _adapter_of(library: Collection[str], file: str | None, missing: list[str]) -> str:
    """The library's adapter that a training started from; "" for none."""
    if not file:
        return ""
    name = adapter_name(file)
    if name in library:
        return name
    missing.append(f"The adapter that it began with, {name}, is no longer in the library.")
    return ""
