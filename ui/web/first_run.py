"""The first run in three clicks: example pictures, a short training of each, a mix of both.

    card = first_run(page)    # laid out where this is called

Every click does what a person would do in the tabs, and shows it there. The card goes for good
once somebody mixes, or has an adapter or a training of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

import trainers
from studio.assets import asset
from studio.bases.info import read_base_info
from studio.dataset.folders import Folder
from studio.duration import format_duration
from studio.queue.client import list_jobs
from studio.queue.job import Job
from studio.requests.training import TrainingRequest
from studio.workspace import Workspace, get_set, list_adapters, list_sets
from ui.shared.queue_requests import drawing_of, queue_training
from ui.web.frontend import script, template
from ui.web.server.page import Page, Update, on
from ui.web.train.dataset.picture_sets import EXAMPLES, add_example
from ui.web.train.options import preset

SUBJECT, STYLE = "robot", "glass"
SHOWN = {SUBJECT: "A subject: this robot", STYLE: "A style: stained glass"}
TRIGGERS = {EXAMPLES[name]: name for name in (SUBJECT, STYLE)}
STEPS = 60  # steps of each training: enough to see what it learns
WATCHED = 20  # how many jobs of a kind are looked at, the latest ones


@dataclass(frozen=True)
class _Progress:
    """How far the first run has got.

    pictures: whether every example is a set of pictures. trainings: the latest training of each
    example, unless it failed or was stopped. adapters: what these trainings added to the library.
    """

    pictures: bool
    trainings: tuple[Job, ...]
    adapters: tuple[str, ...]


def first_run(page: Page) -> gr.HTML:
    """Lay the card out and wire it."""
    space = page.space

    def click(event: gr.EventData) -> Update:
        match str(event.name):
            case "pictures":
                take_pictures(space)
                return {page.example: SUBJECT, page.tabs: gr.Tabs(selected="train")}
            case "train":
                train_both(space)
                return {page.tabs: gr.Tabs(selected="train")}
        adapters = list(_progress(space).adapters)
        return {page.adapters: adapters, page.tabs: gr.Tabs(selected="mix")}

    card = gr.HTML(
        first_run_html(space),
        js_on_load=script("clicked_item.js") + script("first_run.js"),
        padding=False,
        elem_classes="first-run",
    )
    on(card.click, click, None, [page.example, page.adapters, page.tabs])
    return card


def first_run_html(space: Workspace) -> str:
    """The card; "" once somebody has mixed, or has a training or an adapter of their own."""
    trainings = list_jobs(space, kinds=("train",), limit=WATCHED)
    if any(job.title not in TRIGGERS for job in trainings) or _has_mixed(space):
        return ""
    now = _progress(space)
    if {adapter.name for adapter in list_adapters(space)} - {*now.adapters}:
        return ""
    return template("first_run.html").render(
        pictures={words: _example(name) for name, words in SHOWN.items()},
        steps=STEPS,
        at=2 if len(now.adapters) == len(TRIGGERS) else 1 if now.pictures else 0,
        training=_training_status(now.trainings),
        percent=100 * sum(job.step for job in now.trainings) / (STEPS * len(TRIGGERS)),
    )


def take_pictures(space: Workspace) -> None:
    """Make a set of pictures of each example."""
    for example in TRIGGERS.values():
        add_example(space, example)


def train_both(space: Workspace) -> None:
    """Queue a training of each example that has none."""
    queued = {job.title for job in _progress(space).trainings}
    recipe = preset(trainers.LoRA(), read_base_info("sketch"), STEPS)
    every = {"sample_every": recipe.sample_every, "save_every": recipe.save_every}
    for trigger, example in TRIGGERS.items():
        if trigger not in queued:
            folder = Folder(get_set(space, add_example(space, example)).path)
            settings: dict[str, Any] = {"steps": STEPS, **every}
            queue_training(
                space, TrainingRequest("lora", trigger, (folder,), recipe=settings, name=example)
            )


def _example(name: str) -> list[Path]:
    """The pictures of an example, at paths that the server may show."""
    return sorted(asset(f"examples/{name}").resolve().glob("*.png"))


def _progress(space: Workspace) -> _Progress:
    latest = {}
    for job in list_jobs(space, kinds=("train",), limit=WATCHED):
        latest.setdefault(job.title, job)
    trainings = [latest[trigger] for trigger in TRIGGERS if trigger in latest]
    good = tuple(job for job in trainings if job.state not in ("failed", "stopped"))
    library = {adapter.name for adapter in list_adapters(space)}
    adapters = tuple(name for job in good for name in job.results if name in library)
    sets = {each.name for each in list_sets(space) if each.pictures}
    return _Progress({*TRIGGERS.values()} <= sets, good, adapters)


def _has_mixed(space: Workspace) -> bool:
    drawn = list_jobs(space, kinds=("render",), limit=WATCHED)
    return any(shot.get("adapters") for job in drawn for shot in drawing_of(job).shots)


def _training_status(trainings: Sequence[Job]) -> str:
    """How far the trainings have got; "" where none runs or waits."""
    running = next((job for job in trainings if job.state == "running"), None)
    if running is None:
        waiting = any(job.state == "queued" for job in trainings)
        return "Starts in a moment" if waiting else ""
    left = running.seconds_left
    time = f", {format_duration(left)} left" if left is not None else ""
    return f"{TRIGGERS[running.title].capitalize()}: step {running.step} of {running.total}{time}"
