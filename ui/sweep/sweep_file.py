"""Reads a sweep: a recipe.toml in which lists multiply, as in a batch's manifest.

    trigger = "sks robot"
    pictures = "photos/robot"
    kind = "lora"

    [options]
    rank = [4, 16]

    [recipe]
    steps = 400
    lr = [1e-3, 2e-3]
    seed = "1..3"

are twelve trainings. Fields at the top apply to every `[[runs]]`, whose own lists multiply too. A
field whose value is a list, such as `pictures`, takes a list of lists for several values. Paths of
files are relative to the sweep.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

import trainers
from studio.adapters.blora_blocks import split_half
from studio.errors import BadInput, join_errors
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
from ui.batch.manifest_lines import (
    Place,
    Problem,
    read_manifest_text,
    read_toml,
    without_name,
)
from ui.batch.named_files import NamedFiles
from ui.batch.toml_lines import Steps, TomlText
from ui.shared.form import Form, fields_of
from ui.shared.grid import combinations
from ui.shared.names import slug

MOST_RUNS = 10_000
# Fields of a recipe that a training writes itself, and that a sweep can't set.
WRITTEN_BY_RUNS = ("fingerprint", "examples", "init_sha256", "out", "torch")
TOP_FIELDS = tuple(name for name in RECIPE_KEYS if name not in (*WRITTEN_BY_RUNS, *TABLES))
# Options that don't affect whether pictures and captions are accepted.
CHECKED_ALIKE = (
    *("seed", "lr", "text_lr", "token_lr", "steps", "batch", "accumulation"),
    *("warmup", "schedule"),
)
ALL_FIELDS = frozenset((*RECIPE_KEYS, *(one.name for one in fields(trainers.Recipe))))
Key = tuple[str, ...]  # ("trigger",) at the top, ("recipe", "lr") in a table
Where = Callable[[], Place]  # gives a place; lines are looked up only for messages


@dataclass(frozen=True)
class PlannedRun:
    """A training of a sweep. settings: the fields that the file sets. places: of these fields."""

    request: TrainingRequest
    settings: Mapping[str, object]
    places: Mapping[str, Where]

    def problem(self, sentence: str) -> Problem:
        """A problem of this training, at the field that the sentence begins with, if any."""
        return _problem(self.places, sentence)


def read_sweep(
    path: Path, loading: Mapping[str, object] = MappingProxyType({})
) -> tuple[PlannedRun, ...]:
    """The trainings of a file, without duplicates, ordered by base.

    loading: fields of Loading, which override those of the file. Raises BadInput that names every
    line and field with a mistake.
    """
    if path.suffix.lower() != ".toml":
        raise BadInput(f"{path}: a sweep's name ends in .toml.")
    reader = _Reader(path, read_toml(path, read_manifest_text(path)), loading)
    planned = {run.request.name: run for run in reader.read()}
    if reader.problems:
        raise join_errors(reader.problems)
    bases = list(dict.fromkeys(run.request.base for run in planned.values()))
    return tuple(sorted(planned.values(), key=lambda run: bases.index(run.request.base)))


@dataclass(frozen=True)
class _Value:
    value: object
    where: Where


class _Reader:
    """Reads one sweep and collects its problems."""

    def __init__(self, path: Path, toml: TomlText, loading: Mapping[str, object]) -> None:
        self.path, self.toml, self.loading = path, toml, loading
        self.problems: list[Problem] = []
        self.runs = 0
        self.digests: dict[str, str] = {}  # hashes of pictures, by the requests that share them
        forms = (trainers.Recipe, *trainers.kinds().values())
        many = (one.name for form in forms for one in fields_of(Form(form, "")) if one.many)
        self.list_fields = frozenset(("pictures", "weights", *many))

    def read(self) -> Iterator[PlannedRun]:
        """The trainings of the whole file."""
        whole = self.toml.values
        runs = whole.get("runs", [{}])
        if not isinstance(runs, list) or not all(isinstance(one, dict) for one in runs):
            self.add_problem(("runs",), "write each of them as a table, under a line [[runs]]")
            return
        top = self.axes({key: value for key, value in whole.items() if key != "runs"}, ())
        for number, own in enumerate(runs):
            steps = ("runs", number) if "runs" in whole else ()
            axes = top | self.axes(own, steps)
            if missing := [name for name in NEEDED if (name,) not in axes]:
                self.add_problem(steps, f"{', '.join(missing)} is missing", field=missing[0])
            elif not self.problems:
                yield from self.combine(axes, steps)

    def add_problem(self, steps: Steps, reason: str, *, field: str = "") -> None:
        self.problems.append(Problem(self.place(steps, field), reason))

    def place(self, steps: Steps, field: str = "") -> Place:
        name = field or next((str(one) for one in reversed(steps) if isinstance(one, str)), "runs")
        return Place(self.path, self.toml.line(steps) if steps else 1, name)

    def axes(self, table: Mapping[str, object], steps: Steps) -> dict[Key, list[_Value]]:
        """The values of each field of a table and of its sub-tables."""
        return {key: self.values(key, raw, (*steps, *key)) for key, raw in self.flat(table, steps)}

    def flat(self, table: Mapping[str, object], steps: Steps) -> Iterator[tuple[Key, object]]:
        for name, raw in table.items():
            if (name in TABLES) != isinstance(raw, dict):
                reason = f"it is {'a' if name in TABLES else 'no'} table of a recipe"
                self.add_problem((*steps, name), reason)
            elif isinstance(raw, dict):
                yield from (((name, inner), value) for inner, value in raw.items())
            elif name in TOP_FIELDS:
                yield (name,), raw
            else:
                reason = f"there is no such field; there are {', '.join(TOP_FIELDS)}"
                self.add_problem((*steps, name), reason)

    def values(self, key: Key, raw: object, steps: Steps) -> list[_Value]:
        """The values of one field, which holds a value or a list of values."""
        try:
            if key[-1] not in self.list_fields:
                items = grid_values(key[-1], raw, most=MOST_RUNS)
            elif isinstance(raw, list) and raw and all(isinstance(one, list) for one in raw):
                items = list(enumerate(raw))
            else:
                items = [(None, raw)]
        except BadInput as error:
            self.add_problem(steps, str(error))
            return []
        values = [
            _Value(value, partial(self.place, steps if at is None else (*steps, at), key[-1]))
            for at, value in items
        ]
        return [one for one in values if self.is_valid(key, one)]

    def is_valid(self, key: Key, value: _Value) -> bool:
        """Whether a field of Recipe accepts a value; a kind's options are checked later."""
        try:
            if key[0] == "recipe":
                check_fields(trainers.Recipe, {key[-1]: value.value})
        except BadInput as error:
            self.problems.append(Problem(value.where(), without_name(key[-1], str(error))))
            return False
        return True

    def combine(self, axes: Mapping[Key, list[_Value]], steps: Steps) -> Iterator[PlannedRun]:
        """A training for every combination of values; stops at the first that is not possible."""
        self.runs += math.prod(map(len, axes.values()))
        if self.runs > MOST_RUNS:
            reason = f"with this there are {self.runs:,} trainings, and {MOST_RUNS:,} are the most"
            self.add_problem(steps, reason)
            return
        for chosen in combinations(axes):
            places = {"": partial(self.place, steps)}
            places |= {key[-1]: value.where for key, value in chosen.items()}
            try:
                request = self.request({key: one.value for key, one in chosen.items()})
            except BadInput as error:
                self.problems += _problems(places, error)
                return
            settings = {key[-1]: value.value for key, value in chosen.items()}
            yield PlannedRun(request, settings, places)

    def request(self, values: Mapping[Key, Any]) -> TrainingRequest:
        """One training, checked as far as is possible without its base."""
        table: dict[str, Any] = {name: {} for name in TABLES}
        for (*tables, name), value in values.items():
            (table[tables[0]] if tables else table)[name] = value
        folder = self.path.parent
        try:
            read_value("base", table.get("base", "sketch"), NamedFiles(folder))
        except BadInput as error:
            raise BadInput(f"base: {error}") from None
        request = anchored(from_table(table), folder)
        request = replace(
            request,
            options=asdict(trainers.kind_of(request)),
            loading={**request.loading, **self.loading},
        )
        return replace(request, name=_name(request, folder, self.pictures_sha256(request)))

    def pictures_sha256(self, request: TrainingRequest) -> str:
        """A SHA-256 of the pictures, which are read once for requests that differ only in
        CHECKED_ALIKE.

        Raises BadInput for requests that `trainers.check` refuses.
        """
        recipe = {key: value for key, value in request.recipe.items() if key not in CHECKED_ALIKE}
        relevant = replace(request, recipe=recipe)
        if (key := repr((relevant, relevant.recipe))) not in self.digests:
            try:
                self.digests[key] = trainers.check(relevant).sha256
            except BadInput as error:
                field = str(error).partition(" ")[0].removesuffix(":")
                known = field in ALL_FIELDS or str(request.init) in str(error)
                raise BadInput(str(error) if known else f"pictures: {error}") from None
        return self.digests[key]


def _problems(places: Mapping[str, Where], error: BadInput) -> list[Problem]:
    """The problems of an error, one for each wrong field."""
    if isinstance(error, InvalidFields):
        wrong = error.problems.items()
        return [
            Problem(places[name](), without_name(name, reason))
            if name in places
            else Problem(places[""](), reason)
            for name, reason in wrong
        ]
    return [_problem(places, str(error))]


def _problem(places: Mapping[str, Where], sentence: str) -> Problem:
    field, colon, rest = sentence.partition(":")
    if colon and field in places:
        return Problem(places[field](), rest.strip())
    return Problem(places.get(sentence.partition(" ")[0], places[""])(), sentence)


def _name(request: TrainingRequest, folder: Path, pictures: str) -> str:
    """A training's name: the kind, the trigger, and a hash of all its settings.

    Paths are taken relative to the sweep's folder, so that a name stays when the folder moves.
    pictures: a hash of their contents, so that the name changes with them.
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
