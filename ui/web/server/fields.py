"""The fields of a form as widgets, and the values that are typed into them.

In an empty widget the dataclass's default applies, or a default that suits the base. It is shown as
the placeholder.
"""

import re
from collections.abc import Mapping
from math import isfinite, nan
from typing import Any, TypeVar

import gradio as gr
from gradio.components import Component

from studio.errors import BadInput
from ui.shared.form import Field, Form, fields_of
from ui.web.server.page import Update, Values
from ui.web.words import in_words, label, value_label

T = TypeVar("T")
# An item of a list with commas: either in quotes, with quotes inside doubled, or without a comma.
ITEM = re.compile(r'(?:^|,)\s*+(?:"((?:[^"]|"")++)"\s*+(?=,|$)|([^,]++))')


def help_of(field: Field) -> str:
    """A field's help text for below its label; it does not begin with the label again."""
    start, _, rest = field.help.partition(": ")
    text = rest if start.lower() == label(field.name).lower() else field.help
    return in_words(text[:1].upper() + text[1:])


class FieldWidgets(dict[str, Component]):
    """The widgets of a form, by the names of its fields."""

    def __init__(self, form: Form, widgets: Mapping[str, Component]) -> None:
        super().__init__(widgets)
        self.form = form

    def read(self, values: Values) -> dict[str, Any]:
        """The values that were given: `read_values` of the widgets."""
        return read_values(self.form, {name: values[widget] for name, widget in self.items()})

    def show(self, given: Mapping[str, Any]) -> Update:
        """Fill the widgets with these values. A field that is None or missing has its default."""
        return {self[field.name]: _shown(field, self.form, given) for field in fields_of(self.form)}


def field_widgets(form: Form, there: Mapping[str, Component] | None = None) -> FieldWidgets:
    """A widget for each field, laid out where this is called.

    there: widgets by field that are laid out elsewhere already.
    """
    there = there or {}
    fields = fields_of(form)
    return FieldWidgets(form, {f.name: there.get(f.name) or _widget(f, form) for f in fields})


def read_values(form: Form, given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the fields, without empty ones and those at their default.

    A field in `form.defaults` is left out only if it is empty, since its default may differ from
    that of the dataclass. Raises BadInput, with the field's name, for a value of another type.
    """
    values = {}
    for field in fields_of(form):
        value = _parse(field, given.get(field.name))
        if value is not None and (value != field.default or field.name in form.defaults):
            values[field.name] = value
    return values


def read_value(field: Field, typed: Any) -> Any:
    """One value of a field. Raises BadInput, with the field's name, for a wrong one."""
    if field.choices and typed not in field.choices:
        raise BadInput(f"{field.name}: {typed!r} is none of {', '.join(field.choices)}")
    return read_as(field.name, field.type, typed)


def read_as(name: str, kind: type[T], typed: Any) -> T:
    """The typed text as a value of this type. Raises BadInput, with this name, where it is none."""
    given = typed.strip() if isinstance(typed, str) else typed
    try:
        return kind(given)  # pyright: ignore[reportCallIssue]
    except (TypeError, ValueError):
        expected = {int: "a whole number", float: "a number"}.get(kind, kind.__name__)
        raise BadInput(f"{name}: {given!r} is not {expected}") from None


def read_numbers(name: str, typed: str) -> list[float]:
    """The numbers of a list with commas or spaces, without duplicates.

    Raises BadInput, with this name, where something in it is no finite number.
    """
    try:
        numbers = [float(word) for word in typed.replace(",", " ").split()]
    except ValueError:
        numbers = [nan]
    if not all(map(isfinite, numbers)):
        raise BadInput(f"{name}: {typed.strip()!r} is not numbers with commas between them")
    return list(dict.fromkeys(numbers))


def read_number(name: str, given: object) -> float:
    """The number of a slider. Raises BadInput, with this name, where its field was emptied."""
    if isinstance(given, int | float):
        return float(given)
    raise BadInput(f"{name}: {given or 'nothing'} is not a number")


def shown_on(slider: gr.Slider, value: float | None) -> dict[str, Any]:
    """The update of a slider that shows a value. Its range grows to include the value."""
    within = slider.minimum, slider.maximum, slider.minimum if value is None else value
    return gr.update(value=value, minimum=min(within), maximum=max(within))


def _widget(field: Field, form: Form) -> Component:
    name, info = label(field.name), help_of(field)
    default = form.defaults.get(field.name)
    shown = default or ("" if field.default is None else str(field.default))
    if field.many:
        shown = default or ", ".join(map(str, field.default or ()))  # pyright: ignore
        info += ", separated by commas"
        if field.type is str and not field.choices:
            info += '; put one with a comma in "quotes"'
        return gr.Textbox(label=name, info=info, placeholder=shown)
    if field.type is bool:
        return gr.Checkbox(label=name, info=info, value=bool(field.default))
    if field.choices:
        value = None if default else field.default
        choices = [(value_label(choice), choice) for choice in field.choices]
        return gr.Dropdown(choices, label=name, info=info, value=value)  # pyright: ignore
    if shown:  # the placeholder shows the default, so the help need not
        info = info.partition("; default: ")[0]
    # Not a gr.Number for numbers: empty, it would be a zero.
    return gr.Textbox(label=name, info=info, placeholder=shown)


def _shown(field: Field, form: Form, given: Mapping[str, Any]) -> Any:
    """A widget's content; empty where a default applies."""
    stated = given.get(field.name)
    value: Any = field.default if stated is None else stated
    default = stated is None or (value == field.default and field.name not in form.defaults)
    if field.many:
        return ", ".join(_quoted(str(item)) for item in value or ())
    if field.type is bool:
        return bool(value)
    if field.choices:
        return None if default and field.name in form.defaults else value
    return "" if default or value is None else str(value)


def _quoted(item: str) -> str:
    """An item of a list, in quotes where ITEM needs them to read it back."""
    doubled = item.replace('"', '""')
    return f'"{doubled}"' if "," in item or item.startswith('"') else item


def _parse(field: Field, value: Any) -> Any:
    if field.many:
        items = ITEM.findall(str(value or ""))
        words = ((quoted.replace('""', '"') or plain).strip() for quoted, plain in items)
        return tuple(read_value(field, word) for word in words if word) or None
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return read_value(field, value)
