"""A file of trainings: a recipe.toml in which lists multiply, as in a batch's manifest.

    trigger = "sks robot"
    pictures = "photos/robot"
    kind = "lora"

    [options]
    rank = [4, 16]

    [recipe]
    steps = 400
    lr = [1e-3, 2e-3]
    seed = "1..3"

are twelve trainings. What stands at the top holds for every `[[runs]]`, whose own lists multiply
too. A field that is a list by itself, such as `pictures`, has a list of lists for several values.
Files are looked for beside it.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from hashlib import sha256
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args, get_origin, get_type_hints

import trainers
from studio.adapters.blora_blocks import split_half
from studio.bases.names import BUNDLED_BASES
from studio.errors import BadInput
from studio.files import file_sha256
from studio.requests.training import (
    NEEDED,
    PRECISION,
    RECIPE_KEYS,
    TABLES,
    TrainingRequest,
    anchored,
    from_table,
    to_json,
)
from studio.requests.validation import InvalidFields, check_fields
from ui.batch.field_values import grid_values, read_value
from ui.batch.manifest_lines import Place, Problem, join_problems, read_text, read_toml
from ui.shared.names import slug

__all__ = ["MOST_RUNS", "Planned", "read_sweep"]

MOST_RUNS = 10_000
# What a run writes of what it was, and where it is.
NOT_ASKED = ("fingerprint", "examples", "init_sha256", "out", "torch")
TOP = tuple(name for name in RECIPE_KEYS if name not in (*NOT_ASKED, *TABLES))
LISTS = ("pictures", "weights")  # of themselves
# Which pictures and words are refused does not hang on these.
ANY = ("seed", "lr", "text_lr", "token_lr", "steps", "batch", "accumulation", "warmup", "schedule")
FIELDS = frozenset((*RECIPE_KEYS, *(entry.name for entry in fields(trainers.Recipe))))
Key = tuple[str, ...]  # ("lr",) of the top is ("trigger",), of a table ("recipe", "lr")
Where = Callable[[], Place]


@dataclass(frozen=True)
class Planned:
    """A training of a sweep. settings: what was written of it, by field; where: on which lines."""

    request: TrainingRequest
    settings: Mapping[str, object]
    where: Mapping[str, Where]

    def problem(self, said: str) -> Problem:
        """What is wrong with it, at the field that the sentence begins with, if it is one."""
        return _problem(self.where, said)


def read_sweep(
    path: Path, loading: Mapping[str, object] = MappingProxyType({})
) -> tuple[Planned, ...]:
    """The trainings of a file, each once, those on one base together.

    loading: how bases are opened, over what the file says. Raises BadInput that names every line
    and field amiss.
    """
    if path.suffix.lower() != ".toml":
        raise BadInput(f"{path}: a sweep's name ends in .toml.")
    toml = read_toml(path, read_text(path))
    reading = _Reading(path, toml.line, loading)
    planned = {one.request.name: one for one in reading.all(toml.values)}
    if reading.problems:
        raise join_problems(reading.problems)
    bases = list(dict.fromkeys(one.request.base for one in planned.values()))
    return tuple(sorted(planned.values(), key=lambda one: bases.index(one.request.base)))


@dataclass(frozen=True)
class _Cell:
    value: object
    where: Where


class _Reading:
    """One file being read, and what was found wrong with it so far."""

    def __init__(
        self,
        path: Path,
        line_of: Callable[[tuple[str | int, ...]], int],
        loading: Mapping[str, object],
    ) -> None:
        self.path, self.line_of, self.loading = path, line_of, loading
        self.problems: list[Problem] = []
        self.runs = 0
        self.digests: dict[str, str] = {}  # of pictures, by all that says which they are

    def all(self, found: Mapping[str, Any]) -> Iterator[Planned]:
        """The trainings of the whole file."""
        runs = found.get("runs", [{}])
        if not isinstance(runs, list) or not all(isinstance(one, dict) for one in runs):
            self.wrong(("runs",), "write each of them as a table, under a line [[runs]]")
            return
        top = self.columns({k: v for k, v in found.items() if k != "runs"}, ())
        for number, own in enumerate(runs):
            before = ("runs", number) if "runs" in found else ()
            columns = top | self.columns(own, before)
            if missing := [name for name in NEEDED if (name,) not in columns]:
                self.wrong(before, f"{', '.join(missing)} is missing", named=missing[0])
            elif not self.problems:
                yield from self.grid(columns, before)

    def wrong(self, steps: tuple[str | int, ...], said: str, *, named: str = "") -> None:
        """Note what is wrong at a place of the file."""
        self.problems.append(Problem(self.place(steps, named), said))

    def place(self, steps: tuple[str | int, ...], named: str = "") -> Place:
        field = named or next((str(s) for s in reversed(steps) if isinstance(s, str)), "runs")
        return Place(self.path, self.line_of(steps) if steps else 1, field)

    def columns(
        self, table: Mapping[str, Any], before: tuple[str | int, ...]
    ) -> dict[Key, list[_Cell]]:
        """The values of each field of a table and of the two inside it."""
        found: dict[Key, list[_Cell]] = {}
        for name, raw in table.items():
            if name in TABLES and isinstance(raw, dict):
                for inner, value in raw.items():
                    cells = self.cells(inner, value, (*before, name, inner))
                    found[(name, inner)] = [c for c in cells if self.suits(name, inner, c)]
            elif name in TABLES or isinstance(raw, dict):
                said = f"it is {'a' if name in TABLES else 'no'} table of a recipe"
                self.wrong((*before, name), said)
            elif name not in TOP:
                self.wrong((*before, name), f"there is no such field; there are {', '.join(TOP)}")
            else:
                found[(name,)] = self.cells(name, raw, (*before, name))
        return found

    def cells(self, name: str, raw: object, steps: tuple[str | int, ...]) -> list[_Cell]:
        """What is written in one field: a value, or a list of them."""
        if name in LISTS or name in _tuples():
            inside = isinstance(raw, list) and raw and all(isinstance(one, list) for one in raw)
            values = list(enumerate(raw)) if inside else [(None, raw)]  # pyright: ignore
        else:
            try:
                values = grid_values(name, raw, most=MOST_RUNS)
            except BadInput as error:
                self.wrong(steps, str(error))
                return []
        return [
            _Cell(value, partial(self.place, steps if at is None else (*steps, at), name))
            for at, value in values
        ]

    def suits(self, table: str, name: str, cell: _Cell) -> bool:
        """Whether a value is of its field's type; an option's is known when its kind is."""
        try:
            if table == "recipe":
                check_fields(trainers.Recipe, {name: cell.value})
        except BadInput as error:
            self.problems.append(Problem(cell.where(), str(error)))
            return False
        return True

    def grid(
        self, columns: Mapping[Key, list[_Cell]], before: tuple[str | int, ...]
    ) -> Iterator[Planned]:
        """Every combination."""
        self.runs += math.prod(map(len, columns.values()))
        if self.runs > MOST_RUNS:
            said = f"with this there are {self.runs:,} trainings, and {MOST_RUNS:,} are the most"
            self.wrong(before, said)
            return
        for cells in product(*columns.values()):
            chosen = {key: cell.value for key, cell in zip(columns, cells, strict=True)}
            where = {key[-1]: cell.where for key, cell in zip(columns, cells, strict=True)}
            where[""] = partial(self.place, before)
            try:
                request = self.request(chosen)
            except BadInput as error:
                self.problems += _problems(where, error)
                return
            yield Planned(request, {key[-1]: value for key, value in chosen.items()}, where)

    def request(self, chosen: Mapping[Key, Any]) -> TrainingRequest:
        """One training, checked as far as it can be without its base."""
        table: dict[str, Any] = {name: {} for name in TABLES}
        for key, value in chosen.items():
            if len(key) == 1:
                table[key[0]] = value
            else:
                table[key[0]][key[1]] = value
        folder = self.path.parent
        table["base"] = _base(table.get("base", "sketch"), folder)
        request = anchored(from_table(table), folder)
        request = replace(
            request,
            options=asdict(trainers.kind_of(request)),
            loading={**request.loading, **self.loading},
        )
        return replace(request, name=_name(request, folder, self.pictures_sha256(request)))

    def pictures_sha256(self, request: TrainingRequest) -> str:
        """A SHA-256 of the pictures; they are read once for trainings like this.

        Raises BadInput for what `trainers.check` refuses.
        """
        recipe = {key: value for key, value in request.recipe.items() if key not in ANY}
        alike = replace(request, recipe=recipe)
        if (key := repr((alike, alike.recipe))) not in self.digests:
            try:
                self.digests[key] = trainers.check(alike).sha256
            except BadInput as error:
                named = str(error).partition(" ")[0]
                known = named in FIELDS or str(request.init) in str(error)
                raise BadInput(str(error) if known else f"pictures: {error}") from None
        return self.digests[key]


def _problems(where: Mapping[str, Where], error: BadInput) -> list[Problem]:
    """What is wrong, each at its field."""
    if isinstance(error, InvalidFields):
        return [Problem(where.get(n, where[""])(), text) for n, text in error.problems.items()]
    return [_problem(where, str(error))]


def _problem(where: Mapping[str, Where], said: str) -> Problem:
    named, colon, rest = said.partition(":")
    if colon and named in where:
        return Problem(where[named](), rest.strip())
    return Problem(where.get(said.partition(" ")[0], where[""])(), said)


def _base(raw: object, folder: Path) -> str:
    try:
        base = str(read_value("base", raw, folder))
    except BadInput as error:
        raise BadInput(f"base: {error}") from None
    return os.path.abspath(base) if os.path.exists(base) and base not in BUNDLED_BASES else base


def _tuples() -> frozenset[str]:
    """The fields of recipes and kinds that hold a list."""
    forms = (trainers.Recipe, *trainers.kinds().values())
    hints = [hint for form in forms for hint in get_type_hints(form).items()]
    return frozenset(name for name, hint in hints if _many(hint))


def _many(hint: object) -> bool:
    return get_origin(hint) is tuple or any(get_origin(one) is tuple for one in get_args(hint))


def _name(request: TrainingRequest, folder: Path, pictures: str) -> str:
    """The kind, the trigger, and a hash of all that the training is made of.

    What lies beside the file counts by its path from there, so a name outlives a move. pictures:
    a hash of what they hold, so that it changes with them.
    """
    base, prior, init = request.base, request.prior_pictures, request.init
    facts = to_json(request) | {
        "contents": pictures,
        "loading": {key: request.loading[key] for key in PRECISION if key in request.loading},
        "pictures": [[os.path.relpath(one.path, folder), one.weight] for one in request.pictures],
        "base": os.path.relpath(base, folder) if os.path.isabs(base) else base,
        "prior_pictures": prior and os.path.relpath(prior, folder),
        "init": init and file_sha256(split_half(init)[0]),
        "half": init and split_half(init)[1],
    }
    text = json.dumps(facts, sort_keys=True)
    words = slug(request.trigger)[:40].strip("-") or "run"
    return f"{request.kind}-{words}-{sha256(text.encode()).hexdigest()[:12]}"
