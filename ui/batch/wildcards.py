"""Prompts with choices: `{a|b}`, and `__name__` for a line of a file.

Choices may be nested, and lines of a file may contain choices. A backslash before `{`, `|`, `}` or
`_` makes it an ordinary character.
"""

import difflib
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path

from studio.errors import BadInput
from studio.files import read_text
from studio.requests.prompt_syntax import LONGEST_PROMPT

NAME = re.compile(r"__([A-Za-z0-9](?:[\w./-]*?[A-Za-z0-9])?)__")
DEEPEST = 20  # levels of nested choices
MOST_COUNTED = 10**12  # counts of texts stop here, as they could have millions of digits
TOO_DEEP = f"choices stand more than {DEEPEST} deep in one another: use fewer braces and names"
ESCAPED = "{|}_\\"


@dataclass(frozen=True)
class Text:
    """A text in parts, some of which are choices.

    Texts that name a wildcard share its choices, so a small file can stand for more texts than fit
    in memory. So their number and length are known before any text is made.
    """

    parts: tuple["str | Choice", ...]

    @property
    def _choices(self) -> list["Choice"]:
        return [part for part in self.parts if isinstance(part, Choice)]

    @cached_property
    def count(self) -> int:
        """The number of texts that it can become, at most MOST_COUNTED."""
        total = 1
        for choice in self._choices:
            total = min(total * choice.count, MOST_COUNTED)
        return total

    @cached_property
    def longest(self) -> int:
        """The length of the longest text that it can become, plus one for each choice in it."""
        plain = sum(len(part) for part in self.parts if isinstance(part, str))
        return plain + sum(1 + choice.longest for choice in self._choices)

    @cached_property
    def depth(self) -> int:
        """The number of levels of nested choices."""
        return max((1 + choice.depth for choice in self._choices), default=0)


@dataclass(frozen=True)
class Choice:
    """A choice between texts."""

    texts: tuple[Text, ...]

    @cached_property
    def count(self) -> int:
        return sum(text.count for text in self.texts)

    @cached_property
    def longest(self) -> int:
        return max(text.longest for text in self.texts)

    @cached_property
    def depth(self) -> int:
        return max(text.depth for text in self.texts)


@dataclass(frozen=True)
class Wildcards:
    """The lists of choices that names stand for.

    folder: its files NAME.txt have one choice a line; None for no folder. lists: choices by name.
    """

    folder: Path | None
    lists: Mapping[str, tuple[str, ...]]
    _read: dict[str, Choice | BadInput] = field(default_factory=dict, repr=False)

    def read(self, text: str) -> Text:
        """Parse a text with choices.

        Raises BadInput for unpaired braces, unknown names, names that contain themselves, and texts
        that are too long or nested too deeply (LONGEST_PROMPT, DEEPEST).
        """
        return _Reader(text, self, ()).whole()

    def named(self, name: str, within: tuple[str, ...]) -> Choice:
        """The choices of a name. within: the names whose lines contain this name."""
        if name in within:
            raise BadInput(f"the wildcard {name} leads back to itself")
        if name not in self._read:
            self._read[name] = self._choice(name, within)
        choice = self._read[name]
        if isinstance(choice, BadInput):
            raise BadInput(str(choice))
        return choice

    def _choice(self, name: str, within: tuple[str, ...]) -> Choice | BadInput:
        """The choices of a name, or the error, which is kept too so that a file is read once."""
        try:
            if len(within) >= DEEPEST:
                raise BadInput(TOO_DEEP)
            lines = (_Reader(line, self, (*within, name)).whole() for line in self._lines(name))
            return Choice(tuple(lines))
        except BadInput as error:
            return error

    def _lines(self, name: str) -> tuple[str, ...]:
        if name in self.lists:
            return self.lists[name]
        path = self.folder and self.folder / f"{name}.txt"
        if not path or ".." in Path(name).parts or not path.is_file():
            raise BadInput(f"there is no wildcard {name}: {self._hint(name)}")
        lines = tuple(text for _, text in read_lines(path))
        if not lines:
            raise BadInput(f"the wildcard {name} is empty: {path} has no line to choose")
        return lines

    def _hint(self, name: str) -> str:
        files = self.folder.glob("*.txt") if self.folder else ()
        close = difflib.get_close_matches(name, [*(path.stem for path in files), *self.lists], 1)
        if close:
            return f"did you mean {close[0]}?"
        return f"put {name}.txt into {self.folder}" if self.folder else "add it to [wildcards]"


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(number, line) of a text file, without empty lines and lines that begin with #."""
    text = enumerate(read_text(path).split("\n"), start=1)
    lines = ((number, line.strip()) for number, line in text)
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def every(text: Text) -> Iterator[str]:
    """All texts that a text can become; the last choice changes fastest."""
    parts = ([part] if isinstance(part, str) else _either(part) for part in text.parts)
    return ("".join(words) for words in product(*parts))


def draw(text: Text, generator: random.Random) -> str:
    """A random one of the texts that a text can become; each choice is drawn uniformly."""
    return "".join(
        part if isinstance(part, str) else draw(generator.choice(part.texts), generator)
        for part in text.parts
    )


def _either(choice: Choice) -> list[str]:
    return [one for text in choice.texts for one in every(text)]


def _checked(text: Text) -> Text:
    """The same text. Raises BadInput if it is nested too deeply or can become too long."""
    if text.depth > DEEPEST:
        raise BadInput(TOO_DEEP)
    if text.longest > LONGEST_PROMPT:
        raise BadInput(
            f"it can become longer than {LONGEST_PROMPT:,} characters: use shorter choices"
        )
    return text


class _Reader:
    """Parses one text from left to right. within: the names whose lines are being read."""

    def __init__(self, text: str, wildcards: Wildcards, within: tuple[str, ...]) -> None:
        self.text, self.wildcards, self.within = text, wildcards, within
        self.at = 0

    def whole(self) -> Text:
        if len(self.text) > LONGEST_PROMPT:
            raise BadInput(f"it is longer than {LONGEST_PROMPT:,} characters: use a shorter text")
        found = self._until("", depth=0)
        if self.at < len(self.text):
            raise BadInput(r"a } has no { before it: write \} for the sign itself")
        return _checked(found)

    def _until(self, ends: str, *, depth: int) -> Text:
        """The text up to one of the signs in `ends`, or to its end."""
        parts: list[str | Choice] = []
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
        return Text((*parts, plain))

    def _choice(self, depth: int) -> Choice | None:
        """The choice that begins here, or None if there is none."""
        if self.text[self.at] == "{":
            return self._braces(depth + 1)
        name = NAME.match(self.text, self.at)
        if name is None:
            return None
        self.at = name.end()
        return self.wildcards.named(name[1], self.within)

    def _braces(self, depth: int) -> Choice:
        if depth > DEEPEST:
            raise BadInput(TOO_DEEP)
        options = []
        while self.at < len(self.text) and self.text[self.at] in "{|":
            self.at += 1
            options.append(self._until("|}", depth=depth))
        if self.at == len(self.text):
            raise BadInput(r"a { has no } behind it: write \{ for the sign itself")
        self.at += 1
        return Choice(tuple(options))
