"""Check values from users and programs against the annotations of a dataclass.

    @dataclass(frozen=True)
    class Options:
        steps: Annotated[int, Ge(1)] = 500
        schedule: Literal["constant", "cosine"] = "constant"

    build(Options, {"steps": 20})       # Options(steps=20)
    build(Options, {"step": 0})         # BadInput: there is no field 'step'; did you mean 'steps'?
    check_fields(Options, {"steps": 0}) # BadInput: steps must be a whole number of at least 1; ...

Types are strict: "3" is no number and true is not 1, but a whole number passes for a float. NaN and
infinity are refused. Limits are those of annotated_types (Ge, Gt, Le, Lt); a Predicate has a `doc`
that says in words what is expected. Pydantic does the work. It is imported late, so that
`studio --help` answers at once.
"""

import builtins
import dataclasses
import json
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, is_dataclass
from datetime import date, time
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from annotated_types import DocInfo, Ge, Gt, Le, Lt, Predicate, doc

from studio.errors import BadInput

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

NotBlank = Annotated[
    str, Predicate(lambda text: bool(text.strip())), doc("a text that is not empty")
]

LONGEST = 80  # characters of a value in a message
LARGEST = 2**64  # Python refuses to print very long numbers
PLAIN = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
}
UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
MISSING_FIELD = ("missing", "missing_argument")
T = TypeVar("T")


class InvalidFields(BadInput):
    """Fields are wrong. problems: a sentence for each wrong field, by its name."""

    def __init__(self, message: str, problems: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.problems = dict(problems or {})


def option(default: T, help: str, **more: object) -> T:
    """A field of a dataclass, with the help text that `--help` and the web page show.

    more: other metadata, such as `before`, see compose.engine.method.options_before.
    """
    return dataclasses.field(default=default, metadata={"help": help, **more})


def build(of: type[T], given: Mapping[str, object], *, where: str = "") -> T:
    """A dataclass with these fields; lists become tuples and texts paths where those are expected.

    where: put before the message, such as "recipe.toml, [options]". Raises InvalidFields, which
    names every field that is unknown, missing or wrong.
    """
    problems: dict[str, str] = {}
    values = _checked(of, given, problems)
    for field in dataclasses.fields(_dataclass(of)):
        if field.name not in given and field.default is field.default_factory is MISSING:
            problems[field.name] = f"{field.name} is missing"
    _raise(problems, where)
    return of(**values)


def check_fields(of: type, given: Mapping[str, object], *, where: str = "") -> dict[str, object]:
    """The given fields of a dataclass, converted as `build` does; any may be missing.

    Raises InvalidFields as `build` does.
    """
    problems: dict[str, str] = {}
    values = _checked(of, given, problems)
    _raise(problems, where)
    return values


def check(instance: object) -> None:
    """Raise InvalidFields where a dataclass's own fields are wrong; for its __post_init__."""
    of = _dataclass(type(instance))
    check_fields(of, {f.name: getattr(instance, f.name) for f in dataclasses.fields(of)})


def in_words(value: object) -> str:
    """A value as a message quotes it."""
    if isinstance(value, int) and abs(value) >= LARGEST:
        return "a number that long"
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Mapping):
        return "a table"
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _checked(of: type, given: Mapping[str, object], problems: dict[str, str]) -> dict[str, object]:
    """The fields with their final values. Sentences about wrong ones are added to `problems`."""
    from pydantic import ValidationError

    for name, value in given.items():
        parts = list(_texts_and_numbers(value))
        if any(map(_unstorable, parts)):
            problems[name] = f"{name} holds characters that no file can keep; retype it"
        elif any(isinstance(part, int) and abs(part) >= LARGEST for part in parts):
            problems[name] = f"{name} holds a number that is too long"
    sound = {name: value for name, value in given.items() if name not in problems}
    try:
        # In JSON's strict mode pydantic takes lists for tuples and texts for paths.
        checked = _adapter(of).validate_json(json.dumps(sound, default=_as_json))
    except ValidationError as error:
        for details in error.errors(include_url=False):
            name, sentence = _sentence(of, details, given)
            problems.setdefault(name, sentence)
        return {}
    # A whole number stays an int in a field of floats, so that files written from it don't change.
    return {
        name: given[name]
        if type(given[name]) is int and checked[name] == given[name]
        else checked[name]
        for name in sound
    }


@lru_cache
def _adapter(of: type) -> "TypeAdapter[dict[str, Any]]":
    """Pydantic's checker for mappings that hold some of a dataclass's fields."""
    from pydantic import ConfigDict, TypeAdapter
    from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

    table: Any = TypedDict(of.__name__, _hints(of), total=False)  # pyright: ignore
    table.__pydantic_config__ = ConfigDict(
        strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True
    )
    return TypeAdapter(table)


@lru_cache
def _hints(of: type) -> dict[str, Any]:
    """The annotations of a dataclass's fields."""
    names = _AnyOther(vars(builtins) | vars(sys.modules[of.__module__]))
    hints = get_type_hints(of, localns=names, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(_dataclass(of))}


class _AnyOther(dict[str, Any]):
    """The names of a module. A missing one, imported for type checkers only, means Any."""

    def __missing__(self, name: str) -> Any:
        return Any


def _dataclass(of: type) -> Any:
    """The same type; TypeError where it is no dataclass."""
    if not is_dataclass(of):
        raise TypeError(f"{of} is no dataclass")
    return of


def _as_json(value: object) -> object:
    """A value that json.dumps can't write itself. One without a JSON form will fit no field."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return str(value) if isinstance(value, Path) else {"": type(value).__name__}


def _texts_and_numbers(value: object) -> Iterator[str | int]:
    """All texts and whole numbers inside a value."""
    if isinstance(value, str | int):
        yield value
    elif isinstance(value, Mapping):
        for item in (*value, *value.values()):
            yield from _texts_and_numbers(item)
    elif isinstance(value, Sequence):
        for item in value:
            yield from _texts_and_numbers(item)


def _unstorable(value: str | int) -> bool:
    """Whether a text has characters that UTF-8 or SQLite cannot hold."""
    if isinstance(value, int) or value.isprintable():
        return False
    return "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value)


def _raise(problems: Mapping[str, str], where: str) -> None:
    if problems:
        sentences = (p if p.endswith("?") else f"{p.rstrip('.')}." for p in problems.values())
        message = " ".join(sentences).removesuffix(".")
        raise InvalidFields(f"{where}: {message}" if where else message, problems)


def _sentence(of: type, error: "ErrorDetails", given: Mapping[str, object]) -> tuple[str, str]:
    """The name of the outermost field that is wrong, and a sentence about what is wrong."""
    top = str(error["loc"][0])
    steps, hint, value = _locate(of, error["loc"], given)
    name = " of ".join(f"item {s + 1}" if isinstance(s, int) else s for s in steps[::-1])
    last = str(error["loc"][-1])
    if error["type"] in UNKNOWN:
        inside = f" in {name}" if name else ""
        near = get_close_matches(last, sorted(_hints(bare_type(hint))), n=1, cutoff=0.0)
        suggestion = f"; did you mean {near[0]!r}?" if near else ""
        return top, f"there is no field {in_words(last)}{inside}{suggestion}"
    if error["type"] in MISSING_FIELD:
        return top, f"{last} of {name} is missing"
    if isinstance(raised := error.get("ctx", {}).get("error"), BadInput):
        return top, f"{name}: {raised}"
    return top, f"{name} must be {_expected(hint)}; it is {in_words(value)}"


def _locate(
    of: type, loc: Sequence[int | str], given: Mapping[str, object]
) -> tuple[list[int | str], Any, object]:
    """The steps to the innermost value that an error is about, its annotation and the value."""
    steps: list[int | str] = []
    hint: Any = of
    value: Any = given
    for step in loc:
        bare = bare_type(hint)
        if is_dataclass(bare) and step in _hints(_dataclass(bare)):
            inner = _hints(_dataclass(bare))[str(step)]
        elif get_origin(bare) is tuple and isinstance(step, int):
            inner = get_args(bare)[0 if get_args(bare)[1:] == (Ellipsis,) else step]
        else:
            break
        try:
            value = _inside(value, step)
        except (LookupError, AttributeError):
            break
        steps, hint = [*steps, step], inner
    return steps, hint, value


def _inside(value: Any, step: int | str) -> object:
    return getattr(value, str(step)) if is_dataclass(value) else value[step]


def bare_type(hint: Any) -> Any:
    """`X` of `Annotated[X, ...]`, `X | None` and both."""
    if get_origin(hint) is Annotated:
        return bare_type(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        inner = [arg for arg in get_args(hint) if arg is not types.NoneType]
        return bare_type(inner[0]) if len(inner) == 1 else hint
    return hint


def _expected(hint: Any) -> str:
    """What an annotation asks for, in words."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        documented = next((a.documentation for a in args[1:] if isinstance(a, DocInfo)), None)
        return documented or f"{_expected(args[0])}{_limits(args[1:])}"
    if origin in (Union, types.UnionType):
        return " or ".join(_expected(arg) for arg in args if arg is not types.NoneType)
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin is tuple:
        return "a list" if args[1:] == (Ellipsis,) else f"a list of {len(args)}"
    return PLAIN.get(hint, "a table")


def _limits(metadata: Sequence[object]) -> str:
    """Limits in words, to follow "a number": such as " of at least 1"."""
    bounds = {}
    for item in metadata:
        match item:
            case Ge(bound) | Gt(bound) | Le(bound) | Lt(bound):
                bounds[type(item)] = bound
    if Ge in bounds and Le in bounds:
        return f" from {bounds[Ge]} to {bounds[Le]}"
    words = {Ge: "of at least", Gt: "above", Le: "of at most", Lt: "below"}
    limits = " and ".join(f"{words[limit]} {bound}" for limit, bound in bounds.items())
    return f" {limits}" if limits else ""
