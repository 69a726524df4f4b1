"""Start a training, or resume one that was stopped."""

from collections.abc import Generator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from studio.adapters.blora_blocks import split_half
from studio.adapters.describe import describe
from studio.bases.base import Base
from studio.bases.info import read_base_info
from studio.bases.quantized.layers import check_form
from studio.dataset.buckets import check_size
from studio.dataset.folders import Sources, parse_folders
from studio.dataset.pictures import Pictures
from studio.errors import BadInput
from studio.files import check_writable
from studio.requests.recipe import Recipe, draft, with_options
from studio.requests.training import Recorded, TrainingRequest, read_request
from trainers.engine.data.dataset import read_dataset
from trainers.engine.data.prior_preservation import check_unchanged, prior_of
from trainers.engine.kind import Kind, check_quantize, kind_name, options_of
from trainers.engine.loop import run_training
from trainers.engine.optimizers import check_optimizer
from trainers.engine.progress import Progress
from trainers.engine.resolve import check_learned, check_unused, kind_of, recipe_for, recipe_of
from trainers.engine.run.folder import Run
from trainers.engine.run.lock import check_not_training, next_numbered_folder
from trainers.engine.run.tensorboard import check_tensorboard
from trainers.engine.setup import PreparedTraining, Renderer, prepare_training
from trainers.engine.text_encoders import new_tokens
from trainers.engine.warm_start import WarmStart


def check(request: TrainingRequest) -> Pictures:
    """Raise BadInput for whatever `run_request` would refuse, as far as the base need not be open.

    Opening the base takes longer than reading the pictures. The pictures are returned, so that they
    are read only once; their buckets are not those of the base yet.
    """
    recipe, kind = draft(request.recipe), kind_of(request)
    if recipe.size and (info := read_base_info(request.base)):
        check_size(recipe.size, info.step)
    check_optimizer(recipe.optimizer)
    quantize = str(request.loading.get("quantize", "none"))
    check_form(quantize)
    check_quantize(kind, quantize)
    check_tensorboard(recipe)
    check_learned(request)
    check_unused(kind, recipe)
    if request.run:
        check_not_training(request.run)
        Run(request.run).check_new()
        check_writable(Run(request.run).recipe)
    if request.out:
        Run(request.run or next_numbered_folder(request.kind)).check_out(request.out)
    first = [request.init] if request.init else []
    for file in (*first, *(file for file, _ in request.adapters)):
        describe(split_half(file)[0])
    new_tokens(request.trigger, recipe)
    folder = request.prior_pictures
    prior = prior_of(recipe, folder, run=request.run or Path("runs"), size=8, step=8)
    dataset = read_dataset(
        request, kind, recipe, prior if folder else None, size=8, step=8, can_draw=True
    )
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
    trigger: the words that shall stand for what is learned. out: the adapter's file, which must not
    exist yet; the run's folder gets a copy. run: a new folder for the run, in which only one
    process may train; default: runs/KIND-NUMBER.
    prior_pictures: a folder of class pictures, see trainers/engine/data/prior_preservation.py.
    init: an adapter's file to start from, see trainers/engine/warm_start.py. draw: draws the
    samples, and missing class pictures. recipe: the recipe that `options` change; default:
    `recipe_for(base, kind)`. options: fields of Recipe, by name.

    Bad input is found before this returns, and raises BadInput. The training runs as the generator
    is iterated. To stop, close the generator: it writes a checkpoint first. Until then the deltas
    are attached to the base, so only `draw` may make pictures with it.
    """
    name = kind_name(kind)
    full = with_options(recipe or recipe_for(base, kind), options)
    request = TrainingRequest(
        kind=name,
        trigger=trigger,
        pictures=parse_folders(pictures),
        base=base.source,
        prior_pictures=Path(prior_pictures) if prior_pictures else None,
        init=str(init) if init else None,
        out=Path(out) if out else None,
        run=Path(run) if run else None,
        options=options_of(kind),
        recipe=asdict(full),
    )
    return _start(request, base, kind=kind, recipe=full, draw=draw)


def distill(
    kind: Kind,
    base: Base,
    *,
    prompts: str | Path | None = None,
    adapters: Sequence[tuple[str | Path, float]] = (),
    out: str | Path | None = None,
    run: str | Path | None = None,
    init: str | Path | None = None,
    draw: Renderer | None = None,
    recipe: Recipe | None = None,
    **options: object,
) -> Generator[Progress, None, None]:
    """Train an adapter from prompts alone; otherwise like `train`.

    kind: one of trainers/distillations/, which make a base fast, or of trainers/rewards/, which
    move its pictures towards a reward. prompts: a file with one prompt on each line, or a folder
    with captions; default: the captions of a bundled base. adapters: files and strengths, to be
    merged into the base. draw: for a distillation it must draw with `kind.sampling`.
    """
    name = kind_name(kind)
    full = with_options(recipe or recipe_for(base, kind), options)
    request = TrainingRequest(
        kind=name,
        prompts=Path(prompts) if prompts else None,
        adapters=tuple((str(file), strength) for file, strength in adapters),
        base=base.source,
        init=str(init) if init else None,
        out=Path(out) if out else None,
        run=Path(run) if run else None,
        options=options_of(kind),
        recipe=asdict(full),
    )
    return _start(request, base, kind=kind, recipe=full, draw=draw)


align = distill


def run_request(
    request: TrainingRequest,
    base: Base,
    *,
    draw: Renderer | None = None,
    pictures: Pictures | None = None,
) -> Generator[Progress, None, None]:
    """Train as a request says, on this base.

    pictures: what `check(request)` returned, so that they are not read again.
    A request that was read from a run's folder makes the same file again. Raises BadInput where the
    base, the pictures or the first adapter are not those that the run had.
    """
    kind = kind_of(request)
    recipe = recipe_of(request, base, kind)
    return _start(request, base, kind=kind, recipe=recipe, draw=draw, pictures=pictures)


def _start(
    request: TrainingRequest,
    base: Base,
    *,
    kind: Kind,
    recipe: Recipe,
    draw: Renderer | None,
    pictures: Pictures | None = None,
) -> Generator[Progress, None, None]:
    """Prepare a training in a new folder, and return its generator."""
    check_learned(request)
    folder = Run(request.run or next_numbered_folder(request.kind))
    check_not_training(folder.folder)
    folder.check_new()
    training = prepare_training(
        request, base, kind=kind, recipe=recipe, run=folder, draw=draw, pictures=pictures
    )
    if request.recorded:
        _check_repeats(training, request.recorded)
    return run_training(training)


def _check_repeats(training: PreparedTraining, recorded: Recorded) -> None:
    """Raise BadInput where base, pictures or first adapter are not those of the recipe's run."""
    base, request = training.base, training.request
    learned = "prompts or adapters" if training.from_prompts else "pictures, captions or masks"
    same_weights = recorded.fingerprint in (None, base.fingerprint())
    if base.source == recorded.base:
        if not same_weights:
            raise BadInput(f"the recipe was written for another {base.source} than this one")
        if recorded.prediction not in (None, base.prediction_type):
            raise BadInput(
                f"the recipe's base predicts {recorded.prediction}: open it so (prediction)"
            )
    if same_weights and recorded.examples not in (None, training.examples_sha256):
        raise BadInput(
            f"the {learned} are no longer those that the recipe was written for: put them back, or "
            "name where they are to train on what is there now"
        )
    if recorded.init_sha256 not in (None, training.warm_start and training.warm_start.sha256):
        raise BadInput(
            f"the adapter {request.init} is no longer the one that the recipe starts from: put "
            "it back, or name it (init) to start from what it is now"
        )


def resume(
    run: str | Path, base: Base, *, kind: str | None = None, draw: Renderer | None = None
) -> Generator[Progress, None, None]:
    """Resume a stopped training from its last checkpoint, as if it had never stopped.

    Kind, pictures and options are those of the run's recipe.toml; `base_of(run)` names the base.
    kind: the kind that the caller expects; None: any.
    Raises BadInput when the run is finished, is no run, is of another kind, is being trained by
    another process, or when the base or the pictures are not those that it was started with.
    """
    folder = Run(Path(run))
    request, recorded = folder.read()
    check_not_training(folder.folder)
    if kind not in (None, request.kind):
        raise BadInput(f"{run} trains {request.kind}, not {kind}")
    if folder.adapter.exists():
        raise BadInput(f"{run} is finished, its adapter is {folder.adapter}: nothing is left to do")
    if recorded.prediction not in (None, base.prediction_type):
        raise BadInput(
            f"{run} was started on a base that predicts {recorded.prediction}: "
            "open it so (prediction)"
        )
    if (vae := str(request.loading.get("vae", ""))) != base.vae_source:
        then = f"the VAE {vae}" if vae else "the VAE of the base itself"
        raise BadInput(f"{run} was started with {then}: open the base so (vae)")
    if (quantize := request.loading.get("quantize", "none")) != base.quantize:
        raise BadInput(
            f"{run} was started with weights stored as {quantize}, and those of {base.name} are "
            f"as {base.quantize}: open it so (quantize)"
        )
    if base.fingerprint() != recorded.fingerprint:
        raise BadInput(f"{run} was started on the base {request.base}, and {base.name} differs")
    checkpoint = folder.last_checkpoint()
    request = replace(request, run=folder.folder)
    training = prepare_training(
        # The weights come from the checkpoint, not from the first adapter.
        replace(request, init=None) if checkpoint else request,
        base,
        kind=kind_of(request),
        recipe=with_options(Recipe(), request.recipe),
        run=folder,
        draw=draw,
    )
    _check_continues(training, recorded)
    if request.init:
        first = training.warm_start or WarmStart(request.init, recorded.init_sha256 or "")
        if first.sha256 != recorded.init_sha256:
            raise BadInput(f"{run} was started from another {request.init}: put that back")
        training = replace(training, warm_start=first)
    return run_training(replace(training, checkpoint=checkpoint, resumed=True))


def _check_continues(training: PreparedTraining, recorded: Recorded) -> None:
    """Raise BadInput where a stopped run would go on with other examples."""
    if training.from_prompts and training.examples_sha256 != recorded.examples:
        raise BadInput(
            f"the prompts or the adapters are no longer those that {training.run.folder} was "
            "started with: put them back, or start a new training"
        )
    if training.examples_sha256 != recorded.examples:
        where = ", ".join(str(folder.path) for folder in training.request.pictures)
        raise BadInput(
            f"the pictures, captions or masks in {where} are no longer those that "
            f"{training.run.folder} was started with: put them back, or start a new training"
        )
    if training.dataset.prior:
        check_unchanged(training.run, training.dataset.prior, training.dataset.class_pictures)


def checkpoints(run: str | Path) -> dict[int, Path]:
    """The adapters of a run's checkpoints by step, ascending; a finished adapter is the last.

    Raises BadInput when it is no run, or has no checkpoint yet.
    """
    folder = Run(Path(run))
    request, _ = folder.read()
    adapters = folder.checkpoints()
    if folder.adapter.exists():
        adapters[with_options(Recipe(), request.recipe).steps] = folder.adapter
    if not adapters:
        raise BadInput(f"{run} has no checkpoint yet: its save_every says when there is one")
    return adapters


def base_of(file: str | Path) -> dict[str, str]:
    """The base of a run's folder or recipe.toml, as arguments: `load_base(**base_of(file))`."""
    request = read_request(file)
    return {"source": request.base, **{name: str(v) for name, v in request.loading.items()}}
