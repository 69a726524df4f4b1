"""Starting a training, and going on with one that was stopped."""

from collections.abc import Generator
from dataclasses import fields, replace
from itertools import count
from pathlib import Path

from studio.base import Base
from studio.errors import BadInput
from studio.folders import Sources, folders_of
from trainers._data import folders_in, read
from trainers._job import Renderer, new_job
from trainers._kind import Kind, kind_name, kinds
from trainers._loop import run_job
from trainers._optimizer import require_optimizer
from trainers._prior import prior_of, require_unchanged
from trainers._progress import Progress
from trainers._recipe import Recipe, recipe_for, with_options
from trainers._run import Run, require_adapter, require_place
from trainers._text import new_tokens

__all__ = ["base_of", "check", "resume", "train"]


def check(
    pictures: Sources,
    *,
    trigger: str,
    out: str | Path | None = None,
    run: str | Path | None = None,
    prior_pictures: str | Path | None = None,
    **options: object,
) -> None:
    """Raise BadInput for what `train` refuses whatever the base; to be asked before one is opened.

    Reading the pictures costs less than opening a base, so they are read here too.
    """
    recipe = with_options(Recipe(), options)
    require_optimizer(recipe.optimizer)
    _require_words(trigger)
    new_tokens(trigger, recipe)
    if run:
        Run(Path(run)).require_new()
        require_place(Run(Path(run)).recipe)
    if out:
        require_adapter(Path(out))
    read(pictures, trigger=trigger, recipe=recipe, size=8, step=8)
    given = Path(prior_pictures) if prior_pictures else None
    prior = prior_of(recipe, given, run=Path(run or "runs"), size=8, step=8)
    if prior and given:
        prior.check(drawing=True)


def train(
    kind: Kind,
    base: Base,
    pictures: Sources,
    *,
    trigger: str,
    out: str | Path | None = None,
    run: str | Path | None = None,
    prior_pictures: str | Path | None = None,
    draw: Renderer | None = None,
    recipe: Recipe | None = None,
    **options: object,
) -> Generator[Progress, None, None]:
    """Train an adapter of this kind on a folder of pictures, or on several.

    pictures: a folder, or a list of folders and of (folder, weight), see studio/folders.py.
    trigger: the words that are to stand for what is learned. out: the adapter file, written to
    the run's folder as well. run: a folder to be made; runs/KIND-NUMBER when not given.
    prior_pictures: a folder of class pictures, see trainers/_prior.py. draw: makes the sample
    pictures, and the class pictures that are missing. recipe: where the options start from;
    `recipe_for(base, kind)` when not given. options: fields of Recipe, by name.

    What can be known is checked before this returns and raises BadInput; the work is done by
    iterating. To stop is to close the generator: a checkpoint is written first. Until then the
    deltas are attached to the base, so sample pictures are `draw`'s affair, not the iterating
    code's.
    """
    recipe = with_options(recipe or recipe_for(base, kind), options)
    _require_words(trigger)
    folder = Run(Path(run) if run else _free_folder(kind_name(kind)))
    folder.require_new()
    job = new_job(
        kind,
        base,
        folders_of(pictures),
        trigger=trigger,
        prior_pictures=Path(prior_pictures) if prior_pictures else None,
        recipe=recipe,
        run=folder,
        out=Path(out) if out else None,
        draw=draw,
    )
    return run_job(job)


def resume(
    run: str | Path, base: Base, *, kind: str | None = None, draw: Renderer | None = None
) -> Generator[Progress, None, None]:
    """Go on with a stopped training from its last checkpoint, as if it had never stopped.

    Kind, pictures and options are those of the run's recipe.toml; `base_of(run)` names the base.
    kind: of which the run is thought to be.
    Raises BadInput when the run is finished, is no run, is of another kind, or when the base or
    the pictures are not those it was started with.
    """
    folder = Run(Path(run))
    tables = folder.read()
    if kind not in (None, tables["kind"]):
        raise BadInput(f"{run} trains {tables['kind']}, not {kind}")
    if folder.adapter.exists():
        raise BadInput(f"{run} is finished, its adapter is {folder.adapter}: nothing is left to do")
    if (then := tables.get("prediction", base.prediction_type)) != base.prediction_type:
        raise BadInput(f"{run} was started on a base that predicts {then}: open it so (prediction)")
    if base.fingerprint() != tables["fingerprint"]:
        raise BadInput(f"{run} was started on the base {tables['base']}, and {base.name} differs")
    job = new_job(
        _kind(tables),
        base,
        folders_in(tables),
        trigger=tables["trigger"],
        prior_pictures=Path(tables["prior_pictures"]) if "prior_pictures" in tables else None,
        recipe=with_options(Recipe(), tables["recipe"]),
        run=folder,
        out=Path(tables["out"]) if "out" in tables else None,
        draw=draw,
    )
    if job.contents != tables["examples"]:
        where = ", ".join(str(folder.path) for folder in job.folders)
        raise BadInput(
            f"the pictures, captions or masks in {where} are no longer those that {run} was "
            "started with: put them back, or start a new training"
        )
    require_unchanged(job)
    return run_job(replace(job, checkpoint=folder.last_checkpoint()))


def base_of(run: str | Path) -> dict[str, str]:
    """The base that a run was started on, as `load_base(**base_of(run))` takes it."""
    tables = Run(Path(run)).read()
    kept = {name: tables[name] for name in ("dtype", "prediction") if name in tables}
    return {"source": tables["base"], **kept}


def _require_words(trigger: str) -> None:
    if not trigger.strip():
        raise BadInput("trigger is empty: name the words that are to stand for what is learned")


def _kind(tables: dict) -> Kind:
    """The kind that a recipe.toml describes."""
    known = kinds()
    if tables["kind"] not in known:
        raise BadInput(f"the recipe names the kind {tables['kind']!r}; there is {', '.join(known)}")
    made = known[tables["kind"]]
    unknown = set(tables["options"]) - {entry.name for entry in fields(made)}  # pyright: ignore
    if unknown:
        raise BadInput(f"the recipe gives {tables['kind']} unknown options: {sorted(unknown)}")
    return made(**tables["options"])


def _free_folder(kind: str) -> Path:
    return next(path for n in count(1) if not (path := Path("runs") / f"{kind}-{n}").exists())
