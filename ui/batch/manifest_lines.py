"""Parses manifests in TOML, JSON lines or CSV, and finds the line of each field.

The meaning of the fields is not known here.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from studio.errors import BadInput
from studio.files import NotText, is_there, read_text
from studio.json_value import InvalidJson, parse_json
from studio.toml_text import InvalidToml
from ui.batch.toml_lines import TomlText

KEY = re.compile(r"""\s*(?:\[\[?\s*)?["']?([A-Za-z_][\w.-]*)["']?\s*[=\]]""")
JSON_KEY = re.compile(r'"([^"\\]*)"\s*:')
LONGEST = 80  # characters of a field's name in a message


@dataclass(frozen=True)
class Place:
    """The place of a field in a file. line: from 1."""

    file: Path
    line: int
    field: str

    def __str__(self) -> str:
        plain = self.field.isprintable() and self.field.strip() and len(self.field) <= LONGEST
        field = self.field if plain else repr(self.field[:LONGEST])
        return f"{self.file.name}, line {self.line}, {field}"


class Problem(BadInput):
    """A problem at one place of a manifest."""

    def __init__(self, place: Place, reason: str) -> None:
        super().__init__(f"{place}: {reason.rstrip('.')}{'' if reason.endswith('?') else '.'}")
        self.place = place


def without_name(field: str, reason: str) -> str:
    """A reason without the field's name at its start, as a Problem's place names the field."""
    return reason.removeprefix(field).lstrip(": ")


@dataclass(frozen=True)
class Entry:
    """The fields of one table, object or row, as they were written.

    line: gives the line of a field, or of an item of its list; with the field "", of the entry.
    """

    values: Mapping[str, object]
    line: Callable[[str, int | None], int]


def read_manifest_text(path: Path) -> str:
    """A manifest's text. Raises BadInput for a missing file, and for one that can't be read."""
    if not is_there(path):
        raise BadInput(f"There is no manifest {path}.")
    try:
        return read_text(path)
    except NotText as error:
        before = error.before.split("\n")
        place = Place(path, len(before), _key_at(before, len(before)))
        raise Problem(place, "this is not UTF-8: save the file as UTF-8") from None


def read_toml(path: Path, text: str) -> TomlText:
    """The content of a TOML file. Raises Problem for invalid TOML."""
    try:
        return TomlText(text)
    except InvalidToml as error:
        field = _key_at(text.split("\n"), error.line)
        raise Problem(Place(path, error.line, field), f"this is not valid TOML: {error}") from None


def read_jsonl(path: Path, text: str) -> Iterator[Entry | Problem]:
    """The entries of a JSONL file, one object a line; empty lines are skipped."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _json_entry(path, number, line)


def _json_entry(path: Path, number: int, line: str) -> Entry | Problem:
    try:
        found = parse_json(line, "this line", unique=True)
    except InvalidJson as error:
        keys = JSON_KEY.findall(line[: error.position + 1])
        field = repr(keys[-1]) if keys else "the object"
        return Problem(Place(path, number, field), f"this is not valid JSON: {error.reason}")
    if isinstance(found, dict):
        return Entry(found, _constantly(number))
    reason = 'a line holds one shot, such as {"prompt": "a cat"}'
    return Problem(Place(path, number, "the object"), reason)


def read_csv(
    path: Path, text: str, *, check_name: Callable[[str], str]
) -> Iterator[Entry | Problem]:
    """The entries of a CSV file: a header with the fields' names, then one shot a row.

    An empty cell means that the field is not given. The separator is a comma, semicolon or tab,
    whichever the first line has most of. check_name: gives the problem with a column's name, or "".
    """
    first = text.partition("\n")[0]
    rows = csv.reader(io.StringIO(text), delimiter=max(",;\t", key=first.count), strict=True)
    names: list[str] = []
    line = 1
    try:
        for cells in rows:
            if names and any(map(str.strip, cells)):
                yield _csv_entry(path, line, names, cells)
            elif any(map(str.strip, cells)):
                names = [cell.strip() for cell in cells]
                wrong = [*_wrong_columns(names, check_name)]
                yield from (Problem(Place(path, line, name), reason) for name, reason in wrong)
                if wrong:
                    return
            line = rows.line_num + 1
    except csv.Error as error:
        name = names[0] if names else "the columns"
        yield Problem(Place(path, line, name), f"this is not valid CSV: {error}")


def _csv_entry(path: Path, line: int, names: list[str], cells: list[str]) -> Entry | Problem:
    if len(cells) > len(names):
        reason = (
            f"this row has {len(cells)} cells for {len(names)} columns: put double quotes around a "
            'text with commas in it, "a cat, a dog"'
        )
        return Problem(Place(path, line, names[-1]), reason)
    stripped = {name: cell.strip() for name, cell in zip(names, cells, strict=False)}
    return Entry({name: cell for name, cell in stripped.items() if cell}, _constantly(line))


def _wrong_columns(names: list[str], check_name: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    for number, name in enumerate(names, start=1):
        if not name:
            yield f"column {number}", "it has no name"
        elif name in names[: number - 1]:
            yield name, "another column has this name too"
        elif reason := check_name(name):
            yield name, reason


def _constantly(line: int) -> Callable[[str, int | None], int]:
    return lambda field, member: line


def _key_at(lines: Sequence[str], line: int) -> str:
    """The key at the start of a line, or the last key before it; if there is none, the line."""
    for text in reversed(lines[:line]):
        if key := KEY.match(text):
            return key[1][:80]
    return repr(lines[line - 1].strip()[:40])
