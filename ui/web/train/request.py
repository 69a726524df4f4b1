"""Turn the form of the tab Train into a job of the queue, or into an estimate of its cost."""

import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import gradio as gr
from gradio.components import Component

import trainers
from studio.bases.info import BaseInfo, read_base_info
from studio.dataset.pictures import Pictures, read_pictures
from studio.errors import BadInput
from studio.requests.training import TrainingRequest, from_table
from studio.requests.validation import check_fields
from studio.workspace import Workspace, get_set
from trainers import Recipe
from ui.shared.queue_requests import queue_training
from ui.web.frontend import sentence
from ui.web.server.page import Values
from ui.web.server.waiting import waiting
from ui.web.train.estimate_process import estimate_sentence
from ui.web.train.options import ELSEWHERE, Options, fields_given, preset
from ui.web.train.prompts import PromptWidgets, adapters_of, prompts_file
from ui.web.train.reward import ALIGN, RewardWidgets


@dataclass(frozen=True)
class TrainForm:
    """The widgets that say what to train, and how."""

    sets: gr.Dropdown
    trigger: gr.Textbox
    base: gr.Dropdown
    kind: gr.Radio
    steps: gr.Textbox
    sampled: gr.Textbox
    reward: RewardWidgets
    prompted: PromptWidgets
    more: Options

    def all(self) -> set[Component]:
        """All widgets of the form."""
        always = (self.sets, self.trigger, self.base, self.kind, self.steps, self.sampled)
        prompted = (self.reward.name, self.prompted.prompts, self.prompted.adapters)
        return {*always, *prompted, *self.more.all()}

    def chosen(self, data: Values) -> str:
        """The kind to train: the adapter type, or the reward where the type is ALIGN."""
        kind = data[self.kind]
        return data[self.reward.name] if kind == ALIGN else kind


def from_prompts(kind: str) -> bool:
    """Whether this kind or adapter type learns from prompts instead of pictures."""
    return kind not in trainers.kinds()


def cost(space: Workspace, form: TrainForm, data: Values) -> str:
    """A sentence on time and memory; "" for a base that is not downloaded yet.

    Raises BadInput for a training that cannot run.
    """
    base = read_base_info(data[form.base] or "")
    if base is None:
        return ""
    pictures = () if from_prompts(data[form.kind]) else pictures_of(space, data[form.sets]).examples
    request = _request(space, form, data, base)
    estimate = estimate_sentence(space, request, base, pictures=len(pictures))
    return f"Takes {estimate}.{waiting(space, ('train',))}"


def pictures_of(space: Workspace, name: str) -> Pictures:
    """The pictures of a set, and what is left out of it. BadInput where none can be used."""
    folder = get_set(space, name).path
    return _read_pictures(folder, folder.stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _read_pictures(folder: Path, modified: int) -> Pictures:
    """The pictures of a folder. modified: part of the cache's key; changes as files come or go."""
    return read_pictures(folder, trigger="", size=8, step=8)


def find_problem(space: Workspace, form: TrainForm, data: Values) -> str:
    """A sentence on what is wrong with the fields; "" where they can be used."""
    try:
        given = fields_given(space, form.more, form.chosen(data), data)
        check_fields(Recipe, given["recipe"])
        trainers.kind_of(TrainingRequest(form.chosen(data), options=given["options"]))
    except BadInput as error:
        return sentence(str(error))
    return ""


def queue(space: Workspace, form: TrainForm, data: Values) -> int:
    """Queue the training of the form, but only once; returns the job's number. Raises BadInput."""
    if not (data[form.sets] or from_prompts(data[form.kind])):
        raise BadInput("choose pictures first: drop some in, or take an example")
    base = read_base_info(data[form.base] or "")
    begun = time.time()
    job = queue_training(space, _request(space, form, data, base), once=True)
    if job.created < begun:
        gr.Info(f"The same training is {job.state} already.", title="Not queued twice")
    return job.id


def _request(
    space: Workspace, form: TrainForm, data: Values, base: BaseInfo | None
) -> TrainingRequest:
    """The training that the form asks for. base: None if the base is not downloaded yet."""
    given = fields_given(space, form.more, form.chosen(data), data)
    trigger = (data[form.trigger] or "").strip()
    kind = trainers.kind_of(TrainingRequest(form.chosen(data), options=given["options"]))
    start = preset(kind, base, given["recipe"].get("steps"))
    prompted = from_prompts(data[form.kind])
    prompts = data[form.sampled] or ("" if prompted else sample_prompts(trigger))
    recipe = {
        "sample_every": start.sample_every,
        "save_every": start.save_every,
        "sample_prompts": [line.strip() for line in prompts.splitlines() if line.strip()],
        **given["recipe"],
    }
    fields = {"kind": form.chosen(data), "base": data[form.base] or "", "recipe": recipe}
    if prompted:
        fields |= {
            "prompts": prompts_file(space, data[form.prompted.prompts]),
            "adapters": adapters_of(space, data[form.prompted.adapters]),
        }
    else:
        fields |= {"trigger": trigger, "pictures": str(get_set(space, data[form.sets]).path)}
    return from_table({**given, **fields})


def sample_prompts(trigger: str) -> str:
    """The default sample prompts of a training, one a line."""
    return f"{trigger}\n{trigger}{ELSEWHERE}"
