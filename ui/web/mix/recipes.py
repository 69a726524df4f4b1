"""Turn a picture's recipe into a shot of this workspace.

A recipe may come from anywhere, so only files of the workspace are opened. What is missing here is
left out, with a sentence about it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import compose
from studio.bases.samplers import SCHEDULERS, SPACINGS, SPACINGS_OF
from studio.errors import BadInput
from studio.files import file_sha256, is_there
from studio.picture import opened_picture
from studio.requests.a1111 import parse_parameters
from studio.requests.picture_file import read_recipe
from studio.requests.shot import Shot
from studio.workspace import AdapterFile, Workspace, list_adapters, list_bases
from ui.shared.names import adapter_name
from ui.web.mix.mix_adapters import MOST, short_name

T = TypeVar("T")


def recipe_of_picture(path: str | Path) -> tuple[dict[str, object], list[str]]:
    """The recipe of a PNG, from Studio's text or A1111's, and what Studio doesn't support of it.

    The second value has a sentence for each unsupported thing. Raises BadInput for a picture
    without either text.
    """
    with opened_picture(path, name="That") as picture:
        own, parameters = picture.info.get("studio"), picture.info.get("parameters")
    if own is not None:
        return read_recipe(path), []
    if not isinstance(parameters, str) or not parameters.strip():
        raise BadInput(
            "That picture does not say how it was made. Programs that pass pictures on often "
            "remove that text: use the file as it was first saved."
        )
    return parse_parameters(parameters)


def shot_of_recipe(space: Workspace, recipe: Mapping[str, object]) -> tuple[Shot, list[str]]:
    """The shot, and a sentence for each part of the recipe that is missing here.

    Raises BadInput for a recipe that is damaged.
    """
    problems: list[str] = []
    adapters = _adapters(space, recipe, problems)
    scheduler = _scheduler(recipe.get("scheduler"), problems)
    start = _picture(space, recipe, "init_image", "The picture that it was started from", problems)
    mask = _picture(space, recipe, "mask", "The mask that it was drawn in", problems)
    here = {
        "prompt": recipe.get("prompt", ""),
        "base": _base(space, _part(recipe, "base", dict), problems),
        "scheduler": scheduler,
        "spacing": _spacing(scheduler, recipe.get("spacing"), problems),
        "adapters": adapters,
        "method": _method(recipe, problems) if adapters or recipe.get("regions") else None,
        "init_image": start,
        "mask": mask if start else None,
    }
    return compose.shot_from_dict({**recipe, **here}), problems


def _base(space: Workspace, entry: Mapping[str, object], problems: list[str]) -> str:
    source, name = _part(entry, "source", str) or "sketch", _part(entry, "name", str)
    known = list_bases(space)
    if any(base.source == source for base in known):
        return source
    for base in known:
        if base.name in (name, short_name(source)):
            return base.source
    problems.append(f"Its base {source} is not known here: add it in Library, or choose another.")
    return "sketch"


def _scheduler(scheduler: object, problems: list[str]) -> object:
    if scheduler is None or scheduler in SCHEDULERS:
        return scheduler
    problems.append(f"Studio has no scheduler {scheduler}: the base's own is used instead.")
    return None


def _spacing(scheduler: object, spacing: object, problems: list[str]) -> object:
    if spacing is None or spacing in SPACINGS_OF.get(str(scheduler), SPACINGS):
        return spacing
    problems.append(f"Studio has no spacing {spacing} for {scheduler}: its own is used instead.")
    return None


def _adapters(
    space: Workspace, recipe: Mapping[str, object], problems: list[str]
) -> list[dict[str, object]]:
    entries = _part(recipe, "adapters", list)
    library = {file.name: file for file in list_adapters(space)} if entries else {}
    adapters = [
        _adapter(library, _part({"adapter": entry}, "adapter", dict), problems) for entry in entries
    ]
    present = [adapter for adapter in adapters if adapter]
    if len(present) > MOST:
        problems.append(f"It mixes {len(present)} adapters: the first {MOST} are taken.")
    return present[:MOST]


def _adapter(
    library: Mapping[str, AdapterFile], entry: Mapping[str, object], problems: list[str]
) -> dict[str, object] | None:
    """The entry with the path of the library's adapter of the same name; None if it has none."""
    half, path = _part(entry, "half", str), _part(entry, "path", str)
    written = _part(entry, "name", str).removesuffix(f" {half}")  # such as "robot style"
    names = [adapter_name(path), written] if path else [written]
    name = next((name for name in names if name in library), None)
    if name is None:
        missing = written or names[0]
        problems.append(f"Its adapter {missing} is not in the library: import it there.")
        return None
    sha256 = _part(entry, "sha256", str)
    if sha256 and file_sha256(library[name].path) != sha256:
        problems.append(f"The adapter {name} has changed since the picture was made.")
    return {**entry, "path": str(library[name].path)}


def _method(recipe: Mapping[str, object], problems: list[str]) -> Mapping[str, object] | None:
    """The method's entry; None for a plain merge."""
    entry = _part(recipe, "method", dict)
    name, options = _part(entry, "name", str) or "merge", _part(entry, "options", dict)
    try:
        method = compose.method_named(name, options)
    except (BadInput, TypeError) as error:
        problems.append(f"{error} The adapters are merged instead.")
        return None
    return (
        None if method == compose.Merge() else {"name": name, "options": entry.get("options", {})}
    )


def _picture(
    space: Workspace, recipe: Mapping[str, object], field: str, what: str, problems: list[str]
) -> str | None:
    """The path of a picture of the workspace that a recipe names. what: its name in messages."""
    entry = _part(recipe, field, dict)
    if not entry:
        return None
    path = Path(_part(entry, "path", str))
    if is_there(path) and path.resolve().is_relative_to(space.root):
        return str(path.resolve())
    problems.append(f"{what} is missing: add it again.")
    return None


def _part(entry: Mapping[str, object], key: str, kind: type[T]) -> T:
    """A part of a recipe; an empty `kind` where there is none."""
    part = entry.get(key)
    if part is None:
        return kind()
    if not isinstance(part, kind):
        raise BadInput(f"The recipe is damaged: its {key} is {part!r}.")
    return part
