"""JSON values: their type, and how they are read from a text of any origin."""

import json
from collections.abc import Iterable
from typing import TypeAlias

from studio.errors import BadInput

JSON: TypeAlias = "dict[str, JSON] | list[JSON] | str | int | float | bool | None"

LONGEST_JSON = 8 * 2**20  # characters; the two of an empty list become an object of 56 bytes
DEEPEST = 100  # lists and objects inside one another
LONGEST_NUMBER = 20  # digits of a whole number, as many as 2**64 has
TOO_DEEP = f"it is too deep, with more than {DEEPEST} lists and tables in one another"


class InvalidJson(BadInput):
    """A text is not JSON, or is too large. position: index of the mistake in the text."""

    def __init__(self, name: str, reason: str, position: int) -> None:
        super().__init__(f"{name} is not JSON: {reason}")
        self.reason, self.position = reason, position


def parse_json(text: str, name: str, *, unique: bool = False) -> JSON:
    """The JSON value in a text. Halves of characters (lone surrogates) become question marks.

    name: what messages call the text. unique: refuse an object that has a key twice.
    Raises InvalidJson, also for numbers and nesting beyond what any file needs.
    """
    if len(text) > LONGEST_JSON:
        raise InvalidJson(name, f"it is longer than {LONGEST_JSON:,} characters", 0)
    hook = _without_duplicates if unique else None
    try:
        value = json.loads(text, parse_int=_whole_number, object_pairs_hook=hook)
        if "\\ud" in text.lower():
            replaced = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
            value = json.loads(replaced)
    except json.JSONDecodeError as error:
        raise InvalidJson(name, str(error), error.pos) from None
    except RecursionError:
        raise InvalidJson(name, TOO_DEEP, len(text)) from None
    except ValueError as error:
        raise InvalidJson(name, str(error), len(text)) from None
    if is_too_deep(value):
        raise InvalidJson(name, TOO_DEEP, len(text))
    return value


def parse_object(text: str, name: str, *, unique: bool = False) -> dict[str, JSON]:
    """The JSON object in a text. Raises BadInput for anything else; see `parse_json`."""
    value = parse_json(text, name, unique=unique)
    if not isinstance(value, dict):
        raise BadInput(f"{name} is not a JSON object")
    return value


def is_too_deep(value: object) -> bool:
    """Whether lists and tables are nested so deep that walking through them would fail."""
    level = [value]
    for _ in range(DEEPEST + 1):
        items = (item for container in level for item in _items(container))
        level = [item for item in items if isinstance(item, dict | list)]
        if not level:
            return False
    return True


def _items(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _whole_number(digits: str) -> int:
    if len(digits.lstrip("-")) > LONGEST_NUMBER:
        raise ValueError(f"it holds a number of {len(digits):,} digits")
    return int(digits)


def _without_duplicates(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    table: dict[str, JSON] = {}
    for key, value in pairs:
        if key in table:
            raise ValueError(f"{key[:80]!r} is given twice")
        table[key] = value
    return table
