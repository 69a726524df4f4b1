"""The text form of recipe.toml."""

import json
from collections.abc import Mapping

__all__ = ["Table", "to_toml"]

Scalar = str | int | float | bool
Table = Mapping[str, Scalar | tuple[str, ...] | list[str] | list[float] | None]


def to_toml(tables: Mapping[str, Table]) -> str:
    """TOML text; the table named "" comes first, without a header. None is left out."""
    lines = []
    for name, table in tables.items():
        lines += ["", f"[{name}]"] if name else []
        lines += [f"{key} = {_value(value)}" for key, value in table.items() if value is not None]
    return "\n".join(lines) + "\n"


def _value(value: Scalar | tuple[str, ...] | list[str] | list[float]) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        # A JSON string is a TOML basic string, except that TOML wants DEL escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return "[" + ", ".join(map(_value, value)) + "]"
