"""Putting trainings and pictures into the queue, and reading them back there; no PyTorch here.

    job = queue_training(space, TrainingRequest("lora", "sks robot", folders))
    job = queue_pictures(space, [Shot("a robot")])       # somebody waits for it
    job = queue_pictures(space, shots, kind="batch")     # gives way to those

What can be known without opening files is checked first and raises BadInput; what the worker finds
out later is the job's `error`. loading: fields of `ui.shared.loading.Loading`, by name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import compose
import trainers
from studio.errors import BadInput
from studio.queue.client import add_job
from studio.queue.job import Job
from studio.requests.shot import Shot
from studio.requests.shot_recipe import shot_to_dict
from studio.requests.training import TrainingRequest, anchored, anchored_base, to_json
from studio.workspace import Workspace, check_name, clean_name


@dataclass(frozen=True)
class Drawing:
    """The arguments of a job of the kinds "render" and "batch".

    shots: as `studio.requests.shot_recipe.shot_to_dict` writes them. loading: fields of Loading.
    """

    shots: list[dict[str, Any]]
    loading: dict[str, Any]

    def shot(self, number: int) -> Shot:
        """One of the shots, its adapters not loaded. Raises BadInput where no such shot can be."""
        return compose.shot_from_dict(self.shots[number])

    def all_shots(self) -> list[Shot]:
        """All of them."""
        return [self.shot(number) for number in range(len(self.shots))]


def drawing_of(job: Job) -> Drawing:
    """What a job of the kinds "render" and "batch" is to draw."""
    return Drawing(**job.arguments)  # pyright: ignore[reportArgumentType]


def queue_training(space: Workspace, request: TrainingRequest) -> Job:
    """Queue a training; its adapter goes into the library.

    The adapter is named after the trigger where the request has no name; a number is added where
    the name is taken by then. Raises BadInput for what can be known without opening a base.
    """
    request = anchored(request, Path.cwd())
    for folder in request.pictures:
        if not folder.path.is_dir():
            raise BadInput(f"There is no folder {folder.path}: give a folder of pictures.")
    if not request.trigger.strip():
        raise BadInput("trigger is empty: name the words that are to stand for what is learned")
    name = check_name(request.name) if request.name else None
    request = replace(
        request,
        name=name or clean_name(request.trigger, otherwise="adapter"),
        # With the defaults of today: the job is to be the same under a later Studio.
        options=asdict(trainers.kind_of(request)),
    )
    return add_job(space, "train", to_json(request), title=request.trigger)


def queue_pictures(
    space: Workspace,
    shots: Sequence[Shot],
    *,
    kind: Literal["render", "batch"] = "render",
    loading: Mapping[str, object] | None = None,
) -> Job:
    """Queue pictures; they go into the history. Adapters and pictures to start from are files.

    kind: "render" for what somebody waits for, "batch" for what gives way to that.
    """
    if not shots:
        raise BadInput("there is no shot to make a picture of")
    more = f" and {len(shots) - 1} more" if len(shots) > 1 else ""
    drawing = Drawing([_written(shot) for shot in shots], dict(loading or {}))
    return add_job(space, kind, asdict(drawing), title=f"{shots[0].prompt[:160]}{more}")


def _written(shot: Shot) -> dict[str, Any]:
    """A shot for the queue; BadInput where a part of it is in no file."""
    written = shot_to_dict(replace(shot, base=anchored_base(shot.base, Path.cwd())))
    compose.shot_from_dict(written)
    return written
