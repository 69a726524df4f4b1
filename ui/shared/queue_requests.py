"""Putting trainings and pictures into the queue, and reading them back there; no PyTorch here.

    job = queue_training(space, TrainingRequest("lora", "sks robot", folders))
    job = queue_pictures(space, [Shot("a robot")])       # somebody waits for it
    job = queue_pictures(space, shots, kind="batch")     # gives way to those

What can be known without opening files is checked first and raises BadInput; what the worker finds
out later is the job's `error`. loading: fields of `ui.shared.loading.Loading`, by name.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import compose
import trainers
from studio.errors import BadInput
from studio.queue.client import add_job, get_job, list_jobs
from studio.queue.job import UNFINISHED, Job, Kind
from studio.requests.adapter_tags import take_adapter_tags
from studio.requests.shot import Shot
from studio.requests.shot_recipe import shot_to_dict
from studio.requests.speed import with_speed
from studio.requests.training import (
    TrainingRequest,
    anchored,
    anchored_base,
    anchored_loading,
    to_json,
)
from studio.workspace import (
    PictureFile,
    Workspace,
    adapter_path,
    check_name,
    clean_name,
    get_picture,
)

MOST_UNFINISHED = 10_000  # jobs that are looked at


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


def unfinished(space: Workspace, kinds: Sequence[Kind] = ()) -> list[Job]:
    """All jobs that wait or run, the latest first. kinds: only these; all where none is named."""
    return list_jobs(space, states=UNFINISHED, kinds=kinds, limit=MOST_UNFINISHED)


def find_job(space: Workspace, id: int | None) -> Job | None:
    """A job by its number; None for no number, and where there is no such job any more."""
    with suppress(BadInput):
        return get_job(space, id) if id else None
    return None


def drawing_of(job: Job) -> Drawing:
    """What a job of the kinds "render" and "batch" is to draw."""
    return Drawing(**job.arguments)  # pyright: ignore[reportArgumentType]


def made_pictures(
    space: Workspace, job: Job, *, most: int = 0
) -> Iterator[tuple[int, Shot, PictureFile]]:
    """What such a job has drawn and is still there, with the shots and their numbers from 0.

    most: only so many of what was drawn, the last ones; 0 for all.
    """
    drawing = drawing_of(job)
    made = [(number, id) for number, id in enumerate(job.results) if id]
    for number, id in made[-most:]:
        try:
            picture = get_picture(space, id)
        except BadInput:
            continue
        yield number, drawing.shot(number), picture


def queue_training(space: Workspace, request: TrainingRequest, *, once: bool = False) -> Job:
    """Queue a training; its adapter goes into the library.

    The adapter is named after the request's title where it has no name; a number is added where the
    name is taken by then. once: where the same training waits or runs, that job is returned. Raises
    BadInput for what can be known without opening a base.
    """
    request = anchored(request, Path.cwd())
    for folder in request.pictures:
        if not folder.path.is_dir():
            raise BadInput(f"There is no folder {folder.path}: give a folder of pictures.")
    trainers.check_learned(request)
    name = check_name(request.name) if request.name else None
    request = replace(
        request,
        name=name or clean_name(request.title, otherwise="adapter"),
        # With today's defaults written out, so that a later Studio trains the same.
        options=trainers.options_of(trainers.kind_of(request)),
    )
    return _queue(space, "train", to_json(request), title=request.title, once=once)


def queue_pictures(
    space: Workspace,
    shots: Sequence[Shot],
    *,
    kind: Literal["render", "batch"] = "render",
    loading: Mapping[str, object] | None = None,
    once: bool = False,
) -> Job:
    """Queue pictures; they go into the history. Adapters and pictures to start from are files.

    kind: "render" for what somebody waits for, "batch" for what gives way to that. once: where a
    job of this kind with the same pictures waits or runs, it is returned.
    """
    if not shots:
        raise BadInput("there is no shot to make a picture of")
    more = f" and {len(shots) - 1} more" if len(shots) > 1 else ""
    title = f"{shots[0].prompt[:160]}{more}"
    shots = [settled(space, shot)[0] for shot in shots]
    return _queue(space, kind, _drawing(shots, loading or {}), title=title, once=once)


def settled(space: Workspace, shot: Shot) -> tuple[Shot, str]:
    """The shot with the adapters of its prompt's tags, as its speed adapter wants it drawn.

    What is queued says nothing of what was a default. Returns a sentence on what was set too.
    """
    return with_speed(take_adapter_tags(shot, partial(adapter_path, space)))


def draws(job: Job, shots: Sequence[Shot], loading: Mapping[str, object]) -> bool:
    """Whether a job draws just these pictures."""
    return job.arguments == _as_stored(_drawing(shots, loading))


def _drawing(shots: Sequence[Shot], loading: Mapping[str, object]) -> Mapping[str, object]:
    opening = anchored_loading(loading, Path.cwd())
    return asdict(Drawing([_written(shot) for shot in shots], opening))


def _queue(
    space: Workspace, kind: Kind, arguments: Mapping[str, object], *, title: str, once: bool
) -> Job:
    """Queue a job. once: return one that waits or runs with the same arguments instead."""
    waiting = unfinished(space, (kind,)) if once else []
    stored = _as_stored(arguments)
    for job in waiting:
        if job.arguments == stored and not job.stopping:
            return job
    return add_job(space, kind, arguments, title=title)


def _as_stored(arguments: Mapping[str, object]) -> object:
    """The arguments as they are read from the queue, where a tuple has become a list."""
    return json.loads(json.dumps(arguments))


def _written(shot: Shot) -> dict[str, Any]:
    """A shot for the queue; BadInput where a part of it is in no file."""
    written = shot_to_dict(replace(shot, base=anchored_base(shot.base, Path.cwd())))
    compose.shot_from_dict(written)
    return written
