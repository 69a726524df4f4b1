"""A grid of pictures as the manifest that says it, and a recipe as a grid of one.

The grid has no way of its own to make a batch: it writes the manifest, which is then read and
checked as any other.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from studio.requests.shot import Shot, method_name, method_options
from studio.toml_text import toml_value
from ui.shared.names import adapter_name, split_strength
from ui.web.server.fields import read_as, read_numbers

TOGETHER, ALONE, NONE = "all together", "each alone", "none of them"
LONGEST = 80  # letters of a list in one line
ESCAPED = re.compile(r"[\\{}]|__")  # what a manifest reads as choices
# Of a shot, what the grid has no widget for but keeps.
KEPT = (
    *("negative", "width", "height", "scheduler", "spacing", "denoise", "clip_skip", "syntax"),
    *("second_pass", "second_denoise", "regions", "avoid", "avoid_by", "avoid_strength"),
    *("init_image", "mask"),
)


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
    """The grid as TOML; "" while it has no prompt. Raises BadInput where a number is wrong."""
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
    """A shot as the grid of that picture alone. Its adapters are files of the library."""
    plain = Shot("")
    kept = {name: getattr(shot, name) for name in KEPT}
    return Grid(
        prompts=ESCAPED.sub(r"\\\g<0>", shot.prompt),
        seeds=str(shot.seed),
        adapters=[f"{adapter_name(str(file))}:{by:g}" for file, by in shot.adapters],
        methods=[method_name(shot.method)],
        options={"name": method_name(shot.method), **method_options(shot.method)},
        base=shot.base,
        steps=shot.steps,
        guidance=float(shot.guidance),
        more={name: value for name, value in kept.items() if value != getattr(plain, name)},
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
