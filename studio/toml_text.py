"""Write TOML, and read TOML of any origin; whatever is wrong with it becomes a sentence."""

import json
import re
import tomllib
from bisect import bisect_left
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

from studio.errors import BadInput
from studio.json_value import TOO_DEEP, is_too_deep

LONGEST_TOML = 4 * 2**20  # characters


class InvalidToml(BadInput):
    """A text is not TOML, or is too large. line: where the mistake is, counted from 1."""

    def __init__(self, reason: str, line: int) -> None:
        super().__init__(reason)
        self.line = line


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text. Raises InvalidToml."""
    if len(text) > LONGEST_TOML:
        raise InvalidToml(f"it is longer than {LONGEST_TOML:,} characters", 1)
    try:
        return _load(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidToml(str(error), _named_line(str(error), text)) from None
    except ValueError as error:  # numbers too long, lists too deep
        reason = str(error).partition(";")[0]
        raise InvalidToml(reason, _first_unreadable(text.split("\n"))) from None


def toml_value(value: object, *, longest: float = inf) -> str:
    """A value as TOML. Keys of a table whose value is None are left out.

    longest: a list whose items have more characters than this gets a line for each item.
    """
    if isinstance(value, Mapping):
        pairs = (f"{key} = {toml_value(item)}" for key, item in value.items() if item is not None)
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, list | tuple):
        items = [toml_value(item) for item in value]
        if sum(map(len, items)) > longest:
            return "".join(["[\n", *(f"    {item},\n" for item in items), "]"])
        return f"[{', '.join(items)}]"
    plain = str(value) if isinstance(value, Path) else value
    # JSON is TOML here, except that TOML wants DEL escaped.
    return json.dumps(plain, ensure_ascii=False).replace("\x7f", "\\u007f")


def _load(text: str) -> dict[str, Any]:
    try:
        tables = tomllib.loads(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    if is_too_deep(tables):
        raise ValueError(TOO_DEEP)
    return tables


def _named_line(message: str, text: str) -> int:
    """The line that an error message of tomllib names; the last one for "at end of document"."""
    named = re.search(r"\(at line (\d+),", message)
    return int(named[1]) if named else text.rstrip().count("\n") + 1


def _first_unreadable(lines: list[str]) -> int:
    """The line where a well-formed value ends that Python can't read, such as a huge number."""

    def unreadable(upto: int) -> bool:
        try:
            _load("\n".join(lines[:upto]))
        except ValueError as error:
            return not isinstance(error, tomllib.TOMLDecodeError)
        return False

    return bisect_left(range(1, len(lines)), True, key=unreadable) + 1
