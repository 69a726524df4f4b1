"""What stands in the form of the tab Train: as a job of the queue, and what that would take."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from studio.bases.info import BaseInfo, read_base_info
from studio.errors import BadInput
from studio.workspace import Workspace, get_set
from ui.shared.queue_requests import queue_training
from ui.web.server.fields import read_values
from ui.web.train.estimate_process import Asked, estimated
from ui.web.train.options import ELSEWHERE, STEPS, Options, asked, preset

__all__ = ["Data", "Form", "cost", "queue", "sample_prompts"]

Data = Mapping[Component, Any]
Table = dict[str, Any]


@dataclass(frozen=True)
class Form:
    """The widgets that say what is to be trained, and how."""

    sets: gr.Dropdown
    trigger: gr.Textbox
    base: gr.Dropdown
    kind: gr.Radio
    steps: gr.Textbox
    sampled: gr.Textbox
    more: Options

    def all(self) -> set[Component]:
        """Every one of them."""
        own = (self.sets, self.trigger, self.base, self.kind, self.steps, self.sampled)
        return {*own, *self.more.all()}


def cost(space: Workspace, form: Form, data: Data) -> str:
    """Time and memory in a sentence; "" for a base that is not here yet. Raises BadInput."""
    base = read_base_info(data[form.base] or "")
    if base is None:
        return ""
    given = asked(space, form.more, data[form.kind], data)
    told = Asked.of(
        space,
        given["kind"],
        base,
        pictures=len(get_set(space, data[form.sets]).pictures),
        recipe=_recipe(form, data, given, base),
        loading=given["loading"],
    )
    said = estimated(space, told)
    return f"{said[:1].upper()}{said[1:]}"


def queue(space: Workspace, form: Form, data: Data) -> int:
    """Queue the training that was asked for; its job's number. Raises BadInput."""
    if not data[form.sets]:
        raise BadInput("choose pictures first: drop some in, or take an example")
    given = asked(space, form.more, data[form.kind], data)
    recipe = _recipe(form, data, given, read_base_info(data[form.base] or ""))
    job = queue_training(
        space,
        given["kind"],
        get_set(space, data[form.sets]).path,
        trigger=(data[form.trigger] or "").strip(),
        base=data[form.base] or "",
        prior_pictures=given["prior_pictures"],
        init=given["init"],
        recipe=recipe,
        loading=given["loading"],
        name=given["name"],
    )
    return job.id


def _recipe(form: Form, data: Data, given: Mapping[str, Any], base: BaseInfo | None) -> Table:
    """What differs from where a training of this kind on this base starts from."""
    number = read_values(STEPS, {"steps": data[form.steps]})
    start = preset(given["kind"], base, number.get("steps"))
    prompts = data[form.sampled] or sample_prompts((data[form.trigger] or "").strip())
    return {
        "sample_every": start.sample_every,
        "save_every": start.save_every,
        "sample_prompts": [line.strip() for line in prompts.splitlines() if line.strip()],
        **number,
        **given["recipe"],
    }


def sample_prompts(trigger: str) -> str:
    """Those of a training where nobody gave any, one a line."""
    return f"{trigger}\n{trigger}{ELSEWHERE}"
