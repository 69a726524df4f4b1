"""A manifest: shots one by one, or as grids of prompts x seeds x mixes x methods x any field.

Fields are those of `studio.Shot`. In TOML a list of values multiplies the shots, what stands at the
top holds for every `[[shots]]`, and four fields have a plural: `prompts`, `seeds`, `mixes`,
`methods`. A line of JSON or CSV is one shot. Files are looked for beside the manifest.

No PyTorch here: all that can be wrong with a manifest by itself is said at once, with its line.
"""

import difflib
import math
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

from studio.errors import BadInput
from studio.requests.shot import Shot
from ui.batch.field_values import TEXTS, from_text, in_words, members, read_value
from ui.batch.manifest_lines import (
    Entry,
    Place,
    Problem,
    read_csv,
    read_jsonl,
    read_text,
    read_toml,
)
from ui.batch.wildcards import Choice, Wildcards, count, draw, every, read_lines

__all__ = ["MOST_SHOTS", "Manifest", "Planned", "all_of", "read_manifest"]

# From the field that changes least from shot to shot to the one that changes most.
FIELDS = (
    "base",
    "prompt",
    "negative",
    "init_image",
    "denoise",
    "seed",
    "width",
    "height",
    "steps",
    "guidance",
    "scheduler",
    "adapters",
    "method",
)
PLURALS = {"prompts": "prompt", "seeds": "seed", "mixes": "adapters", "methods": "method"}
IN_GRIDS = (*FIELDS, *PLURALS, "prompt_file")
SETTINGS = ("expand", "wildcards", "shots")
MOST_SHOTS = 100_000  # of a manifest, where nothing else is said
MOST_SAID = 20  # problems that are told of one manifest
Where = Callable[[], Place]  # a line of TOML is looked for only when it is to be told


@dataclass(frozen=True)
class Planned:
    """A shot, and where its fields stand; "" is where it begins."""

    shot: Shot
    places: Mapping[str, Where]

    def problem(self, field: str, said: str) -> Problem:
        """What is wrong with one of its fields."""
        if field in self.places:
            return Problem(self.places[field](), said)
        begins = self.places[""]()
        return Problem(Place(begins.file, begins.line, field), said)


@dataclass(frozen=True)
class Manifest:
    """All the shots of a file, in their order."""

    path: Path
    planned: tuple[Planned, ...]

    @property
    def shots(self) -> tuple[Shot, ...]:
        return tuple(one.shot for one in self.planned)


def read_manifest(path: Path, *, most: int = MOST_SHOTS) -> Manifest:
    """Read a .toml, .jsonl or .csv file of shots; BadInput names every line and field amiss.

    most: shots that there may be.
    """
    readers = {".toml": _toml, ".jsonl": _jsonl, ".csv": _csv}
    read = readers.get(path.suffix.lower())
    if read is None:
        raise BadInput(f"{path}: a manifest's name ends in {', '.join(readers)}.")
    reading = _Reading(path, most)
    planned = tuple(read(reading, read_text(path)))
    if not planned and not reading.problems:
        said = "the manifest has no shot: give it a prompt"
        reading.problems.append(Problem(Place(path, 1, "prompt"), said))
    if reading.problems:
        raise all_of(reading.problems)
    return Manifest(path, planned)


def all_of(problems: Sequence[Problem]) -> BadInput:
    """One error for several, a line each."""
    said = list(dict.fromkeys(map(str, problems)))
    if len(said) == 1:
        return problems[0]
    more = len(said) - MOST_SAID
    tail = [f"and {more} more."] if more > 0 else []
    return BadInput("\n  ".join([f"{len(said)} mistakes:", *said[:MOST_SAID], *tail]))


def _toml(reading: "_Reading", text: str) -> Iterator[Planned]:
    found, line_of = read_toml(reading.path, text)

    def line(before: tuple[str | int, ...], field: str, member: int | None) -> int:
        steps = (field, member)
        return line_of((*before, *(step for step in steps if step not in ("", None))))

    whole = Entry(found, partial(line, ()))
    reading.take_settings(whole)
    shots = found.get("shots", [{}])
    if not isinstance(shots, list) or not all(isinstance(one, dict) for one in shots):
        reading.wrong(whole, "shots", "write each of them as a table, under a line [[shots]]")
        return
    for number, own in enumerate(shots):
        # What stands at the top gives way, also under its plural.
        named = {_field(key) for key in own}
        top = {k: v for k, v in found.items() if k not in SETTINGS and _field(k) not in named}
        before = ("shots", number) if "shots" in found else ()
        places = dict.fromkeys(top, ()) | dict.fromkeys(own, before)
        yield from reading.grid(Entry(top | own, partial(_line_in, line, places, before)))


def _line_in(
    line: Callable[[tuple[str | int, ...], str, int | None], int],
    places: Mapping[str, tuple[str | int, ...]],
    before: tuple[str | int, ...],
    field: str,
    member: int | None,
) -> int:
    return line(places[field], field, member) if field in places else line(before, "", None)


def _field(key: str) -> str:
    """The shot's field that a key of a grid is for."""
    return "prompt" if key == "prompt_file" else PLURALS.get(key, key)


def _jsonl(reading: "_Reading", text: str) -> Iterator[Planned]:
    for found in read_jsonl(reading.path, text):
        if isinstance(found, Problem):
            reading.problems.append(found)
        else:
            yield from reading.one(found)


def _csv(reading: "_Reading", text: str) -> Iterator[Planned]:
    for found in read_csv(reading.path, text, amiss=partial(_amiss, FIELDS)):
        if isinstance(found, Problem):
            reading.problems.append(found)
        else:
            values = {key: from_text(key, str(value)) for key, value in found.values.items()}
            yield from reading.one(Entry(values, found.line))


@dataclass(frozen=True)
class _Cell:
    """A value of a field; a text is a Choice until the seed of its shot is known."""

    value: object
    where: Where


class _Reading:
    """One manifest being read, and what was found wrong with it so far."""

    def __init__(self, path: Path, most: int) -> None:
        self.path, self.folder, self.most = path, path.parent, most
        self.problems: list[Problem] = []
        self.wildcards = Wildcards(self.folder / "wildcards", {})
        self.every_text = False
        self.shots = 0

    def place(self, entry: Entry, field: str, member: int | None = None) -> Place:
        """Where something stands; an entry without such a field stands for it."""
        return Place(self.path, entry.line(field, member), field)

    def wrong(self, entry: Entry, field: str, said: str, member: int | None = None) -> None:
        """Note what is wrong with a field."""
        self.problems.append(Problem(self.place(entry, field, member), said))

    def take_settings(self, whole: Entry) -> None:
        """Read what a TOML file says of the texts in it."""
        expand = whole.values.get("expand", "one")
        if expand not in ("one", "all"):
            said = f"{in_words(expand)} is neither one, drawn by each shot's seed, nor all"
            self.wrong(whole, "expand", said)
        self.every_text = expand == "all"
        given = whole.values.get("wildcards", {})
        if isinstance(given, str):
            self.wildcards = Wildcards(self.folder / given, {})
            if not os.path.isdir(self.folder / given):
                self.wrong(whole, "wildcards", f"there is no folder {in_words(given)}")
        elif isinstance(given, dict) and all(map(_texts, given.values())):
            self.wildcards = Wildcards(self.folder / "wildcards", given)
        else:
            self.wrong(whole, "wildcards", "give a folder, or lists of texts under [wildcards]")

    def one(self, entry: Entry) -> Iterator[Planned]:
        """The shot of an entry that is one."""
        return self._shots(entry, self._columns(entry, FIELDS))

    def grid(self, entry: Entry) -> Iterator[Planned]:
        """The shots of an entry: every combination of its fields' values."""
        return self._shots(entry, self._columns(entry, IN_GRIDS))

    def _shots(self, entry: Entry, columns: dict[str, list[_Cell]] | None) -> Iterator[Planned]:
        if columns is None:
            return
        many = math.prod(map(len, columns.values()))
        self.shots += many
        if self.shots > self.most:
            said = f"with this there are {self.shots:,} shots, and {self.most:,} are the most"
            self.wrong(entry, "prompt", said)
            return
        begins = {"": partial(self.place, entry, "")}
        for cells in product(*columns.values()):
            chosen = dict(zip(columns, cells, strict=True))
            places = begins | {name: cell.where for name, cell in chosen.items()}
            planned = Planned(_shot(chosen), places)
            try:
                planned.shot.check()
            except BadInput as error:
                field, _, said = str(error).partition(": ")
                self.problems.append(planned.problem(field, said))
                return
            yield planned

    def _columns(self, entry: Entry, known: Sequence[str]) -> dict[str, list[_Cell]] | None:
        """The values of each field, in the order of FIELDS; None where something is wrong."""
        before, found = len(self.problems), dict[str, list[_Cell]]()
        for key, raw in entry.values.items():
            if said := _amiss(known, key):
                self.wrong(entry, key, said)
            elif _field(key) in found:
                self.wrong(entry, key, f"{_field(key)} is given twice")
            else:
                found[_field(key)] = self._column(entry, key, raw, alone=known is FIELDS)
        if "prompt" not in found:
            self.wrong(entry, "prompt", "it is missing: say what the picture is to show")
        if len(self.problems) > before:
            return None
        return {name: found[name] for name in FIELDS if name in found}

    def _column(self, entry: Entry, key: str, raw: object, *, alone: bool) -> list[_Cell]:
        if key == "prompt_file":
            return self._prompts(entry, raw)
        try:
            values = [(None, raw)] if alone else members(key, raw, most=self.most)
        except BadInput as error:
            self.wrong(entry, key, str(error))
            return []
        cells = []
        for member, value in values:
            where = partial(self.place, entry, key, member)
            cells += self._cells(_field(key), value, where)
        return cells

    def _prompts(self, entry: Entry, raw: object) -> list[_Cell]:
        """The prompts in a file, one a line."""
        if not isinstance(raw, str) or not os.path.isfile(self.folder / raw):
            self.wrong(entry, "prompt_file", f"there is no file {in_words(raw)}")
            return []
        path = self.folder / raw
        try:
            lines = read_lines(path)
        except BadInput as error:
            self.wrong(entry, "prompt_file", str(error))
            return []
        if not lines:
            self.wrong(entry, "prompt_file", f"{raw} has no line with a prompt")
        cells = []
        for line, text in lines:
            cells += self._cells("prompt", text, partial(Place, path, line, "prompt"))
        return cells

    def _cells(self, field: str, raw: object, where: Where) -> list[_Cell]:
        """What one written value stands for: itself, or every text that it can become."""
        try:
            value = read_value(field, raw, self.folder)
            if field not in TEXTS:
                return [_Cell(value, where)]
            choice = self.wildcards.read(str(value))
            if not self.every_text:
                return [_Cell(choice, where)]
            if (many := count(choice)) > self.most:
                raise BadInput(f"it can become {many:,} texts, and {self.most:,} are the most")
            return [_Cell(Choice((text,)), where) for text in every(choice)]
        except BadInput as error:
            self.problems.append(Problem(where(), str(error)))
            return []


def _shot(chosen: Mapping[str, _Cell]) -> Shot:
    fields = {name: cell.value for name, cell in chosen.items()}
    seed = fields.get("seed", 0)
    for name in TEXTS:
        choice = fields.get(name)
        if isinstance(choice, Choice):
            # By the seed alone, so that one prompt and seed say the same under every mix.
            fields[name] = draw(choice, random.Random(f"{seed} {name}"))
    if not fields.get("adapters"):
        fields["method"] = None  # in a grid the plain base is one shot, not one for each method
    return Shot(**fields)  # pyright: ignore[reportArgumentType]


def _texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


def _amiss(known: Sequence[str], key: str) -> str:
    if key in known:
        return ""
    close = difflib.get_close_matches(key, known, 1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
    return f"there is no such field; {hint}"
