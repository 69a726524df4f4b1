"""Manifests as they are written: TOML, JSON lines or CSV, and on which line everything stands.

Nothing is known here of what the fields mean. TOML's reader tells no lines, so they are found by
reading ever smaller beginnings of the file, and only when something is wrong with it.
"""

import csv
import io
import json
import re
import tomllib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from studio.errors import BadInput

__all__ = ["Entry", "Place", "Problem", "read_csv", "read_jsonl", "read_text", "read_toml"]

# What closes a beginning of a TOML file that ends inside a value: lists, texts of several lines.
QUOTES = ('\n"""', "\n'''")
CLOSERS = ("", "\n]", "\n]]", "\n]]]", *QUOTES, *(f"{quotes}]" for quotes in QUOTES))
KEY = re.compile(r"""\s*(?:\[\[?\s*)?["']?([A-Za-z_][\w.-]*)["']?\s*[=\]]""")
JSON_KEY = re.compile(r'"([^"\\]*)"\s*:')
LARGEST = 64 * 2**20  # bytes of a manifest
Steps = tuple[str | int, ...]


@dataclass(frozen=True)
class Place:
    """Where in a file something stands. line: from 1."""

    file: Path
    line: int
    field: str

    def __str__(self) -> str:
        plain = self.field.isprintable() and self.field.strip() and len(self.field) <= 80
        return (
            f"{self.file.name}, line {self.line}, {self.field if plain else repr(self.field[:80])}"
        )


class Problem(BadInput):
    """What is wrong at one place of a manifest."""

    def __init__(self, place: Place, said: str) -> None:
        super().__init__(f"{place}: {said.rstrip('.')}{'' if said.endswith('?') else '.'}")
        self.place = place


@dataclass(frozen=True)
class Entry:
    """The fields of one table, object or row, as they were written.

    line: where a field stands, or the member of this number of the list that it holds; "" is the
    entry itself.
    """

    values: Mapping[str, object]
    line: Callable[[str, int | None], int]


def read_text(path: Path) -> str:
    """A manifest's text. Raises BadInput where there is none in UTF-8."""
    try:
        if path.stat().st_size > LARGEST:
            raise BadInput(f"{path} is larger than {LARGEST >> 20} MB, which no manifest is.")
        content = path.read_bytes()
    except FileNotFoundError:
        raise BadInput(f"There is no manifest {path}.") from None
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise BadInput(f"The manifest {path} can't be read: {said}.") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8-sig").split("\n")
        place = Place(path, len(before), _key_at(before, len(before)))
        raise Problem(place, "this is not in UTF-8: save the file so") from None
    return text.replace("\r\n", "\n")


def read_toml(path: Path, text: str) -> tuple[dict[str, object], Callable[[Steps], int]]:
    """The whole of a TOML file, and what tells the line on which a value begins.

    The line is asked for by keys and numbers in lists, from the outermost: ("shots", 1, "seed").
    Raises Problem for what is no TOML.
    """
    lines = text.split("\n")
    found, error = _parsed(text)
    if found is None:
        last = len(text.rstrip().split("\n"))
        line = _line_said(error, last) or _first_unread(lines)
        raise Problem(Place(path, line, _key_at(lines, line)), f"this is no TOML: {error}")
    return found, _finder(found, lines)


def read_jsonl(path: Path, text: str) -> Iterator[Entry | Problem]:
    """An object a line; empty lines are passed over."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line, object_pairs_hook=_unrepeated)
        except (ValueError, RecursionError) as error:
            at = error.pos if isinstance(error, json.JSONDecodeError) else len(line)
            before = JSON_KEY.findall(line[: at + 1])
            said = error.msg if isinstance(error, json.JSONDecodeError) else _short(error)
            field = repr(before[-1]) if before else "the object"
            yield Problem(Place(path, number, field), f"this is no JSON: {said}")
            continue
        if not isinstance(found, dict):
            said = 'a line holds one shot, such as {"prompt": "a cat"}'
            yield Problem(Place(path, number, "the object"), said)
            continue
        yield Entry(found, _constantly(number))


def read_csv(path: Path, text: str, *, amiss: Callable[[str], str]) -> Iterator[Entry | Problem]:
    """A row a shot under a line with the fields' names; an empty cell is a field not given.

    Commas, semicolons or tabs stand between cells: what there is most of in the first line.
    amiss: what is wrong with a column's name, if anything.
    """
    first = text.partition("\n")[0]
    rows = csv.reader(io.StringIO(text), delimiter=max(",;\t", key=first.count), strict=True)
    names: list[str] = []
    while True:
        line = rows.line_num + 1
        try:
            cells = next(rows, None)
        except csv.Error as error:
            name = names[0] if names else "the columns"
            yield Problem(Place(path, line, name), f"this is no CSV: {error}")
            return
        if cells is None:
            return
        if not any(cell.strip() for cell in cells):
            continue
        if not names:
            names = [cell.strip() for cell in cells]
            wrong = [*_wrong_columns(names, amiss)]
            yield from (Problem(Place(path, line, name), said) for name, said in wrong)
            if wrong:
                return
            continue
        if len(cells) > len(names):
            said = (
                f"there are {len(cells)} cells in this row, more than columns ({len(names)}): put "
                'double quotes around a text with commas in it, "a cat, a dog"'
            )
            yield Problem(Place(path, line, names[-1]), said)
            continue
        cut = {name: cell.strip() for name, cell in zip(names, cells, strict=False)}
        yield Entry({name: cell for name, cell in cut.items() if cell}, _constantly(line))


def _wrong_columns(names: list[str], amiss: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    for number, name in enumerate(names, start=1):
        if not name:
            yield f"column {number}", "it has no name"
        elif name in names[: number - 1]:
            yield name, "another column has this name too"
        elif said := amiss(name):
            yield name, said


def _constantly(line: int) -> Callable[[str, int | None], int]:
    return lambda field, member: line


def _unrepeated(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key!r} stands here twice")
        found[key] = value
    return found


def _parsed(text: str) -> tuple[dict[str, object] | None, str]:
    """What a text says in TOML, or why it says nothing."""
    try:
        return tomllib.loads(text), ""
    except tomllib.TOMLDecodeError as error:
        return None, str(error)
    except (ValueError, RecursionError) as error:  # numbers too long, lists too deep
        return None, _short(error)


def _short(error: Exception) -> str:
    return "it is too deep" if isinstance(error, RecursionError) else str(error).partition(";")[0]


def _line_said(error: str, last: int) -> int | None:
    """The line that TOML's reader names in its message, if it does."""
    if "(at end of document)" in error:
        return last
    named = re.search(r"\(at line (\d+),", error)
    return int(named[1]) if named else None


def _first_unread(lines: list[str]) -> int:
    """The line of a value that is well written and still can't be read."""

    def unread(upto: int) -> bool:
        found, error = _parsed("\n".join(lines[:upto]))
        return found is None and _line_said(error, 1) is None

    return bisect_left(range(1, len(lines)), True, key=unread) + 1


def _finder(found: Mapping[str, object], lines: list[str]) -> Callable[[Steps], int]:
    """What tells the line of a place, quickly where tables of an array stand one after another."""
    heads = {
        name: _heads(lines, name, len(inside))
        for name, inside in found.items()
        if isinstance(inside, list) and all(isinstance(one, dict) for one in inside)
    }

    @cache
    def line(where: Steps) -> int:
        name, number = (*where, None, None)[:2]
        own = heads.get(str(name), [])
        if not own or not isinstance(number, int):
            return _line_of(lines, where)
        # The table by itself, so that one of many thousands takes no longer than one of two.
        begins, ends = own[number], (*own, len(lines))[number + 1]
        return begins + _line_of(lines[begins:ends], (str(name), 0, *where[2:]))

    return line


def _heads(lines: list[str], name: str, tables: int) -> list[int]:
    """Where each table of an array begins, from 0; nothing where that is not certain."""
    sign = re.compile(rf"""\s*\[\[\s*(["']?){re.escape(name)}\1\s*\]\]""")
    found = [at for at, line in enumerate(lines) if sign.match(line)]
    # A text of several lines may hold such a line too.
    return found if len(found) == tables else []


def _line_of(lines: list[str], where: Steps) -> int:
    """The first line by which there is something at a place of the file."""
    low, high = 1, len(lines)
    while low < high:
        middle = (low + high) // 2
        upto, found = middle, _reads(lines[:middle])
        while found is None and upto > low:  # no beginning that can be closed ends here
            upto -= 1
            found = _reads(lines[:upto])
        if _there(found, where):
            high = upto
        else:
            low = middle + 1
    return low


def _reads(lines: list[str]) -> dict[str, object] | None:
    """What a beginning of a file says when whatever is open at its end is closed."""
    text = "\n".join(lines)
    readings = (_parsed(text + closer)[0] for closer in CLOSERS)
    return next((found for found in readings if found is not None), None)


def _there(found: object, where: Steps) -> bool:
    for step in where:
        inside: dict[object, object] = {}
        if isinstance(found, dict | list):
            inside = found if isinstance(found, dict) else dict(enumerate(found))
        if step not in inside:
            return False
        found = inside[step]
    return True


def _key_at(lines: Sequence[str], line: int) -> str:
    """The key that a line begins with, or the last one before it; else the line itself."""
    for text in reversed(lines[:line]):
        if key := KEY.match(text):
            return key[1][:80]
    return repr(lines[line - 1].strip()[:40])
