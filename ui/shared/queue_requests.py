"""Putting trainings and pictures into the queue, and reading them back there; no PyTorch here.

    job = queue_training(space, LoRA(rank=16), folder, trigger="sks robot", recipe={"steps": 400})
    job = queue_pictures(space, [Shot("a robot")])       # somebody waits for it
    job = queue_pictures(space, shots, kind="batch")     # gives way to those

What can be known without opening files is checked first and raises BadInput; what the worker finds
out later is the job's `error`. Recipe and loading are those of the command line, by field:
`trainers.Recipe`, `ui.shared.loading.Loading`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import compose
import trainers
from studio.bases.names import BUNDLED_BASES
from studio.dataset.folders import Folder, Sources, parse_folders
from studio.errors import BadInput
from studio.queue.client import Job, add_job
from studio.requests.shot import Shot
from studio.requests.shot_recipe import shot_to_dict
from studio.workspace import Workspace, check_name, clean_name

__all__ = ["Drawing", "Training", "drawing_of", "queue_pictures", "queue_training"]


@dataclass(frozen=True)
class Training:
    """The arguments of a job of the kind "train". name: what the adapter is to be called."""

    kind: str
    options: dict[str, Any]
    pictures: list[tuple[str, float]]
    prior_pictures: str | None
    init: str | None
    trigger: str
    name: str
    base: str
    recipe: dict[str, Any]
    loading: dict[str, Any]

    def made_kind(self) -> trainers.Kind:
        """The kind with its options."""
        return trainers.kinds()[self.kind](**self.options)

    def folders(self) -> tuple[Folder, ...]:
        """The folders of pictures with their weights."""
        return tuple(Folder(Path(path), weight) for path, weight in self.pictures)


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


def queue_training(
    space: Workspace,
    kind: trainers.Kind,
    pictures: Sources,
    *,
    trigger: str,
    base: str = "sketch",
    prior_pictures: str | Path | None = None,
    init: str | Path | None = None,
    recipe: Mapping[str, object] | None = None,
    loading: Mapping[str, object] | None = None,
    name: str = "",
) -> Job:
    """Queue a training; its adapter goes into the library.

    pictures: a folder, such as that of an upload set, or several, as `trainers.train` takes them.
    recipe: fields of trainers.Recipe that differ from where a training of this kind on this base
    starts from. name: the adapter's, after the trigger when not given; a number is added where it
    is taken by then.
    """
    folders, recipe = parse_folders(pictures), dict(recipe or {})
    for folder in folders:
        if not folder.path.is_dir():
            raise BadInput(f"There is no folder {folder.path}: give a folder of pictures.")
    if not trigger.strip():
        raise BadInput("trigger is empty: name the words that are to stand for what is learned")
    trainers.draft(recipe)  # its options are checked
    training = Training(
        kind=type(kind).__name__.lower(),
        options=asdict(kind),  # pyright: ignore[reportArgumentType]
        pictures=[(str(folder.path.resolve()), folder.weight) for folder in folders],
        prior_pictures=str(Path(prior_pictures).expanduser().resolve()) if prior_pictures else None,
        init=_place(init) if init else None,
        trigger=trigger,
        name=check_name(name) if name else clean_name(trigger, otherwise="adapter"),
        base=_source(base),
        recipe=recipe,
        loading=dict(loading or {}),
    )
    return add_job(space, "train", asdict(training), title=trigger)


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
    written = shot_to_dict(dataclasses.replace(shot, base=_source(shot.base)))
    compose.shot_from_dict(written)
    return written


def _place(file: object) -> str:
    if not isinstance(file, str | Path):
        raise TypeError(f"a queued shot names files, and was given {file!r}")
    return str(Path(file).absolute())


def _source(base: str) -> str:
    """What opens the same base from another folder."""
    here = Path(base).expanduser()
    ours = base in BUNDLED_BASES  # whatever folder of that name is here
    return str(here.resolve()) if here.exists() and not ours else base
