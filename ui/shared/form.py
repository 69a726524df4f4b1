"""Forms: command line options and page widgets, made from the fields of a frozen dataclass.

Kinds, methods, the recipe and the shot are dataclasses. Each field has a type, a default, and a few
words of `help` in its metadata. Forms need only those, so a new kind or method needs no change
here.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

import typer
from rich.markup import escape

from studio.errors import BadInput
from studio.requests.validation import bare_type

PLAIN = (bool, int, float, str, Path)


@dataclass(frozen=True)
class Field:
    """One entry of a form.

    type: bool, int, float, str or Path; with `many`, the type of each value. many: whether the
    value is a tuple of any length. choices: the allowed values; empty if any value is allowed.
    """

    name: str
    type: type
    many: bool
    choices: tuple[str, ...]
    default: object
    help: str


@dataclass(frozen=True)
class Form:
    """A dataclass whose fields become options.

    title: heading of the options in `--help`. without: fields to leave out. defaults: what to show
    as a field's default, where the dataclass's own default does not always apply. prefix: put
    before the options' names, for forms of one command that have fields of the same name.
    """

    of: type
    title: str = ""
    without: frozenset[str] = frozenset()
    defaults: Mapping[str, str] = dataclasses.field(default_factory=dict)
    prefix: str = ""

    def parameter(self, field: str) -> str:
        """The name of a field's parameter in a command."""
        return f"{self.prefix}_{field}" if self.prefix else field


def form_with(of: type, names: Collection[str], defaults: Mapping[str, str] | None = None) -> Form:
    """A form that has only these fields."""
    others = {field.name for field in dataclasses.fields(of)} - {*names}
    return Form(of, without=frozenset(others), defaults=defaults or {})


def fields_of(form: Form) -> tuple[Field, ...]:
    """The fields of a form, in order. Raises TypeError for a type that no option can have."""
    return tuple(
        _field(form.of, field)
        for field in dataclasses.fields(form.of)
        if field.name not in form.without
    )


def with_options(
    forms: Mapping[str, Form | Mapping[str, Form]],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a typer command: replace each parameter named here by the options of its form.

    The command receives a dict of the options that the user gave, by field name. For other fields
    the dataclass's default applies. A parameter with several forms receives a dict for each, by its
    key. Raises ValueError if two options of a command have the same name.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command).parameters
        parameters = [one for name, one in own.items() if name not in forms]
        for entry in forms.values():
            for form in [entry] if isinstance(entry, Form) else entry.values():
                parameters += [_parameter(field, form) for field in fields_of(form)]

        @functools.wraps(command)
        def run(**given: object) -> None:
            for name, entry in forms.items():
                given[name] = (
                    _pop_given(entry, given)
                    if isinstance(entry, Form)
                    else {key: _pop_given(form, given) for key, form in entry.items()}
                )
            command(**given)

        # typer reads a command's options from its signature and its annotations.
        run.__signature__ = inspect.Signature(  # pyright: ignore[reportAttributeAccessIssue]
            sorted(parameters, key=lambda one: one.kind)
        )
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return run

    return decorate


def _pop_given(form: Form, given: dict[str, object]) -> dict[str, object]:
    """Remove a form's parameters from `given`; return the values that were given, by field."""
    values = {}
    for field in fields_of(form):
        value = given.pop(form.parameter(field.name))
        if isinstance(value, list):
            value = tuple(_numbers(field, value) if field.type in (int, float) else value)
        if value not in (None, ()):
            values[field.name] = value
    return values


def _numbers(field: Field, texts: list[str]) -> list[int | float]:
    """The numbers in texts, each of which is a number or several with commas between them.

    Raises BadInput for anything else.
    """
    words = [word for text in texts for word in text.split(",")]
    try:
        return [field.type(word) for word in words]
    except ValueError:
        expected = "whole numbers" if field.type is int else "numbers"
        raise BadInput(
            f"{field.name}: {','.join(words)!r} is not {expected}, such as 2,1"
        ) from None


def _field(form: type, field: dataclasses.Field) -> Field:
    bare = bare_type(field.type)
    many = get_origin(bare) is tuple and get_args(bare)[1:] == (Ellipsis,)
    plain = bare_type(get_args(bare)[0]) if many else bare
    choices = get_args(plain) if get_origin(plain) is Literal else ()
    kind = str if choices else plain
    if kind not in PLAIN:
        raise TypeError(f"{form.__name__}.{field.name} has a type that no option can have: {kind}")
    return Field(
        name=field.name,
        type=kind,
        many=many,
        choices=choices,
        default=None if field.default is dataclasses.MISSING else field.default,
        help=field.metadata.get("help", ""),
    )


def _parameter(field: Field, form: Form) -> inspect.Parameter:
    # None stands for "not given"; the real default is only shown.
    name = form.parameter(field.name)
    names = [f"--{name.replace('_', '-')}"] if field.default is False else []
    option = typer.Option(
        *names, help=_help(field, form), show_default=False, rich_help_panel=form.title
    )
    value = Literal[field.choices] if field.choices else field.type
    if field.many and value in (int, float):
        value = str
    annotation = Annotated[(list[value] if field.many else value) | None, option]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _help(field: Field, form: Form) -> str:
    """A field's help as a sentence, followed by its default."""
    text = field.help[:1].upper() + field.help[1:]
    more = "; may be given several times." if field.many else "."
    default = form.defaults.get(field.name, _default_text(field.default))
    shown = f" [dim]{escape(f'[default: {default}]')}[/dim]" if default else ""
    return escape(text) + more + shown


def _default_text(default: object) -> str:
    """A default as the command line shows it; empty if there is nothing to show."""
    if default is None or default is False or default == ():
        return ""
    if default is True:
        return "on"
    if isinstance(default, tuple):
        return ", ".join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else str(default)
