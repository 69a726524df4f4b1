"""Comparisons: shots that differ in one thing or two, and how a table of them is labelled.

A comparison is a job of several shots and nothing beside: what its rows and columns are is told by
where the shots differ, so that any page can show it at any time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import compose
from studio.errors import BadInput
from studio.requests.shot import SCHEDULERS
from ui.shared.form import Form, fields_of
from ui.shared.names import adapter_name
from ui.web.mix.settings import Picked, Settings
from ui.web.server.fields import values, whole_number

__all__ = ["MOST_CELLS", "NOTHING", "Table", "axes", "every_method", "grid", "suggested", "table"]

MOST_CELLS = 64
NOTHING = "nothing"
LONGEST = 60  # characters of a label
WORDS = "prompt words"
PLAIN = ("steps", "guidance", "seed", "scheduler", "denoise")
STRENGTH, OPTION = "strength ", "option "


@dataclass(frozen=True)
class Table:
    """The labels of a comparison's pictures, which come row by row."""

    columns: tuple[str, ...]
    rows: tuple[str, ...]


def every_method(settings: Settings, check: Callable[[Settings], object]) -> list[Settings]:
    """The settings under every method that takes these adapters; the chosen one with its options.

    check: raises BadInput for settings that cannot be. BadInput where methods make no difference.
    """
    if len(settings.picked) < 2:
        raise BadInput("methods differ in how adapters share a picture: add a second adapter")
    found = []
    for name in compose.methods():
        own = settings.options if name == settings.method else {}
        tried = replace(settings, method=name, options=own)
        try:
            check(tried)
        except BadInput:
            continue
        found.append(tried)
    return found


def axes(settings: Settings) -> list[tuple[str, str]]:
    """What a grid can vary, as a label and what `grid` calls it."""
    found = [(NOTHING.capitalize(), NOTHING), ("Method", "method")]
    found += [(name.capitalize(), name) for name in PLAIN if name != "denoise" or settings.start]
    found += [
        (f"Strength of {place} {one.called}", f"{STRENGTH}{place}")
        for place, one in enumerate(settings.picked, start=1)
    ]
    found += [("Words of the prompt", WORDS)]
    form = _form(settings.method)
    found += [
        (f"{settings.method}: {field.name.replace('_', ' ')}", f"{OPTION}{field.name}")
        for field in fields_of(form)
        if not field.many
    ]
    return found


def suggested(settings: Settings, axis: str) -> str:
    """Values to begin with, separated by commas."""
    match axis:
        case "method":
            return ", ".join(compose.methods())
        case "scheduler":
            return ", ".join(SCHEDULERS)
        case "steps":
            return ", ".join(str(n) for n in sorted({5, 10, 15, 25, settings.steps}))
        case "guidance":
            return ", ".join(f"{n:g}" for n in sorted({1.0, 3.0, 5.0, 8.0, settings.guidance}))
        case "seed":
            return ", ".join(str(settings.seed + n) for n in range(4))
        case "denoise":
            return "0.2, 0.4, 0.6, 0.8"
        case _ if axis.startswith(STRENGTH):
            return "0, 0.5, 0.8, 1, 1.2"
        case _ if axis.startswith(OPTION):
            return _of_option(settings, axis.removeprefix(OPTION))
    return settings.prompt.replace(",", " ").split(" ")[0] if axis == WORDS else ""


def grid(
    settings: Settings, columns: tuple[str, str], rows: tuple[str, str] = (NOTHING, "")
) -> list[Settings]:
    """The settings with every value of one or two axes, row by row.

    columns, rows: an axis, and its values separated by commas. Raises BadInput for values that the
    axis cannot have, and for more than MOST_CELLS pictures.
    """
    if columns[0] == NOTHING and rows[0] == NOTHING:
        raise BadInput("a comparison varies something: choose what the columns are")
    if columns[0] == rows[0]:
        raise BadInput("columns and rows vary the same thing: choose another one for the rows")
    across, down = _values(settings, *columns), _values(settings, *rows)
    cells = len(across) * len(down)
    if cells > MOST_CELLS:
        raise BadInput(f"these are {cells} pictures, and {MOST_CELLS} are the most: name fewer")
    # The method first: the other axis may be an option of it.
    return [
        column(row(settings)) if rows[0] == "method" else row(column(settings))
        for row, column in product(down, across)
    ]


def table(shots: Sequence[Mapping[str, Any]]) -> Table:
    """The labels of shots as queued jobs have them: rows and columns, or one row of all."""
    flat = [_flat(shot) for shot in shots]
    every = dict.fromkeys(key for one in flat for key in one)
    # An option of one method is nothing that another method differs in.
    keys = [key for key in every if len({str(one[key]) for one in flat if key in one}) > 1]
    if len(keys) == 2:
        for down, across in (keys, keys[::-1]):
            rows, columns = _distinct(flat, down), _distinct(flat, across)
            wanted = [(row, column) for row in rows for column in columns]
            if wanted == [(str(one.get(down)), str(one.get(across))) for one in flat]:
                return Table(_labels(across, columns, flat), _labels(down, rows, flat))
    return Table(tuple(_together(one, keys, flat) for one in flat), ("",))


def _values(settings: Settings, axis: str, text: str) -> list[Callable[[Settings], Settings]]:
    """For each value of an axis what puts it into settings."""
    if axis == NOTHING:
        return [lambda settings: settings]
    words = [word.strip() for word in text.split(",") if word.strip()]
    words = list(dict.fromkeys(words))
    if not words:
        raise BadInput(f"{axis}: give its values, separated by commas")
    if axis == WORDS and words[0] not in settings.prompt:
        raise BadInput(
            f"{WORDS}: the first value, {words[0]!r}, is what the others take the place of, and "
            "the prompt does not say it"
        )
    return [_put(axis, word, words[0]) for word in words]


def _put(axis: str, word: str, first: str) -> Callable[[Settings], Settings]:
    if axis == WORDS:
        return lambda settings: replace(settings, prompt=settings.prompt.replace(first, word))
    if axis == "method":
        if word not in compose.methods():
            raise BadInput(f"there is no method {word!r}; there are {', '.join(compose.methods())}")
        return lambda settings: _with_method(settings, word)
    if axis == "scheduler":
        return lambda settings: replace(settings, scheduler=word)
    if axis.startswith(STRENGTH):
        place, strength = int(axis.removeprefix(STRENGTH)) - 1, _number(axis, word)
        return lambda settings: _with_strength(settings, place, strength)
    if axis.startswith(OPTION):
        return lambda settings: _with_option(settings, axis.removeprefix(OPTION), word)
    if axis in ("steps", "seed"):
        whole = whole_number(axis, word)
        return lambda settings: replace(settings, **{axis: whole})
    number = _number(axis, word)
    return lambda settings: replace(settings, **{axis: number})


def _number(axis: str, word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise BadInput(f"{axis}: {word!r} is no number") from None


def _with_method(settings: Settings, name: str) -> Settings:
    options = settings.options if name == settings.method else {}
    return replace(settings, method=name, options=options)


def _with_strength(settings: Settings, place: int, strength: float) -> Settings:
    if place >= len(settings.picked):
        raise BadInput(f"{STRENGTH}{place + 1}: there is no such adapter in the mix any more")
    picked: list[Picked] = list(settings.picked)
    picked[place] = replace(picked[place], strength=strength)
    return replace(settings, picked=tuple(picked))


def _with_option(settings: Settings, name: str, word: str) -> Settings:
    given: object = word
    if word.lower() in ("true", "false", "on", "off", "yes", "no"):
        given = word.lower() in ("true", "on", "yes")
    form = _form(settings.method)
    if name not in {field.name for field in fields_of(form)}:
        raise BadInput(f"{settings.method} has no option {name}")
    others = {key: value for key, value in settings.options.items() if key != name}
    return replace(settings, options=others | values(form, {name: given}))


def _of_option(settings: Settings, name: str) -> str:
    field = next((f for f in fields_of(_form(settings.method)) if f.name == name), None)
    if field is None:
        return ""
    if field.type is bool:
        return "off, on"
    if field.choices:
        return ", ".join(field.choices)
    if isinstance(field.default, int):
        return ", ".join(str(n) for n in sorted({1, 2, 3, 5, field.default}))
    default = field.default if isinstance(field.default, float) else 1.0
    return ", ".join(f"{default * part:g}" for part in (0.5, 1.0, 1.5))


def _form(method: str) -> Form:
    return Form(compose.methods()[method], method)


def _flat(shot: Mapping[str, Any]) -> dict[str, object]:
    """A queued shot's fields in one level, so that where two differ has a name."""
    found = {key: value for key, value in shot.items() if key not in ("adapters", "method")}
    method = shot["method"]
    found["method"] = method["name"] if method else "merge"
    for name, value in (method["options"] if method else {}).items():
        found[f"{found['method']} {name.replace('_', ' ')}"] = value
    for place, (file, strength) in enumerate(shot["adapters"], start=1):
        found[f"adapter {place}"] = file
        found[f"{STRENGTH}{place}"] = strength
    return found


def _distinct(flat: Sequence[Mapping[str, object]], key: str) -> list[str]:
    return list(dict.fromkeys(str(one.get(key)) for one in flat))


def _together(one: Mapping[str, object], keys: Sequence[str], flat: Sequence[object]) -> str:
    said = [_label(key, str(one[key]), flat) for key in keys if key in one]
    return _cut(", ".join(said))


def _labels(key: str, found: Sequence[str], flat: Sequence[Any]) -> tuple[str, ...]:
    return tuple(_label(key, value, flat) for value in found)


def _label(key: str, value: str, flat: Sequence[Any]) -> str:
    if key.startswith("adapter "):
        return _cut(adapter_name(value))
    if key in ("method", "prompt", "base"):
        return _cut(value)
    if key.startswith(STRENGTH):
        file = str(flat[0].get(f"adapter {key.removeprefix(STRENGTH)}", ""))
        key = _label("adapter ", file, flat)
    if key == "scheduler" and value == "None":
        value = "the base's own"
    return _cut(f"{key} {value}")


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
