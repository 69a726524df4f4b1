"""The fields of a form as widgets, and the values that are typed into them.

An empty widget means that nothing was given: then the dataclass's default applies, or one that
suits the base. That default is shown as the placeholder.
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
# An item of a list with commas between: in quotes, where a quote is doubled, or without a comma.
ITEM = re.compile(r'(?:^|,)\s*+(?:"((?:[^"]|"")++)"\s*+(?=,|$)|([^,]++))')


def help_of(field: Field) -> str:
    """A field's help as it stands below its label, without the label's words in front."""
    start, _, rest = field.help.partition(": ")
    told = rest if start.lower() == label(field.name).lower() else field.help
    return in_words(told[:1].upper() + told[1:])


class FieldWidgets(dict[str, Component]):
    """Widgets of a form, by the names of its fields."""

    def __init__(self, form: Form, widgets: Mapping[str, Component]) -> None:
        super().__init__(widgets)
        self.form = form

    def read(self, values: Values) -> dict[str, Any]:
        """What was given, as `read_values` has it."""
        return read_values(self.form, {name: values[one] for name, one in self.items()})

    def show(self, given: Mapping[str, Any]) -> Update:
        """Fill the widgets with these values; None and a field's absence stand for its default."""
        return {self[field.name]: _shown(field, self.form, given) for field in fields_of(self.form)}


def field_widgets(form: Form, there: Mapping[str, Component] | None = None) -> FieldWidgets:
    """A widget for each field, laid out where this is called. there: those laid out elsewhere."""
    made = there or {}
    names = [(field, field.name) for field in fields_of(form)]
    return FieldWidgets(form, {name: made.get(name) or _widget(one, form) for one, name in names})


def read_values(form: Form, given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the fields; those that are empty or at their default are left out.

    A field in `form.defaults` is left out only if it is empty, since its default may differ from
    that of the dataclass. Raises BadInput that names a field with a value of another type.
    """
    found = {}
    for field in fields_of(form):
        value = _parse(field, given.get(field.name))
        if value is not None and (value != field.default or field.name in form.defaults):
            found[field.name] = value
    return found


def read_value(field: Field, typed: Any) -> Any:
    """One value of a field. Raises BadInput that names the field."""
    if field.choices and typed not in field.choices:
        raise BadInput(f"{field.name}: {typed!r} is none of {', '.join(field.choices)}")
    return read_as(field.name, field.type, typed)


def read_as(name: str, kind: type[T], typed: Any) -> T:
    """What was typed as a value of this type; BadInput with this name where it is none."""
    given = typed.strip() if isinstance(typed, str) else typed
    try:
        return kind(given)  # pyright: ignore[reportCallIssue]
    except (TypeError, ValueError):
        expected = {int: "a whole number", float: "a number"}.get(kind, kind.__name__)
        raise BadInput(f"{name}: {given!r} is not {expected}") from None


def read_numbers(name: str, typed: str) -> list[float]:
    """Numbers between commas or spaces, each once; BadInput with this name where one is none."""
    try:
        found = [float(word) for word in typed.replace(",", " ").split()]
    except ValueError:
        found = [nan]
    if not all(map(isfinite, found)):
        raise BadInput(f"{name}: {typed.strip()!r} is not numbers with commas between them")
    return list(dict.fromkeys(found))


def read_number(name: str, given: object) -> float:
    """The number of a slider; BadInput with this name where its field was emptied."""
    if isinstance(given, int | float):
        return float(given)
    raise BadInput(f"{name}: {given or 'nothing'} is not a number")


def shown_on(slider: gr.Slider, value: float | None) -> dict[str, Any]:
    """The update of a slider that shows a value; its range grows where the value lies beyond it."""
    reached = slider.minimum, slider.maximum, slider.minimum if value is None else value
    return gr.update(value=value, minimum=min(reached), maximum=max(reached))


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
        choices = [(value_label(one), one) for one in field.choices]
        return gr.Dropdown(choices, label=name, info=info, value=value)  # pyright: ignore
    if shown:  # it tells what the help may say too
        info = info.partition("; default: ")[0]
    # Numbers too: an empty gr.Number is a zero.
    return gr.Textbox(label=name, info=info, placeholder=shown)


def _shown(field: Field, form: Form, given: Mapping[str, Any]) -> Any:
    """A widget's content; empty where a default applies."""
    told = given.get(field.name)
    value: Any = field.default if told is None else told
    usual = told is None or (value == field.default and field.name not in form.defaults)
    if field.many:
        return ", ".join(_quoted(str(one)) for one in value or ())
    if field.type is bool:
        return bool(value)
    if field.choices:
        return None if usual and field.name in form.defaults else value
    return "" if usual or value is None else str(value)


def _quoted(item: str) -> str:
    """As ITEM reads it back."""
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
