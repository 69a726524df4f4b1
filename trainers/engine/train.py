"""Starting a training, repeating one, and going on with one that was stopped."""

from collections.abc import Generator
from dataclasses import replace
from itertools import count
from pathlib import Path

from studio.adapters.blora_blocks import split_half
from studio.adapters.describe import describe
from studio.bases.base import Base
from studio.dataset.folders import Folder, Sources, parse_folders
from studio.dataset.pictures import Pictures
from studio.errors import BadInput
from studio.requests.recipe import Recipe, draft, with_options
from trainers.engine.data.dataset import folders_in, read_dataset
from trainers.engine.data.prior_preservation import check_unchanged, prior_of
from trainers.engine.kind import Kind, kind_name
from trainers.engine.loop import run_training
from trainers.engine.optimizers import check_optimizer
from trainers.engine.progress import Progress
from trainers.engine.recipe.recipe_file import Written, read_recipe
from trainers.engine.resolve import recipe_for
from trainers.engine.run.folder import Run, check_adapter_path, check_writable
from trainers.engine.run.tensorboard import check_tensorboard
from trainers.engine.setup import PreparedTraining, Renderer, prepare_training
from trainers.engine.text_encoders import new_tokens
from trainers.engine.warm_start import WarmStart

__all__ = ["base_of", "check", "checkpoints", "repeat", "resume", "train"]


def check(
    pictures: Sources,
    *,
    trigger: str,
    out: str | Path | None = None,
    run: str | Path | None = None,
    prior_pictures: str | Path | None = None,
    init: str | Path | None = None,
    **options: object,
) -> Pictures:
    """Raise BadInput for what `train` refuses whatever the base; to be asked before one is opened.

    Reading the pictures costs less than opening a base, so they are read here too; they are
    returned, but their buckets are no base's.
    """
    recipe = draft(options)
    check_optimizer(recipe.optimizer)
    check_tensorboard(recipe)
    _require_words(trigger)
    new_tokens(trigger, recipe)
    if run:
        Run(Path(run)).check_new()
        check_writable(Run(Path(run)).recipe)
    if out:
        check_adapter_path(Path(out))
    if init:
        describe(split_half(str(init))[0])
    given = Path(prior_pictures) if prior_pictures else None
    prior = prior_of(recipe, given, run=Path(run or "runs"), size=8, step=8)
    dataset = read_dataset(
        pictures, trigger=trigger, recipe=recipe, prior=prior if given else None, size=8, step=8
    )
    if prior and given:
        prior.check(dataset.class_pictures, can_draw=True)
    return dataset.pictures


def train(
    kind: Kind,
    base: Base,
    pictures: Sources,
    *,
    trigger: str,
    out: str | Path | None = None,
    run: str | Path | None = None,
    prior_pictures: str | Path | None = None,
    init: str | Path | None = None,
    draw: Renderer | None = None,
    recipe: Recipe | None = None,
    **options: object,
) -> Generator[Progress, None, None]:
    """Train an adapter of this kind on a folder of pictures, or on several.

    pictures: a folder, or a list of folders and of (folder, weight), see studio/dataset/folders.py.
    trigger: the words that are to stand for what is learned. out: the adapter file, written to
    the run's folder as well. run: a folder to be made; runs/KIND-NUMBER when not given.
    prior_pictures: a folder of class pictures, see trainers/engine/data/prior_preservation.py.
    init: an adapter's file to start from, see trainers/engine/warm_start.py. draw: makes the sample
    pictures, and the class pictures that are missing. recipe: where the options start from;
    `recipe_for(base, kind)` when not given. options: fields of Recipe, by name.

    What can be known is checked before this returns and raises BadInput; the work is done by
    iterating. To stop is to close the generator: a checkpoint is written first. Until then the
    deltas are attached to the base, so sample pictures are `draw`'s affair, not the iterating
    code's.
    """
    recipe = with_options(recipe or recipe_for(base, kind), options)
    training = _new(
        kind,
        base,
        parse_folders(pictures),
        trigger=trigger,
        out=out,
        run=run,
        prior_pictures=prior_pictures,
        init=init,
        draw=draw,
        recipe=recipe,
    )
    return run_training(training)


def repeat(
    file: str | Path,
    base: Base,
    *,
    pictures: Sources | None = None,
    trigger: str | None = None,
    out: str | Path | None = None,
    run: str | Path | None = None,
    prior_pictures: str | Path | None = None,
    init: str | Path | None = None,
    draw: Renderer | None = None,
    **changes: object,
) -> Generator[Progress, None, None]:
    """Train as a recipe.toml says, or that of a run's folder; the same file comes of it.

    `base_of(file)` names the base. What is given beside it, as `train` takes it, holds instead of
    the file's; changes: fields of the kind and of Recipe, by name.
    Raises BadInput as `train` and `read_recipe` do, and when the base of that name, the pictures or
    the adapter it starts from are not those that the recipe was written for.
    """
    written = read_recipe(file, **changes)
    training = _new(
        written.kind,
        base,
        parse_folders(pictures) if pictures else written.folders,
        trigger=written.trigger if trigger is None else trigger,
        out=out or written.path("out"),
        run=run,
        prior_pictures=prior_pictures or written.path("prior_pictures"),
        init=init or written.init,
        draw=draw,
        recipe=written.recipe(base),
    )
    _require_same(training, written, pictures=pictures is None, init=init is None)
    return run_training(training)


def _require_same(
    training: PreparedTraining, written: Written, *, pictures: bool, init: bool
) -> None:
    """BadInput where what the recipe names is not any more what it was.

    pictures, init: whether they are those of the recipe, none others being given.
    """
    head, base = written.head, training.base
    same = head.get("fingerprint", base.fingerprint()) == base.fingerprint()
    if base.source == written.base["source"]:
        if not same:
            raise BadInput(f"{written.file} was written for another {base.source} than is there")
        if (then := head.get("prediction", base.prediction_type)) != base.prediction_type:
            raise BadInput(f"the base of {written.file} predicts {then}: open it so (prediction)")
    # The buckets and the captions of the pictures hang on these too.
    same &= training.trigger == written.trigger and not {"size", "buckets", "masked"} & {
        *written.changes
    }
    contents = training.dataset.pictures.sha256
    if pictures and same and contents != head.get("examples", contents):
        raise BadInput(
            f"the pictures, captions or masks are no longer those that {written.file} was written "
            "for: put them back, or name the folder to train on what it holds now"
        )
    now = training.warm_start.sha256 if training.warm_start else None
    if init and now != head.get("init_sha256", now):
        raise BadInput(
            f"the adapter {written.init} is no longer the one that {written.file} starts from: put "
            "it back, or name it (init) to start from what it is now"
        )


def _new(
    kind: Kind,
    base: Base,
    folders: tuple[Folder, ...],
    *,
    trigger: str,
    out: str | Path | None,
    run: str | Path | None,
    prior_pictures: str | Path | None,
    init: str | Path | None,
    draw: Renderer | None,
    recipe: Recipe,
) -> PreparedTraining:
    """A training that is to have a folder of its own."""
    _require_words(trigger)
    folder = Run(Path(run) if run else _free_folder(kind_name(kind)))
    folder.check_new()
    return prepare_training(
        kind,
        base,
        folders,
        trigger=trigger,
        prior_pictures=Path(prior_pictures) if prior_pictures else None,
        init=init,
        recipe=recipe,
        run=folder,
        out=Path(out) if out else None,
        draw=draw,
    )


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
    checkpoint = folder.last_checkpoint()
    training = prepare_training(
        read_recipe(run).kind,
        base,
        folders_in(tables),
        trigger=tables["trigger"],
        prior_pictures=Path(tables["prior_pictures"]) if "prior_pictures" in tables else None,
        init=None if checkpoint else tables.get("init"),  # a checkpoint has what came of it
        recipe=with_options(Recipe(), tables["recipe"]),
        run=folder,
        out=Path(tables["out"]) if "out" in tables else None,
        draw=draw,
    )
    if training.dataset.pictures.sha256 != tables["examples"]:
        where = ", ".join(str(folder.path) for folder in training.folders)
        raise BadInput(
            f"the pictures, captions or masks in {where} are no longer those that {run} was "
            "started with: put them back, or start a new training"
        )
    if training.dataset.prior:
        check_unchanged(folder, training.dataset.prior, training.dataset.class_pictures)
    if "init" in tables:
        warm_start = training.warm_start or WarmStart(
            tables["init"], tables["init_sha256"], fresh=0
        )
        if warm_start.sha256 != tables["init_sha256"]:
            raise BadInput(f"{run} was started from another {tables['init']}: put that back")
        training = replace(training, warm_start=warm_start)
    return run_training(replace(training, checkpoint=checkpoint))


def checkpoints(run: str | Path) -> dict[int, Path]:
    """The adapters of a run's checkpoints by their steps, rising; the finished one is the last.

    Raises BadInput when it is no run, or when there is none yet.
    """
    folder = Run(Path(run))
    tables = folder.read()
    found = folder.checkpoints()
    if folder.adapter.exists():
        found[int(tables["recipe"]["steps"])] = folder.adapter
    if not found:
        raise BadInput(f"{run} has no checkpoint yet: its save_every says when there is one")
    return found


def base_of(file: str | Path) -> dict[str, str]:
    """The base of a run's folder or of a recipe.toml, as `load_base(**base_of(file))` takes it."""
    return read_recipe(file).base


def _require_words(trigger: str) -> None:
    if not trigger.strip():
        raise BadInput("trigger is empty: name the words that are to stand for what is learned")


def _free_folder(kind: str) -> Path:
    return next(path for n in count(1) if not (path := Path("runs") / f"{kind}-{n}").exists())
