"""Comparisons: shots that differ in one setting or two, and the labels of their table.

A comparison is queued as a plain job of several shots. Its rows and columns follow from the
differences between the shots, so any page can show it at any time.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import compose
from studio.bases.samplers import SCHEDULERS, SPACINGS
from studio.errors import BadInput
from studio.requests.shot import Shot, method_name, method_options
from ui.shared.form import Field, Form, fields_of, form_with
from ui.shared.grid import Table, arrange, differing, one_row, shot_fields
from ui.shared.names import adapter_name
from ui.web.server.fields import read_as, read_value
from ui.web.words import fact_label, fact_text, first_methods, label, value_label, value_named

MOST_CELLS = 64
NOTHING = "nothing"
LONGEST = 60  # characters of a label
WORDS = "prompt words"
SPEAKING = ("method", "prompt", "base", "scheduler", "spacing")  # labelled by their value alone
YES, NO = ("true", "on", "yes"), ("false", "off", "no")
VARIED = ("steps", "guidance", "seed", "scheduler", "spacing", "denoise")
FIELDS = {field.name: field for field in fields_of(form_with(Shot, VARIED))}


@dataclass(frozen=True)
class Axis:
    """A setting that a comparison can vary.

    suggestion: values to begin with, separated by commas. change: puts a value, given as text, into
    a shot; raises BadInput for a value that the setting can't have.
    """

    name: str
    label: str
    suggestion: str
    change: Callable[[Shot, str], Shot]


def axes(shot: Shot) -> list[Axis]:
    """All settings that a comparison of this shot can vary."""
    methods = first_methods(compose.methods())
    if not shot.regions and method_name(shot.method) != "regions":  # no regions are given
        methods = [name for name in methods if name != "regions"]
    possible = [
        Axis("method", "Method", _listed(map(value_label, methods)), _with_method),
        _field_axis("steps", sorted({5, 10, 15, 25, shot.steps})),
        _field_axis("guidance", sorted({1.0, 3.0, 5.0, 8.0, shot.guidance})),
        _field_axis("seed", range(shot.seed, shot.seed + 4)),
        _field_axis("scheduler", map(value_label, SCHEDULERS)),
        _field_axis("spacing", map(value_label, SPACINGS)),
    ]
    if shot.init_image is not None:
        possible.append(_field_axis("denoise", (0.2, 0.4, 0.6, 0.8)))
    possible += [_strength_axis(shot, place) for place in range(len(shot.adapters))]
    first_word = shot.prompt.replace(",", " ").split(" ")[0]
    # Its change is that of `_change_of`, which knows the word that the others replace.
    possible.append(Axis(WORDS, "Words of the prompt", first_word, lambda shot, _: shot))
    options = fields_of(_form(shot.method))
    return possible + [_option_axis(shot, field) for field in options if not field.many]


def every_method(shot: Shot, check: Callable[[Shot], object]) -> list[Shot]:
    """The shot with every method that can draw it; the method that it has keeps its options.

    check: raises BadInput for a shot that can't be drawn. Raises BadInput for fewer than two
    adapters.
    """
    if len(shot.adapters) < 2:
        raise BadInput("Methods differ in how adapters share a picture: add a second adapter.")
    shots = []
    for name in first_methods(compose.methods()):
        tried = _with_method(shot, name)
        try:
            check(tried)
        except BadInput:
            continue
        shots.append(tried)
    return shots


def grid(shot: Shot, columns: tuple[str, str], rows: tuple[str, str] = (NOTHING, "")) -> list[Shot]:
    """The shot with every value of one or two axes, row by row.

    columns, rows: the name of an axis, and its values separated by commas. Raises BadInput for
    values that the axis can't have, and for more than MOST_CELLS pictures.
    """
    if columns[0] == rows[0] == NOTHING:
        raise BadInput("A comparison needs something that varies: choose it for the columns.")
    if columns[0] == rows[0]:
        raise BadInput("Columns and rows vary the same thing: choose another one for the rows.")
    across, down = _changes(shot, *columns), _changes(shot, *rows)
    cells = len(across) * len(down)
    if cells > MOST_CELLS:
        raise BadInput(f"That makes {cells} pictures, and at most {MOST_CELLS} are drawn.")
    # The method is set first, as the other axis may be an option of it.
    return [
        column(row(shot)) if rows[0] == "method" else row(column(shot))
        for row, column in product(down, across)
    ]


def table(shots: Sequence[Shot]) -> Table:
    """The table of a comparison.

    Where the shots are all combinations of two settings, they are its rows and columns. Otherwise
    it has a single row.
    """
    facts = [shot_fields(shot) for shot in shots]
    varied = differing(facts)
    labels = {name: [_label(name, each) for each in facts] for name in varied}
    if len(varied) == 2:
        for down, across in (varied, varied[::-1]):
            arranged = arrange(labels[down], labels[across])
            if arranged and arranged.in_order:
                return arranged
    by_shot = [[labels[name][at] for name in varied] for at in range(len(shots))]
    return one_row([_cut(", ".join(filter(None, texts))) for texts in by_shot])


def _changes(shot: Shot, name: str, text: str) -> list[Callable[[Shot], Shot]]:
    """A function for each value of an axis, which puts it into a shot."""
    if name == NOTHING:
        return [lambda shot: shot]
    words = list(dict.fromkeys(word.strip() for word in (text or "").split(",") if word.strip()))
    if not words:
        title = {axis.name: axis.label for axis in axes(shot)}.get(name, name)
        raise BadInput(f"{title}: give its values, separated by commas.")
    change = _change_of(shot, name, words[0])
    return [lambda shot, word=word: change(shot, word) for word in words]


def _change_of(shot: Shot, name: str, first: str) -> Callable[[Shot, str], Shot]:
    """The function that puts a value of an axis into a shot. first: the axis's first value."""
    if name == WORDS and first not in shot.prompt:
        raise BadInput(
            f"Words of the prompt: the prompt has no {first!r} for the others to replace."
        )
    if name == WORDS:
        return lambda shot, word: replace(shot, prompt=shot.prompt.replace(first, word))
    changes = {axis.name: axis.change for axis in axes(shot)}
    if name not in changes:
        raise BadInput("The mix has changed: choose again what to vary.")
    return changes[name]


def _listed(values: Iterable[object]) -> str:
    return ", ".join(f"{each:g}" if isinstance(each, float) else str(each) for each in values)


def _value(field: Field, word: str) -> Any:
    """A field's value from the word for it. Raises BadInput for a word that stands for none."""
    if field.type is bool and word.lower() in YES + NO:
        return word.lower() in YES
    return read_value(field, value_named(word))


def _field_axis(name: str, suggested: Iterable[object]) -> Axis:
    def change(shot: Shot, word: str) -> Shot:
        return replace(shot, **{name: _value(FIELDS[name], word)})

    return Axis(name, label(name), _listed(suggested), change)


def _strength_axis(shot: Shot, place: int) -> Axis:
    name = f"strength {place + 1}"

    def change(shot: Shot, word: str) -> Shot:
        pairs = list(shot.adapters)
        pairs[place] = (pairs[place][0], read_as(name, float, word))
        return replace(shot, adapters=tuple(pairs))

    title = f"Strength of {place + 1} {adapter_name(str(shot.adapters[place][0]))}"
    return Axis(name, title, "0, 0.5, 0.8, 1, 1.2", change)


def _option_axis(shot: Shot, field: Field) -> Axis:
    def change(shot: Shot, word: str) -> Shot:
        method = method_name(shot.method)
        known = {option.name: option for option in fields_of(_form(shot.method))}
        if field.name not in known:
            raise BadInput(f"{value_label(method)} has no option {label(field.name)!r}.")
        value = _value(known[field.name], word)
        options = {**method_options(shot.method), field.name: value}
        return replace(shot, method=compose.method_named(method, options))

    title = f"{value_label(method_name(shot.method))}: {label(field.name)}"
    return Axis(f"option {field.name}", title, _suggestion(field), change)


def _suggestion(field: Field) -> str:
    if field.type is bool:
        return "off, on"
    if field.choices:
        return _listed(field.choices)
    if isinstance(field.default, int):
        return _listed(sorted({1, 2, 3, 5, field.default}))
    default = field.default if isinstance(field.default, float) else 1.0
    return _listed(default * part for part in (0.5, 1.0, 1.5))


def _with_method(shot: Shot, name: str) -> Shot:
    name = value_named(name)
    same = name == method_name(shot.method, shot.regions)
    if same:
        return shot
    regions = shot.regions if name == "regions" else ()
    return replace(shot, method=compose.method_named(name, {}), regions=regions)


def _form(method: object | None) -> Form:
    name = method_name(method)
    return Form(compose.methods()[name])


def _label(name: str, facts: Mapping[str, object]) -> str:
    """A label such as "Steps 20", or a value alone that needs no name; "" for a missing fact."""
    if name not in facts:
        return ""
    value = facts[name]
    text = fact_text(name, value)
    if name.startswith("strength "):
        return _cut(f"{facts[name.replace('strength', 'adapter')]} {text}")
    if name in ("scheduler", "spacing") and value is None:
        return f"the base's own {label(name).lower()}"
    if name.startswith("adapter ") or name in SPEAKING:
        return _cut(text)
    return _cut(f"{fact_label(name)} {text}")


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
