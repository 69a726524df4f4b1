"""A picture's recipe as a shot of this workspace.

A recipe may come from anywhere, so of the files that it names only those of the workspace are
opened. What is missing here is left out, with a sentence about it.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

import compose
from studio.adapters.blora_blocks import HALVES
from studio.errors import PICTURE_ERRORS, BadInput
from studio.files import file_sha256
from studio.requests.a1111 import parse_parameters
from studio.requests.picture_file import read_recipe
from studio.requests.shot import SCHEDULERS, Shot
from studio.workspace import AdapterFile, Workspace, list_adapters, list_bases
from ui.shared.names import adapter_name
from ui.web.mix.mix_adapters import MOST, WHOLE, MixAdapter, short_name

__all__ = ["recipe_of_picture", "shot_of_recipe"]

T = TypeVar("T")


def recipe_of_picture(path: str | Path) -> tuple[dict[str, object], list[str]]:
    """How a PNG was made, from Studio's own text or from A1111's.

    With it a sentence for each thing that Studio doesn't have. BadInput for a picture without
    either text.
    """
    try:
        with Image.open(path) as picture:
            own, parameters = picture.info.get("studio"), picture.info.get("parameters")
    except (*PICTURE_ERRORS, Image.DecompressionBombError) as error:
        raise BadInput("That can't be read as a picture.") from error
    if own is not None:
        return read_recipe(path), []
    if not isinstance(parameters, str) or not parameters.strip():
        raise BadInput(
            "That picture does not say how it was made. Programs that pass pictures on often "
            "remove that text: use the file as it was first saved."
        )
    return parse_parameters(parameters)


def shot_of_recipe(space: Workspace, recipe: Mapping[str, object]) -> tuple[Shot, list[str]]:
    """The shot, and a sentence for each part of the recipe that is missing here."""
    problems: list[str] = []
    mix = _mix(space, _value(recipe, "adapters", list, []), problems)
    plain = Shot("")
    shot = Shot(
        prompt=_value(recipe, "prompt", str, ""),
        base=_base(space, _value(recipe, "base", dict, {}), problems),
        negative=_value(recipe, "negative", str, ""),
        seed=_value(recipe, "seed", int, 0),
        width=_value(recipe, "width", int, 0) or None,
        height=_value(recipe, "height", int, 0) or None,
        steps=_value(recipe, "steps", int, plain.steps),
        guidance=_number(recipe, "guidance", plain.guidance),
        scheduler=_scheduler(recipe, problems),
        adapters=tuple((one.file(space), one.strength) for one in mix),
        method=_method(_value(recipe, "method", dict, {}), problems) if mix else None,
        init_image=_start(space, _value(recipe, "init_image", dict, {}), problems),
        denoise=_number(recipe, "denoise", plain.denoise),
    )
    return shot, problems


def _base(space: Workspace, entry: Mapping[str, object], problems: list[str]) -> str:
    source, name = _value(entry, "source", str, "sketch"), _value(entry, "name", str, "")
    known = list_bases(space)
    if any(one.source == source for one in known):
        return source
    for one in known:
        if one.name in (name, short_name(source)):
            return one.source
    problems.append(f"Its base {source} is not known here: add it in Library, or choose another.")
    return "sketch"


def _scheduler(recipe: Mapping[str, object], problems: list[str]) -> str | None:
    scheduler = recipe.get("scheduler")
    if scheduler is None or scheduler in SCHEDULERS:
        return None if scheduler is None else str(scheduler)
    problems.append(f"Studio has no scheduler {scheduler}: the base's own is used instead.")
    return None


def _mix(space: Workspace, entries: list[object], problems: list[str]) -> list[MixAdapter]:
    library = {one.name: one for one in list_adapters(space)} if entries else {}
    tables = [entry for entry in entries if isinstance(entry, dict)]
    found = [one for entry in tables if (one := _mix_adapter(library, entry, problems))]
    if len(found) > MOST:
        problems.append(f"It mixes {len(found)} adapters: the first {MOST} are taken.")
    return found[:MOST]


def _mix_adapter(
    library: Mapping[str, AdapterFile], entry: Mapping[str, object], problems: list[str]
) -> MixAdapter | None:
    """The adapter of the library that has the same name."""
    half = _value(entry, "half", str, WHOLE)
    written = _value(entry, "name", str, "").removesuffix(f" {half}")  # a half's name ends with it
    path = _value(entry, "path", str, "")
    names = [adapter_name(path), written] if path else [written]
    name = next((name for name in names if name in library), None)
    if name is None:
        missing = written or names[0]
        problems.append(f"Its adapter {missing} is not in the library: import it there.")
        return None
    sha256 = _value(entry, "sha256", str, "")
    if sha256 and file_sha256(library[name].path) != sha256:
        problems.append(f"The adapter {name} has changed since the picture was made.")
    strength = _number(entry, "strength", 1.0)
    return MixAdapter(name, strength, half if half in HALVES else WHOLE)


def _method(entry: Mapping[str, object], problems: list[str]) -> object | None:
    name, options = _value(entry, "name", str, "merge"), _value(entry, "options", dict, {})
    try:
        method = compose.method_named(name, options)
    except (BadInput, TypeError) as error:
        problems.append(f"{error} The adapters are merged instead.")
        return None
    return None if method == compose.Merge() else method


def _start(space: Workspace, entry: Mapping[str, object], problems: list[str]) -> str | None:
    if not entry:
        return None
    path = Path(_value(entry, "path", str, "")).resolve()
    if path.is_relative_to(space.root) and path.is_file():
        return str(path)
    problems.append("The picture that it was started from is missing: add it again.")
    return None


def _value(entry: Mapping[str, object], key: str, kind: type[T], otherwise: T) -> T:
    found = entry.get(key)
    return found if isinstance(found, kind) and not isinstance(found, bool) else otherwise


def _number(entry: Mapping[str, Any], key: str, otherwise: float) -> float:
    found = entry.get(key)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return otherwise
    return float(found) if math.isfinite(found) else otherwise
