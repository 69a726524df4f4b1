"""Write a grid of pictures as a manifest, and turn a shot into a grid of one picture.

A grid makes no batch by itself: its manifest is read and checked like any other.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import product

from studio.requests.shot import Shot, method_name, method_options
from studio.toml_text import toml_value
from ui.shared.names import adapter_name, split_strength
from ui.web.server.fields import read_as, read_numbers

TOGETHER, ALONE, NONE = "all together", "each alone", "none of them"
LONGEST = 80  # characters of a list that is written in one line
ESCAPED = re.compile(r"[\\{}]|__")  # what has a meaning in the prompts of a manifest
# The fields of a shot that the grid has widgets for. It keeps the others.
SHOWN = ("prompt", "seed", "adapters", "method", "base", "steps", "guidance")


@dataclass(frozen=True)
class Grid:
    """The values that a grid combines.

    prompts, strengths, seeds: texts as typed: a prompt on each line, numbers separated by commas;
    seeds may also be such as 1..8. adapters: NAME or NAME:HALF gets every strength; with a strength
    behind another colon it keeps that one. mixes: any of TOGETHER, ALONE, NONE. options: the
    options and the name of a method, which apply if it is the only method. more: other fields of
    the shots.
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
    """The grid as a manifest in TOML; "" without a prompt. Raises BadInput for a wrong number."""
    prompts = [line.strip() for line in grid.prompts.splitlines() if line.strip()]
    if not prompts:
        return ""
    lines = {"prompts": prompts, "seeds": _seeds(grid.seeds)}
    if grid.adapters:
        lines["mixes"] = _mixes(grid)
        lines["methods"] = _methods(grid)
    lines |= {"base": grid.base, "steps": grid.steps, "guidance": grid.guidance}
    lines |= grid.more
    return "".join(f"{k} = {toml_value(v, longest=LONGEST)}\n" for k, v in lines.items())


def grid_of(shot: Shot) -> Grid:
    """The grid with a shot as its only picture. The shot's adapters must be in the library."""
    others = [one for one in fields(Shot) if one.name not in SHOWN]
    kept = {one.name: (getattr(shot, one.name), one.default) for one in others}
    return Grid(
        prompts=ESCAPED.sub(r"\\\g<0>", shot.prompt),
        seeds=str(shot.seed),
        adapters=[f"{adapter_name(str(file))}:{by:g}" for file, by in shot.adapters],
        methods=[method_name(shot.method)],
        options={"name": method_name(shot.method), **method_options(shot.method)},
        base=shot.base,
        steps=shot.steps,
        guidance=float(shot.guidance),
        more={name: value for name, (value, usual) in kept.items() if value != usual},
    )


def _seeds(typed: str) -> object:
    if ".." in typed:
        return typed.strip()
    return [read_as("seeds", int, word) for word in typed.replace(",", " ").split()] or [0]


def _mixes(grid: Grid) -> list[list[str]]:
    strengths = read_numbers("strengths", grid.strengths) or [1.0]
    each = [
        [name] if split_strength(name)[0] != name else [f"{name}:{by:g}" for by in strengths]
        for name in grid.adapters
    ]
    mixes: list[list[str]] = []
    if NONE in grid.mixes:
        mixes.append([])
    if ALONE in grid.mixes:
        mixes += [[adapter] for choices in each for adapter in choices]
    if TOGETHER in grid.mixes and (len(each) > 1 or ALONE not in grid.mixes):
        mixes += [list(mix) for mix in product(*each)]
    return mixes or [[]]


def _methods(grid: Grid) -> list[object]:
    methods = list(grid.methods) or ["merge"]
    return [dict(grid.options)] if methods == [grid.options.get("name")] else list(methods)
