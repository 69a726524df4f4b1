"""A request for a training, and its two text forms: recipe.toml and the queue's JSON.

Every run writes its request into recipe.toml, and people write such files by hand:

    kind = "lora"
    trigger = "a sks robot"
    pictures = "photos/"
    base = "sketch"

    [options]
    rank = 8

    [recipe]
    steps = 400

Only the first three are required. A distillation or an alignment has `prompts`, a file or a folder,
in place of trigger and pictures, and `adapters` with `strengths`, which are merged into its base.
A run also records which base, pictures and first adapter it had (fingerprint, examples,
init_sha256), so that repeating it with others is refused. The queue keeps a request as JSON of
nearly the same form. `from_table` reads both.
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
# The options of opening a base that change a training's result. The others concern the machine.
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
# Options that change the examples that are made of the pictures.
SHAPING = ("size", "buckets", "masked")


@dataclass(frozen=True)
class Recorded:
    """What a run had when it began. None is unknown, or may differ in a repetition.

    base, prediction: the base's source and what it predicts. fingerprint: that of the base's
    weights. examples: one SHA-256 of all pictures, captions and masks. init_sha256: that of the
    adapter that the run started from. torch: PyTorch's version.
    """

    base: str
    fingerprint: str | None = None
    prediction: str | None = None
    examples: str | None = None
    init_sha256: str | None = None
    torch: str | None = None


@dataclass(frozen=True)
class TrainingRequest:
    """A training as a user asks for it. Raises BadInput that names every wrong field.

    kind, options: the kind's name, and those of its options that were given.
    trigger: the words that stand for what is learned.
    pictures: folders with their weights.
    prompts: for kinds that learn from prompts, in place of trigger and pictures: a file of prompts
        or a folder with captions; None for the prompts of a bundled base.
    adapters: for the same kinds: files and the strengths at which they are merged into the base.
    base, loading: a source, and other arguments of `load_base`.
    prior_pictures: a folder of class pictures.
    init: the file of an adapter to start from.
    out, run: the adapter's file, and the run's folder.
    name: of the adapter in the library.
    recipe: the fields of Recipe that were given; the base and the kind have defaults for the rest.
    recorded: what the run had that wrote this request; None for a new request.
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
        for name in ("prompts", "prior_pictures", "out", "run"):
            if (path := getattr(self, name)) is not None:
                object.__setattr__(self, name, expand_home(path))
        if not isinstance(self.trigger, str):
            raise BadInput(f"trigger: give a text, and not {self.trigger!r}")
        draft(self.recipe)
        object.__setattr__(self, "recipe", check_fields(Recipe, self.recipe))

    @property
    def from_prompts(self) -> bool:
        """Whether the kind learns from prompts and not from pictures."""
        return self.kind in FROM_PROMPTS

    @property
    def title(self) -> str:
        """A title for lists: the trigger, or for kinds without one such as "lcm of sketch"."""
        if not self.from_prompts:
            return self.trigger
        return f"{self.kind} of {PurePath(self.base).name}"

    def changed(self, given: Mapping[str, object]) -> "TrainingRequest":
        """This request with some fields changed. Mappings are merged with its own."""
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
        """What was recorded, without the parts that the changed fields make different."""
        if self.recorded is None:
            return None
        new_examples = (
            "pictures" in given
            or "prompts" in given
            or request.trigger != self.trigger
            or set(SHAPING) & {*_table(given, "recipe")}
        )
        return replace(
            self.recorded,
            examples=None if new_examples else self.recorded.examples,
            init_sha256=None if "init" in given else self.recorded.init_sha256,
        )


def read_request(file: str | Path) -> TrainingRequest:
    """Read a recipe.toml, given as the file or as its run's folder.

    Raises BadInput where it cannot be read, where a field is missing, and for an unknown field,
    naming the nearest. The options of the kind are not checked.
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
            must = "must be" if name in TABLES else "must not be"
            raise BadInput(f"{path}: {name} {must} a table")
    needed = NEEDED[:1] if tables.get("kind") in FROM_PROMPTS else NEEDED
    if missing := [name for name in needed if name not in tables]:
        raise BadInput(f"{path} lacks {', '.join(missing)}")
    return from_table(tables, where=str(path))


def from_table(table: Mapping[str, object], *, where: str = "") -> TrainingRequest:
    """The request in the tables of a recipe.toml, or in JSON that `to_json` wrote.

    Raises BadInput for a wrong field. where: put before the message.
    """
    table = without_fp8(table)
    separate = (*PRECISION, "weights", "strengths")
    given = {name: value for name, value in table.items() if name not in separate}
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
        # A run without this option is older than it. Captions were cut then.
        given["recipe"] = {"caption_syntax": "cut", **_table(given, "recipe")}
    check_fields(Recipe, _table(given, "recipe"), where=f"{where}, [recipe]" if where else "")
    return build(TrainingRequest, given, where=where)


def without_fp8(table: Mapping[str, object]) -> Mapping[str, object]:
    """The table with the recipe's `fp8` of older versions as `quantize` of `loading`."""
    recipe = dict(_table(table, "recipe"))
    if not isinstance(fp8 := recipe.pop("fp8", None), bool):
        return table
    loading = {**({"quantize": "fp8"} if fp8 else {}), **_table(table, "loading")}
    return {**table, "recipe": recipe, "loading": loading}


def to_json(request: TrainingRequest) -> dict[str, object]:
    """The request as the queue keeps it, without `out` and `run`: the workspace sets those."""
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
    """The text of recipe.toml. Fields that are None are left out."""
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
    """The request with full paths. Relative paths are taken to start at the folder."""
    prior, init = request.prior_pictures, request.init
    return replace(
        request,
        prompts=None if request.prompts is None else _full(request.prompts, folder),
        adapters=tuple((str(_full(file, folder)), s) for file, s in request.adapters),
        pictures=tuple(replace(f, path=_full(f.path, folder)) for f in request.pictures),
        prior_pictures=None if prior is None else _full(prior, folder),
        init=None if init is None else str(_full(init, folder)),
        base=anchored_base(request.base, folder),
        loading=anchored_loading(request.loading, folder),
    )


def _full(path: str | Path, folder: Path) -> Path:
    return Path(os.path.abspath(folder / expand_home(path)))


def anchored_base(source: str, folder: Path) -> str:
    """A source that opens the same base from any working directory."""
    path = _full(source, folder)
    bundled = source in BUNDLED_BASES  # even where a folder has that name
    return str(path) if is_there(path) and not bundled else source


def anchored_loading(loading: Mapping[str, object], folder: Path) -> dict[str, object]:
    """Arguments that open a base in the same way from any working directory."""
    vae = loading.get("vae")
    return {**loading, "vae": str(_full(str(vae), folder))} if vae else dict(loading)


def _table(given: Mapping[str, object], name: str) -> Mapping[str, object]:
    """The table of this name inside another; empty where it is missing or no table."""
    table = given.get(name)
    return table if isinstance(table, Mapping) else {}


def _folders(pictures: object, weights: object) -> list[dict[str, object]]:
    """Folders from a path, from lists of paths and of weights, or from a list of pairs."""
    pairs = _pairs(pictures, weights, "weights", "folder of pictures")
    return [{"path": path, "weight": weight} for path, weight in pairs]


def _pairs(given: object, numbers: object, name: str, what: str) -> list[tuple[object, object]]:
    """Pairs of a value and a number, from pairs, or from one or more values and their numbers.

    numbers: default: 1 for each. name, what: what messages call the numbers and a value.
    """
    items = given if isinstance(given, list | tuple) else [given]
    weights = numbers if isinstance(numbers, list | tuple) else [1.0] * len(items)
    if numbers is not None and (numbers is not weights or len(weights) != len(items)):
        raise BadInput(f"{name} must be a list with a number for each {what}")
    return [
        tuple(item) if isinstance(item, list | tuple) and len(item) == 2 else (item, weight)
        for item, weight in zip(items, weights, strict=True)
    ]


def _pictures_and_weights(folders: Sequence[Folder]) -> dict[str, object]:
    """The entries of recipe.toml: one path, or a list of paths and one of weights."""
    paths = [str(folder.path.resolve()) for folder in folders]
    weights = [folder.weight for folder in folders]
    if not folders:
        return {}
    return {"pictures": paths[0]} if weights == [1] else {"pictures": paths, "weights": weights}


def _lines(table: Mapping[str, object]) -> list[str]:
    return [f"{name} = {toml_value(value)}" for name, value in table.items() if value is not None]
