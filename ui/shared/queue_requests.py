"""Queueing trainings and pictures, and reading queued jobs. Imports no PyTorch.

    job = queue_training(space, TrainingRequest("lora", "sks robot", folders))
    job = queue_pictures(space, [Shot("a robot")])       # somebody waits for it
    job = queue_pictures(space, shots, kind="batch")     # lets such pictures go first

Mistakes that show without opening a base raise BadInput here; those that the worker finds later
become the job's `error`. loading: fields of `ui.shared.loading.Loading`, by name.
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

MOST_UNFINISHED = 10_000  # jobs that are read from the queue


@dataclass(frozen=True)
class Drawing:
    """The arguments of a job of the kinds "render" and "batch".

    shots: written by `studio.requests.shot_recipe.shot_to_dict`. loading: fields of Loading.
    """

    shots: list[dict[str, Any]]
    loading: dict[str, Any]

    def shot(self, number: int) -> Shot:
        """One of the shots, with adapters as files. Raises BadInput if it is not a valid shot."""
        return compose.shot_from_dict(self.shots[number])

    def all_shots(self) -> list[Shot]:
        """All shots, with adapters as files. Raises BadInput if one is not valid."""
        return [self.shot(number) for number in range(len(self.shots))]


def unfinished(space: Workspace, kinds: Sequence[Kind] = ()) -> list[Job]:
    """All waiting and running jobs, the latest first. kinds: only these; all kinds by default."""
    return list_jobs(space, states=UNFINISHED, kinds=kinds, limit=MOST_UNFINISHED)


def find_job(space: Workspace, id: int | None) -> Job | None:
    """A job by its number; None where `id` is None or the job no longer exists."""
    with suppress(BadInput):
        return get_job(space, id) if id else None
    return None


def drawing_of(job: Job) -> Drawing:
    """The arguments of a job of the kind "render" or "batch"."""
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

    An adapter without a name is named after the request's title; a number is added if the name is
    taken when the training ends. once: if the same training waits or runs already, return that job.
    Raises BadInput for mistakes that show without opening a base.
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
        # Today's defaults are written out, so that later versions of Studio train the same.
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
    """Queue pictures; they go into the history. Their adapters and start pictures must be files.

    kind: "render" for pictures that somebody waits for, "batch" for those that let these go first.
    once: if a job of this kind with the same pictures waits or runs already, return it.
    """
    if not shots:
        raise BadInput("there is no shot to make a picture of")
    more = f" and {len(shots) - 1} more" if len(shots) > 1 else ""
    title = f"{shots[0].prompt[:160]}{more}"
    shots = [settled(space, shot)[0] for shot in shots]
    return _queue(space, kind, _drawing(shots, loading or {}), title=title, once=once)


def settled(space: Workspace, shot: Shot) -> tuple[Shot, str]:
    """The shot with adapters in place of its prompt's tags, and with its speed adapter's settings.

    Only fields at their defaults change. Shots are settled before they are queued, as a queued shot
    no longer shows which fields those were. Also returns a sentence on the changed settings.
    """
    return with_speed(take_adapter_tags(shot, partial(adapter_path, space)))


def draws(job: Job, shots: Sequence[Shot], loading: Mapping[str, object]) -> bool:
    """Whether a job draws exactly these pictures."""
    return job.arguments == _as_stored(_drawing(shots, loading))


def _drawing(shots: Sequence[Shot], loading: Mapping[str, object]) -> Mapping[str, object]:
    opening = anchored_loading(loading, Path.cwd())
    return asdict(Drawing([_written(shot) for shot in shots], opening))


def _queue(
    space: Workspace, kind: Kind, arguments: Mapping[str, object], *, title: str, once: bool
) -> Job:
    """Queue a job. once: return an unfinished job with the same arguments instead, if any."""
    waiting = unfinished(space, (kind,)) if once else []
    stored = _as_stored(arguments)
    for job in waiting:
        if job.arguments == stored and not job.stopping:
            return job
    return add_job(space, kind, arguments, title=title)


def _as_stored(arguments: Mapping[str, object]) -> object:
    """The arguments as the queue returns them: through JSON, tuples become lists."""
    return json.loads(json.dumps(arguments))


def _written(shot: Shot) -> dict[str, Any]:
    """A shot as text for the queue. Raises BadInput where an adapter or picture has no file."""
    written = shot_to_dict(replace(shot, base=anchored_base(shot.base, Path.cwd())))
    compose.shot_from_dict(written)
    return written
