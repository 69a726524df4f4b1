"""What stands on the tab Mix: a shot by the names that the library and the page have for things.

A page's settings become a Shot of files for the queue, or a recipe as pictures carry it; a recipe
becomes settings again, with a sentence for each thing of it that is not here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import compose
from studio.adapters.blora_blocks import HALVES, split_half
from studio.bases.names import BUNDLED_BASES
from studio.errors import BadInput
from studio.files import file_sha256
from studio.requests.shot import SCHEDULERS, Shot, recipe_with
from studio.workspace import AdapterFile, Workspace, adapter_path, list_adapters, list_bases
from ui.shared.names import adapter_name

__all__ = [
    "EXAMPLES",
    "FIRST",
    "MOST",
    "WHOLE",
    "Picked",
    "Settings",
    "misfit",
    "recipe_of",
    "recipe_of_queued",
    "settings_of",
    "shot_of",
]

MOST = 6  # adapters on the page
WHOLE = "whole"  # beside "content" and "style"
FIRST = "a red mushroom in a meadow"  # the prompt of a page that nobody has written on
# What sketch draws well: a subject in a colour, somewhere, in a style.
EXAMPLES = (
    FIRST,
    "a blue cat with a top hat in a city at night",
    "cartoon of a purple airplane in the snowy mountains",
    "a teal duck on the beach, pixel art",
    "a brown owl in space, line drawing",
)
T = TypeVar("T")


@dataclass(frozen=True)
class Picked:
    """An adapter in the mix. written: the prompt before and after its trigger was put there."""

    name: str
    strength: float = 1.0
    half: str = WHOLE
    written: tuple[str, str] | None = None

    @property
    def called(self) -> str:
        """As `adapter_path` calls it."""
        return self.name if self.half == WHOLE else f"{self.name}:{self.half}"


@dataclass(frozen=True)
class Settings:
    """Fields as in Shot. options: of the method, those that are not as they come. start: a file."""

    prompt: str = FIRST
    negative: str = ""
    base: str = "sketch"
    seed: int = 0
    steps: int = 25
    guidance: float = 5.0
    width: int | None = None
    height: int | None = None
    scheduler: str | None = None
    picked: tuple[Picked, ...] = ()
    method: str = "merge"
    options: Mapping[str, Any] = field(default_factory=dict)
    start: str | None = None
    denoise: float = 0.6


def shot_of(space: Workspace, settings: Settings) -> Shot:
    """The shot, its adapters and its picture to start from as files; BadInput for a bad one."""
    shot = Shot(
        prompt=settings.prompt,
        base=settings.base,
        negative=settings.negative,
        seed=settings.seed,
        width=settings.width,
        height=settings.height,
        steps=settings.steps,
        guidance=settings.guidance,
        scheduler=settings.scheduler,
        adapters=tuple((adapter_path(space, one.called), one.strength) for one in settings.picked),
        method=_method(settings),
        init_image=settings.start,
        denoise=settings.denoise,
    )
    shot.check()
    return shot


def _method(settings: Settings) -> object | None:
    """None where there is nothing to mix, or nothing else was said than to add all up."""
    if not settings.picked or (settings.method == "merge" and not settings.options):
        return None
    return compose.method_named(settings.method, settings.options)


def recipe_of(space: Workspace, settings: Settings) -> dict[str, object]:
    """What the picture will carry, as far as it is known before it is made."""
    shot = shot_of(space, settings)
    adapters = [
        {
            "name": one.name,
            "path": adapter_path(space, one.name),
            "strength": one.strength,
            **({} if one.half == WHOLE else {"half": one.half}),
        }
        for one in settings.picked
    ]
    return recipe_with(shot, base={"source": shot.base}, adapters=adapters)


def recipe_of_queued(shot: Mapping[str, Any]) -> dict[str, object]:
    """The same of a shot as a queued job has it; see ui.shared.queue_requests."""
    adapters = []
    for place, strength in shot["adapters"]:
        file, half = split_half(place)
        adapters.append({"path": file, "strength": strength} | ({"half": half} if half else {}))
    start = shot["init_image"]
    return {
        **shot,
        "base": {"source": shot["base"]},
        "adapters": adapters,
        "method": shot["method"] or {},
        "init_image": {"path": start} if start else None,
    }


def settings_of(space: Workspace, recipe: Mapping[str, object]) -> tuple[Settings, list[str]]:
    """The settings that a recipe tells of, and a sentence for whatever of it is not here.

    A recipe may come from anywhere: of its files only those of the workspace are opened.
    """
    amiss: list[str] = []
    plain = Settings()
    settings = Settings(
        prompt=_value(recipe, "prompt", str, ""),
        negative=_value(recipe, "negative", str, ""),
        base=_base(space, _value(recipe, "base", dict, {}), amiss),
        seed=_value(recipe, "seed", int, 0),
        steps=_value(recipe, "steps", int, plain.steps),
        guidance=_number(recipe, "guidance", plain.guidance),
        width=_value(recipe, "width", int, 0) or None,
        height=_value(recipe, "height", int, 0) or None,
        scheduler=_scheduler(recipe, amiss),
        picked=_picked(space, _value(recipe, "adapters", list, []), amiss),
        start=_start(space, _value(recipe, "init_image", dict, {}), amiss),
        denoise=_number(recipe, "denoise", plain.denoise),
    )
    method = _value(recipe, "method", dict, {})
    name, options = _value(method, "name", str, "merge"), _value(method, "options", dict, {})
    try:
        compose.method_named(name, options)
    except (BadInput, TypeError) as error:
        return settings, [*amiss, f"{error} The adapters are added up instead."]
    return replace(settings, method=name, options=options), amiss


def misfit(adapter: AdapterFile, *, base: str, family: str) -> str:
    """Why an adapter does not go with a base, as a sentence; "" where it may.

    base: its source. What only its layers can tell, the worker tells.
    """
    if adapter.problem:
        return adapter.problem
    if adapter.family and family and adapter.family != family:
        return f"made for {_said(adapter.family)}, and {_short(base)} is of {_said(family)}"
    if adapter.base and adapter.base != base and {adapter.base, base} & set(BUNDLED_BASES):
        return f"made for {_short(adapter.base)}, not for {_short(base)}"
    return ""


def _said(family: str) -> str:
    return {"sd1": "SD 1", "sd2": "SD 2", "sdxl": "SDXL"}.get(family, family)


def _short(base: str) -> str:
    return base.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _base(space: Workspace, entry: Mapping[str, object], amiss: list[str]) -> str:
    source, name = _value(entry, "source", str, "sketch"), _value(entry, "name", str, "")
    known = list_bases(space)
    if any(one.source == source for one in known):
        return source
    for one in known:
        if one.name in (name, _short(source)):
            return one.source
    amiss.append(f"Its base, {source}, is not known here: add it in the library, or choose one.")
    return "sketch"


def _scheduler(recipe: Mapping[str, object], amiss: list[str]) -> str | None:
    scheduler = recipe.get("scheduler")
    if scheduler is None or scheduler in SCHEDULERS:
        return None if scheduler is None else str(scheduler)
    amiss.append(f"Its scheduler, {scheduler}, is none of {', '.join(SCHEDULERS)}.")
    return None


def _picked(space: Workspace, entries: list[object], amiss: list[str]) -> tuple[Picked, ...]:
    library = {one.name: one for one in list_adapters(space)} if entries else {}
    found = []
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        told = _value(entry, "name", str, "")
        path = _value(entry, "path", str, "")
        half = _value(entry, "half", str, WHOLE)
        # A half is named after itself.
        told = told.removesuffix(f" {half}")
        called = adapter_name(path) if path else told
        name = next((n for n in (called, told) if n in library), None)
        if name is None:
            amiss.append(f"Its adapter {told or called} is not in the library: import it there.")
            continue
        sha256 = entry.get("sha256")
        if isinstance(sha256, str) and sha256 and file_sha256(library[name].path) != sha256:
            amiss.append(f"The adapter {name} is not the file it was made with.")
        half = half if half in HALVES else WHOLE
        found.append(Picked(name, _number(entry, "strength", 1.0), half))
    if len(found) > MOST:
        amiss.append(f"It mixes {len(found)} adapters, and here are places for {MOST}.")
    return tuple(found[:MOST])


def _start(space: Workspace, entry: Mapping[str, object], amiss: list[str]) -> str | None:
    if not entry:
        return None
    path = Path(_value(entry, "path", str, "")).resolve()
    if path.is_relative_to(space.root) and path.is_file():
        return str(path)
    amiss.append("The picture that it was started from is not here: drop it in.")
    return None


def _value(entry: Mapping[str, object], key: str, kind: type[T], otherwise: T) -> T:
    found = entry.get(key)
    return found if isinstance(found, kind) and not isinstance(found, bool) else otherwise


def _number(entry: Mapping[str, Any], key: str, otherwise: float) -> float:
    found = entry.get(key)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return otherwise
    return float(found) if math.isfinite(found) else otherwise
