"""Reads TOML and finds the line of each value.

tomllib gives no positions and tomlkit drops them after parsing. So a small scanner here finds the
lines in a text that tomllib has read.
"""

import re
import tomllib
from bisect import bisect_right
from collections.abc import Callable
from functools import cached_property

from studio.toml_text import parse_toml

TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\])*"'
    r"|'[^']*'"
    r"|#[^\n]*"
    r"|[\[\]{}=,\n]"
    r"""|[^\s\[\]{}=,#"']+""",
    re.DOTALL,
)
Steps = tuple[str | int, ...]  # keys and places in lists, from the outermost: ("shots", 1, "seed")


class TomlText:
    """A TOML text and its values. Raises InvalidToml."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.values = parse_toml(text)

    def line(self, steps: Steps) -> int:
        """The line of a value: of its key, its table's header, or itself in a list."""
        return self._lines.get(steps, 1)

    @cached_property
    def _lines(self) -> dict[Steps, int]:
        return _Scanner(self.text).lines


class _Scanner:
    """Walks through a valid text once and notes the line of every key, header and list item."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Steps, int] = {}
        self._newlines = [found.start() for found in re.finditer("\n", text)]
        self._text = text
        self._tokens = [found for found in TOKEN.finditer(text) if found[0][0] != "#"]
        self._at = 0
        self._counts: dict[Steps, int] = {}  # the last table of each array of tables
        self._document()

    def _document(self) -> None:
        table: Steps = ()
        while self._at < len(self._tokens):
            match self._tokens[self._at][0]:
                case "\n":
                    self._at += 1
                case "[":
                    table = self._header()
                case _:
                    self._pair(table)

    def _header(self) -> Steps:
        """[table] or [[table]]; returns its steps."""
        line = self._line()
        array = self._tokens[self._at + 1][0] == "["
        self._at += 1 + array
        steps: Steps = ()
        *outer, last = self._key("]")
        for key in outer:
            steps = self._inside((*steps, key))
            self.lines.setdefault(steps, line)
        steps = (*steps, last)
        self.lines.setdefault(steps, line)
        if array:
            self._counts[steps] = self._counts.get(steps, -1) + 1
            steps = self._inside(steps)
        self.lines.setdefault(steps, line)
        self._at += array  # the second ]
        return steps

    def _inside(self, steps: Steps) -> Steps:
        """The steps of an array's last table; other steps are returned unchanged."""
        return (*steps, self._counts[steps]) if steps in self._counts else steps

    def _pair(self, table: Steps) -> None:
        """key = value"""
        line, steps = self._line(), table
        for key in self._key("="):
            steps = (*steps, key)
            self.lines.setdefault(steps, line)
        self._value(steps)

    def _key(self, end: str) -> list[str]:
        """The parts of a dotted key, up to the sign that ends it."""
        first = self._tokens[self._at].start()
        while self._tokens[self._at][0] != end:
            self._at += 1
        text = self._text[first : self._tokens[self._at].start()]
        self._at += 1
        keys, inside = [], tomllib.loads(f"{text} = 0")
        while isinstance(inside, dict):
            ((key, inside),) = inside.items()
            keys.append(key)
        return keys

    def _value(self, steps: Steps) -> None:
        match self._tokens[self._at][0]:
            case "[":
                self._items("]", lambda number: self._item((*steps, number)))
            case "{":
                self._items("}", lambda _: self._pair(steps))
            case _:  # a date and its time are two tokens
                while self._at < len(self._tokens) and self._tokens[self._at][0] not in ",]}\n":
                    self._at += 1

    def _items(self, end: str, scan: Callable[[int], None]) -> None:
        """Scan the items between brackets."""
        self._at += 1
        number = 0
        while (sign := self._tokens[self._at][0]) != end:
            if sign in ",\n":
                self._at += 1
            else:
                scan(number)
                number += 1
        self._at += 1

    def _item(self, steps: Steps) -> None:
        self.lines[steps] = self._line()
        self._value(steps)

    def _line(self) -> int:
        return bisect_right(self._newlines, self._tokens[self._at].start()) + 1
