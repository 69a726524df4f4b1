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
from studio.requests.shot import Shot, method_name, method_options
from studio.workspace import Workspace, check_name, clean_name

__all__ = ["Drawing", "Training", "queue_pictures", "queue_training"]


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
    """The arguments of a job of the kinds "render" and "batch". shots: as `_plain` writes them."""

    shots: list[dict[str, Any]]
    loading: dict[str, Any]

    def shot(self, number: int) -> Shot:
        """One of the shots, its adapters not loaded."""
        fields = dict(self.shots[number])
        fields["adapters"] = tuple((file, strength) for file, strength in fields["adapters"])
        if method := fields["method"]:
            fields["method"] = compose.method_named(method["name"], method["options"])
        return Shot(**fields)


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
    for shot in shots:
        shot.check()
    more = f" and {len(shots) - 1} more" if len(shots) > 1 else ""
    drawing = Drawing([_plain(shot) for shot in shots], dict(loading or {}))
    return add_job(space, kind, asdict(drawing), title=f"{shots[0].prompt[:160]}{more}")


def _plain(shot: Shot) -> dict[str, Any]:
    """A shot as JSON has it; TypeError where a part of it is in no file."""
    fields = {entry.name: getattr(shot, entry.name) for entry in dataclasses.fields(shot)}
    method = shot.method
    return fields | {
        "base": _source(shot.base),
        "adapters": [[_place(file), strength] for file, strength in shot.adapters],
        "method": None
        if method is None
        else {"name": method_name(method), "options": method_options(method)},
        "init_image": None if shot.init_image is None else _place(shot.init_image),
    }


def _place(file: object) -> str:
    if not isinstance(file, str | Path):
        raise TypeError(f"a queued shot names files, and was given {file!r}")
    return str(Path(file).absolute())


def _source(base: str) -> str:
    """What opens the same base from another folder."""
    here = Path(base).expanduser()
    ours = base in BUNDLED_BASES  # whatever folder of that name is here
    return str(here.resolve()) if here.exists() and not ours else base
