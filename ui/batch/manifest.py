"""A manifest: shots one by one, or as grids of prompts x seeds x mixes x methods x any field.

Fields are those of `studio.Shot`. In TOML a list of values multiplies the shots, fields at the top
apply to every `[[shots]]`, and four fields have a plural: `prompts`, `seeds`, `mixes`, `methods`. A
line of JSON or CSV is one shot; null or an empty cell means that the field is not given. Paths of
files are relative to the manifest.

Imports no PyTorch, so that every mistake in a manifest is reported at once, with its line.
"""

import difflib
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from studio.errors import BadInput, join_errors
from studio.requests.adapter_tags import take_adapter_tags
from studio.requests.shot import Shot
from studio.requests.speed import negative_note, with_speed
from studio.requests.validation import InvalidFields, in_words
from ui.batch.field_values import TEXTS, grid_values, read_cell, read_value, tagged_adapter
from ui.batch.manifest_lines import (
    Entry,
    Place,
    Problem,
    read_csv,
    read_jsonl,
    read_manifest_text,
    read_toml,
    without_name,
)
from ui.batch.named_files import NamedFiles
from ui.batch.toml_lines import Steps, TomlText
from ui.batch.wildcards import MOST_COUNTED, Text, Wildcards, draw, every, read_lines
from ui.shared.grid import combinations

# The fields in the order of a grid's loops: the first changes least often from shot to shot.
FIELDS = (
    *("base", "prompt", "negative", "init_image", "denoise", "mask"),
    *("seed", "width", "height", "steps", "guidance", "scheduler", "spacing", "clip_skip"),
    *("syntax", "second_pass", "second_denoise", "adapters", "regions"),
    *("avoid", "avoid_by", "avoid_strength", "method"),
)
PLURALS = {"prompts": "prompt", "seeds": "seed", "mixes": "adapters", "methods": "method"}
IN_GRIDS = (*FIELDS, *PLURALS, "prompt_file")
SETTINGS = ("expand", "wildcards", "shots")
MOST_SHOTS = 100_000  # shots of a manifest, unless the caller sets another limit
Where = Callable[[], Place]  # gives a place; lines of TOML are looked up only for messages


@dataclass(frozen=True)
class PlannedShot:
    """A shot of a manifest.

    places: where each field stands; under "", where the shot begins. notes: remarks on the shot.
    """

    shot: Shot
    places: Mapping[str, Where]
    notes: tuple[str, ...] = ()

    def problem(self, field: str, reason: str) -> Problem:
        """A problem with one of the shot's fields."""
        if field in self.places:
            return Problem(self.places[field](), reason)
        start = self.places[""]()
        return Problem(Place(start.file, start.line, field), reason)


@dataclass(frozen=True)
class Manifest:
    """The shots of a file, in order."""

    path: Path
    planned: tuple[PlannedShot, ...]

    @property
    def shots(self) -> tuple[Shot, ...]:
        return tuple(one.shot for one in self.planned)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks to print before the first picture, each sentence once."""
        return tuple(dict.fromkeys(note for one in self.planned for note in one.notes))


def read_manifest(
    path: Path, *, most: int = MOST_SHOTS, only: Sequence[Path] | None = None
) -> Manifest:
    """Read a .toml, .jsonl or .csv file of at most `most` shots.

    only: see NamedFiles; if it is given, the manifest may not read prompts from other files.
    Raises BadInput that names every line and field with a mistake.
    """
    readers = {".toml": _read_toml, ".jsonl": _read_jsonl, ".csv": _read_csv}
    read = readers.get(path.suffix.lower())
    if read is None:
        raise BadInput(f"{path}: a manifest's name ends in {', '.join(readers)}.")
    reader = _Reader(path, most, NamedFiles(path.parent, only))
    planned = tuple(read(reader, read_manifest_text(path)))
    if not planned and not reader.problems:
        reason = "the manifest has no shot: give it a prompt"
        reader.problems.append(Problem(Place(path, 1, "prompt"), reason))
    if reader.problems:
        raise join_errors(reader.problems)
    return Manifest(path, planned)


def _read_toml(reader: "_Reader", text: str) -> Iterator[PlannedShot]:
    toml = read_toml(reader.path, text)
    whole = _TomlTable(toml, ()).entry(toml.values)
    reader.read_settings(whole)
    shots = toml.values.get("shots", [{}])
    if not isinstance(shots, list) or not all(isinstance(one, dict) for one in shots):
        reader.add_problem(whole, "shots", "write each of them as a table, under a line [[shots]]")
        return
    for number, own in enumerate(shots):
        # A field of a table replaces the same field of the top, even if one of them is a plural.
        own_fields = {_field(key) for key in own}
        top = {
            key: value
            for key, value in toml.values.items()
            if key not in SETTINGS and _field(key) not in own_fields
        }
        table = _TomlTable(
            toml, ("shots", number) if "shots" in toml.values else (), frozenset(top)
        )
        yield from reader.read(table.entry(top | own), IN_GRIDS)


@dataclass(frozen=True)
class _TomlTable:
    """A table of a TOML file, at these steps. from_top: the fields that the file's top gives it."""

    toml: TomlText
    steps: Steps
    from_top: frozenset[str] = frozenset()

    def entry(self, values: Mapping[str, object]) -> Entry:
        return Entry(values, lambda field, item: self._line(values, field, item))

    def _line(self, values: Mapping[str, object], field: str, item: int | None) -> int:
        if field not in values:
            return self.toml.line(self.steps)
        steps = (field,) if field in self.from_top else (*self.steps, field)
        return self.toml.line(steps if item is None else (*steps, item))


def _field(key: str) -> str:
    """The shot's field that a key of a grid sets."""
    return "prompt" if key == "prompt_file" else PLURALS.get(key, key)


def _read_jsonl(reader: "_Reader", text: str) -> Iterator[PlannedShot]:
    for found in read_jsonl(reader.path, text):
        if isinstance(found, Problem):
            reader.problems.append(found)
        else:
            yield from reader.read(found)


def _read_csv(reader: "_Reader", text: str) -> Iterator[PlannedShot]:
    for found in read_csv(reader.path, text, check_name=partial(_check_name, FIELDS)):
        if isinstance(found, Problem):
            reader.problems.append(found)
        else:
            values = {key: read_cell(key, str(value)) for key, value in found.values.items()}
            yield from reader.read(Entry(values, found.line))


@dataclass(frozen=True)
class _Value:
    """A value of a field, and its place. Texts are of type Text until the shot's seed is known."""

    value: object
    where: Where


class _Reader:
    """Reads one manifest and collects its problems."""

    def __init__(self, path: Path, most: int, files: NamedFiles) -> None:
        self.path, self.most, self.files = path, most, files
        self.problems: list[Problem] = []
        beside = None if files.only is not None else files.folder / "wildcards"
        self.wildcards = Wildcards(beside, {})
        self.expand_all = False
        self.shots = 0

    def add_problem(self, entry: Entry, field: str, reason: str, item: int | None = None) -> None:
        """Add a problem with a field."""
        self.problems.append(Problem(self._place(entry, field, item), reason))

    def _place(self, entry: Entry, field: str, item: int | None = None) -> Place:
        """The place of a field, or of the entry if it lacks the field."""
        return Place(self.path, entry.line(field, item), field)

    def read_settings(self, whole: Entry) -> None:
        """Read `expand` and `wildcards` of a TOML file."""
        expand = whole.values.get("expand", "one")
        if expand not in ("one", "all"):
            reason = f"{in_words(expand)} is neither one, drawn by each shot's seed, nor all"
            self.add_problem(whole, "expand", reason)
        self.expand_all = expand == "all"
        try:
            self.wildcards = self._wildcards(whole.values.get("wildcards", {}))
        except BadInput as error:
            self.add_problem(whole, "wildcards", str(error))

    def _wildcards(self, given: object) -> Wildcards:
        if isinstance(given, str):
            self.files.check_text_files("write the lists here, under [wildcards]")
            folder = Path(self.files.find(given, otherwise=""))
            if not folder.is_dir():
                raise BadInput(f"there is no folder {in_words(given)}")
            return Wildcards(folder, {})
        if isinstance(given, dict) and all(map(_is_text_list, given.values())):
            return replace(self.wildcards, lists=given)
        raise BadInput("give a folder, or lists of texts under [wildcards]")

    def read(self, entry: Entry, known: Sequence[str] = FIELDS) -> Iterator[PlannedShot]:
        """The shot of an entry; with known=IN_GRIDS a shot for every combination of its values."""
        axes = self._axes(entry, known)
        if axes is None:
            return
        self.shots += math.prod(map(len, axes.values()))
        if self.shots > self.most:
            reason = f"with this there are {self.shots:,} shots, and {self.most:,} are the most"
            self.add_problem(entry, "prompt", reason)
            return
        start = {"": partial(self._place, entry, "")}
        for values in combinations(axes):
            places = start | {name: value.where for name, value in values.items()}
            planned = PlannedShot(_shot(values), places)
            try:
                planned.shot.check()
                shot = take_adapter_tags(planned.shot, partial(tagged_adapter, files=self.files))
                shot, speed_note = with_speed(shot)
                if shot is not planned.shot:  # checking twice takes long in large tables
                    shot.check()
            except InvalidFields as error:
                for field, problem in error.problems.items():
                    self.problems.append(planned.problem(field, without_name(field, problem)))
                return
            except BadInput as error:
                self.problems.append(planned.problem("prompt", str(error)))
                return
            # Without adapters the method is dropped, so that a grid has the plain base only once.
            method = shot.method if shot.adapters or shot.regions else None
            notes = tuple(filter(None, (speed_note, negative_note(shot))))
            yield replace(planned, shot=replace(shot, method=method), notes=notes)

    def _axes(self, entry: Entry, known: Sequence[str]) -> dict[str, list[_Value]] | None:
        """The values of each field, in the order of FIELDS; None if there is a problem."""
        before, axes = len(self.problems), dict[str, list[_Value]]()
        for key, raw in entry.values.items():
            if reason := _check_name(known, key):
                self.add_problem(entry, key, reason)
            elif _field(key) in axes:
                self.add_problem(entry, key, f"{_field(key)} is given twice")
            elif raw is not None:
                axes[_field(key)] = self._axis(entry, key, raw, single=known is FIELDS)
        if "prompt" not in axes:
            self.add_problem(entry, "prompt", "it is missing: say what the picture is to show")
        if len(self.problems) > before:
            return None
        return {name: axes[name] for name in FIELDS if name in axes}

    def _axis(self, entry: Entry, key: str, raw: object, *, single: bool) -> list[_Value]:
        """The values of one field. single: take even a list as one value."""
        values: list[_Value] = []
        try:
            if single:
                written = iter([(raw, partial(self._place, entry, key))])
            else:
                written = self._written(entry, key, raw)
            for value, where in written:
                values += self._values(_field(key), value, where)
                if len(values) > self.most:
                    raise BadInput(f"it has more than {self.most:,} values, which are the most")
        except BadInput as error:
            self.add_problem(entry, key, str(error))
        return values

    def _written(self, entry: Entry, key: str, raw: object) -> Iterator[tuple[object, Where]]:
        """The values that a grid's field lists, each with its place. Raises BadInput."""
        if key == "prompt_file":
            path = self._prompt_file(raw)
            for line, text in read_lines(path):
                yield text, partial(Place, path, line, "prompt")
        else:
            for item, value in grid_values(key, raw, most=self.most):
                yield value, partial(self._place, entry, key, item)

    def _prompt_file(self, raw: object) -> Path:
        self.files.check_text_files("write the prompts here, as a list under prompts")
        path = Path(self.files.find(str(raw), otherwise=""))
        if not isinstance(raw, str) or not path.is_file():
            raise BadInput(f"there is no file {in_words(raw)}")
        if not read_lines(path):
            raise BadInput(f"{raw} has no line with a prompt")
        return path

    def _values(self, field: str, raw: object, where: Where) -> list[_Value]:
        """The values that a written value stands for: itself, or each text that it can become."""
        try:
            value = read_value(field, raw, self.files)
            if field not in TEXTS:
                return [_Value(value, where)]
            text = self.wildcards.read(str(value))
            return [
                _Value(one, where) for one in (self._every(text) if self.expand_all else [text])
            ]
        except BadInput as error:
            self.problems.append(Problem(where(), str(error)))
            return []

    def _every(self, text: Text) -> list[Text]:
        """All texts without choices that a text can become. Raises BadInput for too many."""
        if text.count > self.most:
            more = " or more" if text.count == MOST_COUNTED else ""
            raise BadInput(
                f"it can become {text.count:,}{more} texts, and {self.most:,} are the most"
            )
        return [Text((one,)) for one in every(text)]


def _shot(values: Mapping[str, _Value]) -> Shot:
    fields = {name: value.value for name, value in values.items()}
    seed = fields.get("seed", 0)
    for name in TEXTS:
        text = fields.get(name)
        if isinstance(text, Text):
            # Drawn by the seed alone, so that every mix has the same text for a prompt and a seed.
            fields[name] = draw(text, random.Random(f"{seed} {name}"))
    return Shot(**fields)  # pyright: ignore[reportArgumentType]


def _is_text_list(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


def _check_name(known: Sequence[str], key: str) -> str:
    """The problem with a field's name; "" if there is none."""
    if key in known:
        return ""
    close = difflib.get_close_matches(key, known, 1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
    return f"there is no such field; {hint}"
