"""A grid of pictures as the manifest that says it, and a recipe as a grid of one.

The grid has no way of its own to make a batch: it writes the manifest, which is then read and
checked as any other.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from studio.adapters.blora_blocks import HALVES
from studio.errors import BadInput
from studio.requests.shot import Shot
from ui.shared.names import adapter_name, file_and_strength
from ui.web.server.fields import whole_number

__all__ = ["ALONE", "NONE", "TOGETHER", "Grid", "grid_of", "manifest_of"]

TOGETHER, ALONE, NONE = "all together", "each alone", "none of them"
# Of a recipe, what the grid has no widget for but keeps.
LONGEST = 80  # letters of a list in one line
JOINT = ",\n    "
ESCAPED = re.compile(r"[\\{}]|__")  # what a manifest reads as choices
KEPT = ("negative", "width", "height", "scheduler", "denoise")


@dataclass(frozen=True)
class Grid:
    """What is combined with what.

    prompts, strengths, seeds: as typed; prompts a line each, numbers between commas, seeds also as
    1..8. adapters: NAME or NAME:HALF, which take every strength, or with a strength of their own
    behind a colon. mixes: of TOGETHER, ALONE, NONE. options: a method's, with its name, for when
    it is the only one. more: other fields of the shots.
    """

    prompts: str
    seeds: str = "1"
    adapters: Sequence[str] = ()
    strengths: str = "1"
    mixes: Sequence[str] = (TOGETHER,)
    methods: Sequence[str] = ("merge",)
    options: Mapping[str, object] = field(default_factory=dict)
    base: str = "sketch"
    steps: int = 25
    guidance: float = 5.0
    more: Mapping[str, object] = field(default_factory=dict)


def manifest_of(grid: Grid) -> str:
    """The grid as TOML; "" while it has no prompt. Raises BadInput for what is no number."""
    prompts = [line.strip() for line in grid.prompts.splitlines() if line.strip()]
    if not prompts:
        return ""
    lines = {"prompts": prompts, "seeds": _seeds(grid.seeds)}
    if grid.adapters:
        lines["mixes"] = _mixes(grid)
        lines["methods"] = _methods(grid)
    lines |= {"base": grid.base, "steps": grid.steps, "guidance": grid.guidance}
    return "".join(f"{name} = {_toml(value)}\n" for name, value in {**lines, **grid.more}.items())


def grid_of(recipe: Mapping[str, object]) -> Grid:
    """A picture's recipe as the grid of that picture alone."""
    plain, told = Shot(""), dict(recipe)
    method = _table(told.get("method"))
    base = _table(told.get("base"))
    adapters = [_called(_table(one)) for one in _list(told.get("adapters"))]
    more = {
        name: told[name] for name in KEPT if told.get(name) not in (None, "", getattr(plain, name))
    }
    return Grid(
        prompts=ESCAPED.sub(r"\\\g<0>", str(told.get("prompt", ""))),
        seeds=str(told.get("seed", 0)),
        adapters=[name for name in adapters if name],
        methods=[str(method.get("name") or "merge")],
        options={"name": method.get("name"), **_table(method.get("options"))},
        base=str(base.get("source", plain.base)),
        steps=int(str(told.get("steps", plain.steps))),
        guidance=float(str(told.get("guidance", plain.guidance))),
        more=more,
    )


def _called(entry: Mapping[str, object]) -> str:
    """An adapter of a recipe as a mix names it; "" where it tells no file."""
    name, half, strength = (entry.get(key) for key in ("path", "half", "strength"))
    words = [adapter_name(name) if isinstance(name, str) else "", half if half in HALVES else ""]
    words.append(f"{strength:g}" if isinstance(strength, int | float) else "1")
    return ":".join(word for word in words if word) if words[0] else ""


def _seeds(typed: str) -> object:
    if ".." in typed:
        return typed.strip()
    return [whole_number("seeds", word) for word in typed.replace(",", " ").split()] or [0]


def _mixes(grid: Grid) -> list[list[str]]:
    strengths = _numbers("strengths", grid.strengths) or [1.0]
    each = [
        [name] if file_and_strength(name)[0] != name else [f"{name}:{by:g}" for by in strengths]
        for name in grid.adapters
    ]
    found: list[list[str]] = []
    if NONE in grid.mixes:
        found.append([])
    if ALONE in grid.mixes:
        found += [[one] for choices in each for one in choices]
    if TOGETHER in grid.mixes and (len(each) > 1 or ALONE not in grid.mixes):
        found += [list(mix) for mix in product(*each)]
    return found or [[]]


def _methods(grid: Grid) -> list[object]:
    methods = list(grid.methods) or ["merge"]
    return [dict(grid.options)] if methods == [grid.options.get("name")] else list(methods)


def _numbers(field: str, typed: str) -> list[float]:
    try:
        found = [float(word) for word in typed.replace(",", " ").split()]
    except ValueError:
        found = [math.nan]
    if not all(map(math.isfinite, found)):
        raise BadInput(f"{field}: {typed.strip()!r} is not numbers with commas between them")
    return found


def _toml(value: object) -> str:
    """JSON is TOML here, but for tables; None is left out by not being there."""
    if isinstance(value, Mapping):
        pairs = (f"{key} = {_toml(one)}" for key, one in value.items() if one is not None)
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, list | tuple):
        inside = [_toml(one) for one in value]
        long = sum(map(len, inside)) > LONGEST
        return f"[\n    {JOINT.join(inside)},\n]" if long else f"[{', '.join(inside)}]"
    return json.dumps(value, ensure_ascii=False)


def _table(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()
