"""Prompts with choices in them: `{a|b}`, and `__name__` for a line of a file.

Choices nest, and lines of a file may hold choices again. A backslash before `{`, `|`, `}` or `_`
takes its meaning away.
"""

import difflib
import math
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from studio.errors import BadInput

NAME = re.compile(r"__([A-Za-z0-9](?:[\w./-]*?[A-Za-z0-9])?)__")
DEEPEST = 20  # choices inside choices
ESCAPED = "{|}_\\"


@dataclass(frozen=True)
class Choice:
    """A text in parts; a part that is a tuple is a choice between its members."""

    parts: tuple["str | tuple[Choice, ...]", ...]


@dataclass(frozen=True)
class Wildcards:
    """Where names are looked up. folder: of NAME.txt, a choice a line. lists: choices by name."""

    folder: Path
    lists: Mapping[str, tuple[str, ...]]
    _read: dict[str, tuple[Choice, ...]] = field(default_factory=dict, repr=False)

    def read(self, text: str) -> Choice:
        """The choices in a text. Raises BadInput for unpaired braces, unknown names and
        names that lead back to themselves."""
        return _Reader(text, self, ()).whole()

    def named(self, name: str, within: tuple[str, ...]) -> tuple[Choice, ...]:
        """What there is to choose from under a name. within: the names that led here."""
        if name in within:
            raise BadInput(f"the wildcard {name} leads back to itself")
        if name not in self._read:
            lines = self._lines(name)
            self._read[name] = tuple(_Reader(line, self, (*within, name)).whole() for line in lines)
        return self._read[name]

    def _lines(self, name: str) -> tuple[str, ...]:
        if name in self.lists:
            return self.lists[name]
        path = self.folder / f"{name}.txt"
        if ".." in Path(name).parts or not path.is_file():
            raise BadInput(f"there is no wildcard {name}: {self._hint(name)}")
        found = tuple(text for _, text in read_lines(path))
        if not found:
            raise BadInput(f"the wildcard {name} is empty: {path} has no line to choose")
        return found

    def _hint(self, name: str) -> str:
        there = [path.stem for path in self.folder.glob("*.txt")] + list(self.lists)
        close = difflib.get_close_matches(name, there, 1)
        return f"did you mean {close[0]}?" if close else f"put {name}.txt into {self.folder}"


def read_lines(path: Path) -> list[tuple[int, str]]:
    """A text file's lines with their numbers, without empty ones and those that begin with #."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise BadInput(f"{path} is not in UTF-8 (line {line}): save it so") from None
    except OSError as error:
        raise BadInput(f"{path} can't be read: {error.strerror}") from None
    lines = ((number, line.strip()) for number, line in enumerate(text.split("\n"), start=1))
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def count(choice: Choice) -> int:
    """How many texts there are."""
    return math.prod(sum(map(count, part)) for part in choice.parts if not isinstance(part, str))


def every(choice: Choice) -> Iterator[str]:
    """All texts, the last choice changing fastest."""
    parts = ([part] if isinstance(part, str) else _either(part) for part in choice.parts)
    return ("".join(words) for words in product(*parts))


def draw(choice: Choice, generator: random.Random) -> str:
    """One text, each choice drawn with equal chances."""
    return "".join(
        part if isinstance(part, str) else draw(generator.choice(part), generator)
        for part in choice.parts
    )


def _either(options: tuple[Choice, ...]) -> list[str]:
    return [text for option in options for text in every(option)]


class _Reader:
    """Reads one text from left to right. within: the names whose lines are being read."""

    def __init__(self, text: str, wildcards: Wildcards, within: tuple[str, ...]) -> None:
        self.text, self.wildcards, self.within = text, wildcards, within
        self.at = 0

    def whole(self) -> Choice:
        found = self._until("", depth=0)
        if self.at < len(self.text):
            raise BadInput(r"a } has no { before it: write \} for the sign itself")
        return found

    def _until(self, ends: str, *, depth: int) -> Choice:
        """The text up to one of these signs, or to its end."""
        parts: list[str | tuple[Choice, ...]] = []
        plain = ""
        while self.at < len(self.text) and (sign := self.text[self.at]) not in (ends or "}"):
            if sign == "\\" and self.text[self.at + 1 : self.at + 2] in tuple(ESCAPED):
                plain += self.text[self.at + 1]
                self.at += 2
                continue
            choice = self._choice(depth)
            if choice is None:
                plain += sign
                self.at += 1
                continue
            parts += [plain, choice]
            plain = ""
        return Choice((*parts, plain))

    def _choice(self, depth: int) -> tuple[Choice, ...] | None:
        """What there is to choose from here, or None where the text goes on as it is."""
        if self.text[self.at] == "{":
            return self._braces(depth + 1)
        name = NAME.match(self.text, self.at)
        if name is None:
            return None
        self.at = name.end()
        return self.wildcards.named(name[1], self.within)

    def _braces(self, depth: int) -> tuple[Choice, ...]:
        if depth > DEEPEST:
            raise BadInput(f"choices stand {DEEPEST} deep in one another: use fewer braces")
        options = []
        while self.at < len(self.text) and self.text[self.at] in "{|":
            self.at += 1
            options.append(self._until("|}", depth=depth))
        if self.at == len(self.text):
            raise BadInput(r"a { has no } behind it: write \{ for the sign itself")
        self.at += 1
        return tuple(options)
