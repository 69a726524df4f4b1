"""A frozen dataclass as a form: its fields become options of the command line.

A kind, a method, the recipe and the shot are dataclasses whose fields carry their type, their
default and, under `help` in their metadata, a few words. All that a form shows comes from there,
so a new kind or method needs nothing here.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

import typer
from rich.markup import escape

from studio.requests.validation import bare_type

__all__ = ["Field", "Form", "fields_of", "with_options"]

PLAIN = (bool, int, float, str, Path)


@dataclass(frozen=True)
class Field:
    """One entry of a form."""

    name: str
    type: type
    """bool, int, float, str or Path; of each value where there are several"""
    many: bool
    """whether it takes any number of values, a tuple in the dataclass"""
    choices: tuple[str, ...]
    """the only values there are; empty when any will do"""
    default: object
    help: str


@dataclass(frozen=True)
class Form:
    """A dataclass whose fields are asked for.

    title: what its options stand under. without: fields that are not asked for here. defaults:
    what to show as a field's default where the dataclass's own is not the whole truth. prefix: a
    word before its options' names, for forms of one command that have fields of the same name.
    """

    of: type
    title: str
    without: frozenset[str] = frozenset()
    defaults: Mapping[str, str] = dataclasses.field(default_factory=dict)
    prefix: str = ""

    def parameter(self, field: str) -> str:
        """What a field is called among the parameters of a command."""
        return f"{self.prefix}_{field}" if self.prefix else field


def fields_of(form: Form) -> tuple[Field, ...]:
    """The fields of a form in their order; TypeError for a type that no form can ask for."""
    return tuple(
        _field(form.of, field)
        for field in dataclasses.fields(form.of)
        if field.name not in form.without
    )


def with_options(
    forms: Mapping[str, Form | Mapping[str, Form]],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a typer command: each parameter named here becomes the options of its form.

    The command is called with a dict of those that the user gave, by field name; what is not in it
    was not given, and the dataclass's default holds. A parameter that stands for several forms is
    given such a dict of each, by its key. Raises ValueError where two options of one command would
    have the same name.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command).parameters
        parameters = [one for name, one in own.items() if name not in forms]
        for asked in forms.values():
            for form in [asked] if isinstance(asked, Form) else asked.values():
                parameters += [_parameter(field, form) for field in fields_of(form)]

        @functools.wraps(command)
        def run(**given: object) -> None:
            for name, asked in forms.items():
                given[name] = (
                    _given(asked, given)
                    if isinstance(asked, Form)
                    else {key: _given(form, given) for key, form in asked.items()}
                )
            command(**given)

        # typer reads a command from its signature and its annotations.
        run.__signature__ = inspect.Signature(  # pyright: ignore[reportAttributeAccessIssue]
            sorted(parameters, key=lambda one: one.kind)
        )
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return run

    return decorate


def _given(form: Form, given: dict[str, object]) -> dict[str, object]:
    """Take out what was given of a form's fields."""
    values = {field.name: given.pop(form.parameter(field.name)) for field in fields_of(form)}
    return {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in values.items()
        if value is not None and value != []
    }


def _field(form: type, field: dataclasses.Field) -> Field:
    bare = bare_type(field.type)
    many = get_origin(bare) is tuple and get_args(bare)[1:] == (Ellipsis,)
    plain = bare_type(get_args(bare)[0]) if many else bare
    choices = get_args(plain) if get_origin(plain) is Literal else ()
    kind = str if choices else plain
    if kind not in PLAIN:
        raise TypeError(f"{form.__name__}.{field.name} is of a type that no form asks for: {kind}")
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
    annotation = Annotated[(list[value] if field.many else value) | None, option]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _help(field: Field, form: Form) -> str:
    """A field's words as a sentence, its default behind it."""
    said = field.help[:1].upper() + field.help[1:]
    more = "; may be given several times." if field.many else "."
    default = form.defaults.get(field.name, _shown(field.default))
    shown = f" [dim]{escape(f'[default: {default}]')}[/dim]" if default else ""
    return escape(said) + more + shown


def _shown(default: object) -> str:
    """A default in the words of the command line; empty where there is nothing to show."""
    if default is None or default is False or default == ():
        return ""
    if default is True:
        return "on"
    return f"{default:g}" if isinstance(default, float) else str(default)
