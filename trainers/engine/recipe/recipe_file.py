"""recipe.toml, read: what a training is made of, as every run writes it and as people do.

    kind = "lora"
    trigger = "a sks robot"
    pictures = "photos/"
    base = "sketch"

    [options]
    rank = 8

    [recipe]
    steps = 400

Only the first three must be there. What a run writes besides (fingerprint, examples, init_sha256)
says which base, pictures and first adapter it was, so that a repetition is refused where it would
be another training.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Literal, Union, get_args, get_origin, get_type_hints

from studio.dataset.folders import Folder
from studio.errors import BadInput
from studio.requests.recipe import Recipe, with_options
from trainers.engine.data.dataset import folders_in
from trainers.engine.kind import Kind, kinds
from trainers.engine.resolve import recipe_for

if TYPE_CHECKING:
    from studio.bases.base import Base

__all__ = ["Written", "check_fields", "kind_of", "read_recipe", "type_of"]

NEEDED = ("kind", "trigger", "pictures")
TABLES = ("options", "recipe")
HEAD = (
    *NEEDED,
    "weights",
    "prior_pictures",
    "init",
    "init_sha256",
    "base",
    "fingerprint",
    "dtype",
    "prediction",
    "examples",
    "out",
    "torch",
)


@dataclass(frozen=True)
class Written:
    """A training as a file describes it, some of its fields changed."""

    file: Path
    kind: Kind
    trigger: str
    folders: tuple[Folder, ...]
    head: Mapping[str, object]
    """all that stands above the first table"""
    training: Mapping[str, object]
    """fields of Recipe that the file gives"""
    changes: Mapping[str, object] = field(default_factory=dict)
    """fields of Recipe that were asked for instead"""

    @property
    def base(self) -> dict[str, str]:
        """The base it was trained on, as `load_base` takes it."""
        named = {"source": "base", "dtype": "dtype", "prediction": "prediction"}
        kept = {name: str(self.head[key]) for name, key in named.items() if key in self.head}
        return {"source": "sketch", **kept}

    @property
    def options(self) -> dict[str, object]:
        """Fields of Recipe, by name, for what is known of a training before its base."""
        return {**self.training, **self.changes}

    @property
    def init(self) -> str | None:
        """The adapter it started from."""
        return str(self.head["init"]) if "init" in self.head else None

    def path(self, name: str) -> Path | None:
        """A path that the file gives by this name."""
        return Path(str(self.head[name])) if name in self.head else None

    def recipe(self, base: "Base") -> Recipe:
        """How to train on this base."""
        return with_options(with_options(recipe_for(base, self.kind), self.training), self.changes)


def read_recipe(file: str | Path, **changes: object) -> Written:
    """Read a recipe.toml, or that of a run's folder.

    changes: fields of the kind and of Recipe, by name, that are to be others.
    Raises BadInput for what cannot be read, for what is missing, and for an unknown field, naming
    the nearest right one.
    """
    path = Path(file)
    path = path / "recipe.toml" if path.is_dir() else path
    tables = _tables(path)
    head = {name: value for name, value in tables.items() if name not in TABLES}
    made = type_of(tables["kind"], path)
    options, training = tables.get("options", {}), tables.get("recipe", {})
    check_fields(made, options, f"{path}, [options]")
    check_fields(Recipe, training, f"{path}, [recipe]")
    own = {entry.name for entry in fields(made)}  # pyright: ignore[reportArgumentType]
    known = own | {entry.name for entry in fields(Recipe)}
    for name in changes:
        _require_known(name, known, f"a {tables['kind']} training")
    return Written(
        file=path,
        kind=made(**options | {name: value for name, value in changes.items() if name in own}),
        trigger=str(head["trigger"]),
        folders=folders_in(head),
        head=head,
        training=training,
        changes={name: value for name, value in changes.items() if name not in own},
    )


def kind_of(file: str | Path) -> str:
    """The name of the kind that a recipe.toml, or a run's folder, is of."""
    path = Path(file)
    path = path / "recipe.toml" if path.is_dir() else path
    name = str(_tables(path)["kind"])
    type_of(name, path)
    return name


def type_of(name: str, where: Path) -> type[Kind]:
    """The kind of this name; BadInput where there is none."""
    known = kinds()
    if name not in known:
        raise BadInput(f"{where} names the kind {name!r}; there is {', '.join(known)}")
    return known[name]


def _tables(path: Path) -> dict:
    if not path.is_file():
        raise BadInput(f"there is no recipe {path}: every run writes one, recipe.toml")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    for name, value in tables.items():
        _require_known(name, {*HEAD, *TABLES}, str(path))
        if (name in TABLES) != isinstance(value, dict):
            raise BadInput(f"{path}: {name} is {'a table' if name in TABLES else 'no table'}")
    if missing := [name for name in NEEDED if name not in tables]:
        raise BadInput(f"{path} lacks {', '.join(missing)}")
    return tables


def check_fields(of: type, table: dict, where: str) -> None:
    """Make lists tuples; BadInput for an unknown field and for a value of another type."""
    hints = get_type_hints(of)
    for name, value in table.items():
        _require_known(name, set(hints), where)
        if not _fits(value, hints[name]):
            raise BadInput(f"{where}: {name} is not of the right type, it is {value!r}")
        if isinstance(value, list):
            table[name] = tuple(value)


def _require_known(name: str, known: set[str], where: str) -> None:
    if name not in known:
        near = get_close_matches(name, sorted(known), n=1, cutoff=0.0)[0]
        raise BadInput(f"{where} has no field {name!r}; did you mean {near!r}?")


def _fits(value: object, hint: object) -> bool:
    """Whether a value as TOML has it is one of the annotated."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(hint) if one is not NoneType)
    if origin is Literal:
        return value in get_args(hint)
    if origin is tuple:
        inner = get_args(hint)[0]
        return isinstance(value, list) and all(_fits(one, inner) for one in value)
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint
