"""A training as it was asked for: the request, and its two text forms.

Every run writes its request into recipe.toml, and people write such files by hand:

    kind = "lora"
    trigger = "a sks robot"
    pictures = "photos/"
    base = "sketch"

    [options]
    rank = 8

    [recipe]
    steps = 400

Only the first three must be there. A distillation or an alignment has `prompts`, a file or a
folder, in place of trigger and pictures, and `adapters` with `strengths`, which are merged into its
base. What a run writes besides (fingerprint, examples, init_sha256) tells which base, pictures and
first adapter it had, so that a repetition that would be another training is refused. The queue
keeps a request as JSON of nearly the same form. `from_table` reads both.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path, PurePath

from studio.bases.names import BUNDLED_BASES
from studio.dataset.folders import Folder
from studio.errors import BadInput
from studio.files import expand_home, is_there, read_text
from studio.requests.recipe import Recipe, draft, merge_options
from studio.requests.validation import build, check_fields
from studio.toml_text import InvalidToml, parse_toml, toml_value

NEEDED = ("kind", "trigger", "pictures")
# The kinds that learn from prompts: the files of trainers/distillations/ and trainers/rewards/.
FROM_PROMPTS = (
    *("guidance", "lcm"),
    *("brightness", "clip", "contrast", "filesize", "judge", "palette", "tile"),
)
TABLES = ("options", "recipe")
# Of how a base is opened, what a training's result depends on. The rest is the machine's affair.
PRECISION = ("dtype", "quantize", "prediction", "vae")
RECORDED = ("fingerprint", "examples", "init_sha256", "torch")
RECIPE_KEYS = (
    *NEEDED,
    "weights",
    "prompts",
    "adapters",
    "strengths",
    "prior_pictures",
    "init",
    "init_sha256",
    "base",
    "fingerprint",
    *PRECISION,
    "examples",
    "out",
    "torch",
    *TABLES,
)
# The pictures' buckets and captions depend on these options.
SHAPING = ("size", "buckets", "masked")


@dataclass(frozen=True)
class Recorded:
    """What a run had when it began; None is unknown, or may differ.

    base, prediction: its source and what it predicts. fingerprint: of its weights. examples: one
    SHA-256 of pictures, captions and masks. init_sha256: of the adapter that it started from.
    torch: the version.
    """

    base: str
    fingerprint: str | None = None
    prediction: str | None = None
    examples: str | None = None
    init_sha256: str | None = None
    torch: str | None = None


@dataclass(frozen=True)
class TrainingRequest:
    """A training as it was asked for.

    kind: its name; options: those of the kind that were given. trigger: the words that stand for
    what is learned. pictures: folders with their weights. prompts: in place of
    both, a file or a folder with captions; None for those of a bundled base. adapters: files, with
    prompts, merged at strengths into the base. base: a source, as `load_base` takes it; loading:
    how it is opened. prior_pictures: a folder of class pictures. init: an adapter's file to start
    from. out: the adapter's file. run: the run's folder. name: of the adapter in the library.
    recipe: the fields of Recipe that were given; for the others the base and the kind have
    defaults. recorded: what a run of this request had, where it is read from its folder.
    Raises BadInput that names every wrong field.
    """

    kind: str
    trigger: str = ""
    pictures: tuple[Folder, ...] = ()
    prompts: Path | None = None
    adapters: tuple[tuple[str, float], ...] = ()
    base: str = "sketch"
    loading: Mapping[str, object] = field(default_factory=dict)
    prior_pictures: Path | None = None
    init: str | None = None
    out: Path | None = None
    run: Path | None = None
    name: str = ""
    options: Mapping[str, object] = field(default_factory=dict)
    recipe: Mapping[str, object] = field(default_factory=dict)
    recorded: Recorded | None = None

    def __post_init__(self) -> None:
        draft(self.recipe)
        object.__setattr__(self, "recipe", check_fields(Recipe, self.recipe))

    @property
    def from_prompts(self) -> bool:
        """Whether it learns from the base itself: from prompts, and not from pictures."""
        return self.kind in FROM_PROMPTS

    @property
    def title(self) -> str:
        """What people call it: the trigger, or such as "lcm of sketch"."""
        if not self.from_prompts:
            return self.trigger
        return f"{self.kind} of {PurePath(self.base).name}"

    def changed(self, given: Mapping[str, object]) -> "TrainingRequest":
        """This request with other fields. Mappings are added to its own."""
        changes = check_fields(TrainingRequest, given)
        loading = {} if "base" in given else self.loading
        recipe = dict(check_fields(Recipe, _table(given, "recipe")))
        merged = {
            "options": {**self.options, **_table(given, "options")},
            "recipe": merge_options(self.recipe, recipe),
            "loading": {**loading, **_table(given, "loading")},
        }
        request = replace(self, **changes | merged)  # pyright: ignore[reportArgumentType]
        return replace(request, recorded=self._still_recorded(request, given))

    def _still_recorded(
        self, request: "TrainingRequest", given: Mapping[str, object]
    ) -> Recorded | None:
        """What a repetition of the changed request still has to find."""
        if self.recorded is None:
            return None
        shaped = (
            "prompts" in given
            or request.trigger != self.trigger
            or set(SHAPING) & {*_table(given, "recipe")}
        )
        others = "pictures" in given or shaped
        return replace(
            self.recorded,
            examples=None if others else self.recorded.examples,
            init_sha256=None if "init" in given else self.recorded.init_sha256,
        )


def read_request(file: str | Path) -> TrainingRequest:
    """Read a recipe.toml, or that of a run's folder.

    Raises BadInput for what cannot be read, for what is missing, and for an unknown field, naming
    the nearest. The options of the kind are not checked.
    """
    path = Path(file)
    path = path / "recipe.toml" if path.is_dir() else path
    if not path.is_file():
        raise BadInput(f"there is no recipe {path}: every run writes one, recipe.toml")
    try:
        tables = parse_toml(read_text(path))
    except InvalidToml as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    for name, value in tables.items():
        if name not in RECIPE_KEYS:
            near = get_close_matches(name, RECIPE_KEYS, n=1, cutoff=0.0)[0]
            raise BadInput(f"{path}: there is no field {name!r}; did you mean {near!r}?")
        if (name in TABLES) != isinstance(value, dict):
            raise BadInput(f"{path}: {name} is {'a table' if name in TABLES else 'no table'}")
    needed = NEEDED[:1] if tables.get("kind") in FROM_PROMPTS else NEEDED
    if missing := [name for name in needed if name not in tables]:
        raise BadInput(f"{path} lacks {', '.join(missing)}")
    return from_table(tables, where=str(path))


def from_table(table: Mapping[str, object], *, where: str = "") -> TrainingRequest:
    """The request that the tables of a recipe.toml are, or JSON as `to_json` writes it.

    where: stands before the message of the BadInput that is raised for a wrong field.
    """
    table = without_fp8(table)
    listed = (*PRECISION, "weights", "strengths")
    given = {name: value for name, value in table.items() if name not in listed}
    precision = {name: table[name] for name in PRECISION if name in table}
    recorded = {name: given.pop(name) for name in RECORDED if name in given}
    if precision:
        given["loading"] = {**_table(given, "loading"), **precision}
    if "pictures" in given:
        given["pictures"] = _folders(given["pictures"], table.get("weights"))
    if "adapters" in given:
        given["adapters"] = _pairs(
            given["adapters"], table.get("strengths"), "strengths", "adapter"
        )
    if recorded:
        base = {"base": table.get("base", "sketch"), "prediction": table.get("prediction")}
        given["recorded"] = recorded | base
        # A run that says nothing of it is older than the reading of long captions.
        given["recipe"] = {"caption_syntax": "cut", **_table(given, "recipe")}
    check_fields(Recipe, _table(given, "recipe"), where=f"{where}, [recipe]" if where else "")
    return build(TrainingRequest, given, where=where)


def without_fp8(table: Mapping[str, object]) -> Mapping[str, object]:
    """The table; `fp8` in its recipe, of older versions, becomes the way to open the base."""
    recipe = dict(_table(table, "recipe"))
    if not isinstance(fp8 := recipe.pop("fp8", None), bool):
        return table
    loading = {**({"quantize": "fp8"} if fp8 else {}), **_table(table, "loading")}
    return {**table, "recipe": recipe, "loading": loading}


def to_json(request: TrainingRequest) -> dict[str, object]:
    """The request as the queue keeps it. It takes its output folders from the workspace."""
    return {
        "kind": request.kind,
        "options": dict(request.options),
        "pictures": [[str(folder.path), folder.weight] for folder in request.pictures],
        "prior_pictures": str(request.prior_pictures) if request.prior_pictures else None,
        "init": request.init,
        "trigger": request.trigger,
        "prompts": str(request.prompts) if request.prompts else None,
        "adapters": [list(pair) for pair in request.adapters],
        "name": request.name,
        "base": request.base,
        "recipe": dict(request.recipe),
        "loading": dict(request.loading),
    }


def to_toml(request: TrainingRequest) -> str:
    """The text of recipe.toml. What is None is left out."""
    recorded = request.recorded or Recorded(request.base)
    head = {
        "kind": request.kind,
        "trigger": request.trigger or None,
        **_pictures_and_weights(request.pictures),
        "prompts": request.prompts and request.prompts.resolve(),
        "adapters": [file for file, _ in request.adapters] or None,
        "strengths": [strength for _, strength in request.adapters] or None,
        "prior_pictures": request.prior_pictures,
        "init": request.init,
        "init_sha256": recorded.init_sha256,
        "base": request.base,
        "fingerprint": recorded.fingerprint,
        **{name: request.loading.get(name) for name in PRECISION},
        "examples": recorded.examples,
        "out": request.out,
        "torch": recorded.torch,
    }
    lines = _lines(head)
    for name, table in (("options", request.options), ("recipe", request.recipe)):
        lines += ["", f"[{name}]", *_lines(table)]
    return "\n".join(lines) + "\n"


def anchored(request: TrainingRequest, folder: Path) -> TrainingRequest:
    """The request with full paths, where those that are relative start at a folder."""
    prior, init = request.prior_pictures, request.init
    return replace(
        request,
        prompts=None if request.prompts is None else _full(request.prompts, folder),
        adapters=tuple((str(_full(file, folder)), s) for file, s in request.adapters),
        pictures=tuple(replace(one, path=_full(one.path, folder)) for one in request.pictures),
        prior_pictures=None if prior is None else _full(prior, folder),
        init=None if init is None else str(_full(init, folder)),
        base=anchored_base(request.base, folder),
        loading=anchored_loading(request.loading, folder),
    )


def _full(path: str | Path, folder: Path) -> Path:
    return Path(os.path.abspath(folder / expand_home(path)))


def anchored_base(source: str, folder: Path) -> str:
    """What opens the same base from any folder."""
    path = _full(source, folder)
    ours = source in BUNDLED_BASES  # whatever folder of that name is there
    return str(path) if is_there(path) and not ours else source


def anchored_loading(loading: Mapping[str, object], folder: Path) -> dict[str, object]:
    """What opens a base in the same way from any folder."""
    vae = loading.get("vae")
    return {**loading, "vae": str(_full(str(vae), folder))} if vae else dict(loading)


def _table(given: Mapping[str, object], name: str) -> Mapping[str, object]:
    """The table of this name inside another; an empty one where it is missing or no table."""
    found = given.get(name)
    return found if isinstance(found, Mapping) else {}


def _folders(pictures: object, weights: object) -> list[dict[str, object]]:
    """Folders from a path, from a list of paths and one of weights, or from a list of pairs."""
    pairs = _pairs(pictures, weights, "weights", "folder of pictures")
    return [{"path": path, "weight": weight} for path, weight in pairs]


def _pairs(given: object, numbers: object, name: str, what: str) -> list[tuple[object, object]]:
    """Pairs from one value, from a list and one of numbers (1 if not given), or from pairs."""
    items = given if isinstance(given, list | tuple) else [given]
    heavy = numbers if isinstance(numbers, list | tuple) else [1.0] * len(items)
    if numbers is not None and (numbers is not heavy or len(heavy) != len(items)):
        raise BadInput(f"{name} must be a list with a number for each {what}")
    return [
        tuple(item) if isinstance(item, list | tuple) and len(item) == 2 else (item, weight)
        for item, weight in zip(items, heavy, strict=True)
    ]


def _pictures_and_weights(folders: Sequence[Folder]) -> dict[str, object]:
    """A path, or lists of paths and of weights."""
    paths = [str(folder.path.resolve()) for folder in folders]
    weights = [folder.weight for folder in folders]
    if not folders:
        return {}
    return {"pictures": paths[0]} if weights == [1] else {"pictures": paths, "weights": weights}


def _lines(table: Mapping[str, object]) -> list[str]:
    return [f"{name} = {toml_value(value)}" for name, value in table.items() if value is not None]
