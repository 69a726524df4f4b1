"""JSON values: their type, and objects read from text."""

import json
from typing import TypeAlias

from studio.errors import BadInput

JSON: TypeAlias = "dict[str, JSON] | list[JSON] | str | int | float | bool | None"


def parse_object(text: str, name: str) -> dict[str, JSON]:
    """The JSON object in a text. Raises BadInput for anything else; `name` says what it is."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{name} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise BadInput(f"{name} is not a JSON object")
    return found
