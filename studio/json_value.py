"""JSON values: their type, and how they are read from a text of any origin."""

import json
from collections.abc import Iterable
from typing import TypeAlias

from studio.errors import BadInput

JSON: TypeAlias = "dict[str, JSON] | list[JSON] | str | int | float | bool | None"

LONGEST_JSON = 8 * 2**20  # characters; two make a list of 56 bytes
DEEPEST = 100  # lists and objects inside one another
LONGEST_NUMBER = 20  # digits of a whole number; 2**64 has so many
TOO_DEEP = f"it is too deep, with more than {DEEPEST} lists and tables in one another"


class InvalidJson(BadInput):
    """A text that is not JSON, or too much of it. reason: why. position: of the mistake in it."""

    def __init__(self, name: str, reason: str, position: int) -> None:
        super().__init__(f"{name} is not JSON: {reason}")
        self.reason, self.position = reason, position


def parse_json(text: str, name: str, *, unique: bool = False) -> JSON:
    """The JSON value in a text. Halves of characters (lone surrogates) become question marks.

    name: says what the text is, in messages. unique: refuse an object that has a name twice.
    Raises InvalidJson, also for numbers and nesting beyond what any file needs.
    """
    if len(text) > LONGEST_JSON:
        raise InvalidJson(name, f"it is longer than {LONGEST_JSON:,} characters", 0)
    hook = _without_duplicates if unique else None
    try:
        found = json.loads(text, parse_int=_whole_number, object_pairs_hook=hook)
        if "\\ud" in text.lower():
            whole = json.dumps(found, ensure_ascii=False).encode("utf-8", "replace")
            found = json.loads(whole)
    except json.JSONDecodeError as error:
        raise InvalidJson(name, str(error), error.pos) from None
    except RecursionError:
        raise InvalidJson(name, TOO_DEEP, len(text)) from None
    except ValueError as error:
        raise InvalidJson(name, str(error), len(text)) from None
    if is_too_deep(found):
        raise InvalidJson(name, TOO_DEEP, len(text))
    return found


def parse_object(text: str, name: str, *, unique: bool = False) -> dict[str, JSON]:
    """The JSON object in a text. Raises BadInput for anything else, as `parse_json`."""
    found = parse_json(text, name, unique=unique)
    if not isinstance(found, dict):
        raise BadInput(f"{name} is not a JSON object")
    return found


def is_too_deep(value: object) -> bool:
    """Whether lists and tables are so deep in one another that walking through them would fail."""
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [inner for one in level for inner in _inside(one) if isinstance(inner, dict | list)]
        if not level:
            return False
    return True


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _whole_number(digits: str) -> int:
    if len(digits.lstrip("-")) > LONGEST_NUMBER:
        raise ValueError(f"it holds a number of {len(digits):,} digits")
    return int(digits)


def _without_duplicates(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    found: dict[str, JSON] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key[:80]!r} is given twice")
        found[key] = value
    return found
