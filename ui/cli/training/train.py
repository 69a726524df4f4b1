"""`studio train`: train an adapter, with progress bars; Ctrl-C stops it with a checkpoint."""

import shlex
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from statistics import fmean
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

import trainers
from studio.dataset.left_out import Skipped, count_skipped
from studio.dataset.pictures import Pictures
from studio.errors import BadInput, Stopped
from studio.requests.training import TrainingRequest, read_request
from studio.requests.validation import build, option
from studio.workspace import DEFAULT_FOLDER, open_workspace
from trainers import Drawn, Encoded, Finished, Progress, Sampled, Saved, Started, Step
from ui.cli.options import BASES, LOADING, AsJson, WorkspaceFolder
from ui.shared.form import Form, with_options
from ui.shared.launched_processes import process_group
from ui.shared.loading import command_options, open_base
from ui.shared.names import parse_folder
from ui.shared.terminal import print_facts, print_json, print_note, print_outcome, progress_bars
from ui.shared.train_request import complete, keep_out_here, options_in, request_for
from ui.shared.training_run import SMOOTHED, draw_with, interrupt_if, stopping

if TYPE_CHECKING:
    from studio.bases.base import Base


@dataclass(frozen=True)
class Trained:
    """The result of a training.

    loss: the mean over the last steps; None if there was no step. measured: what each step measured
    besides its loss.
    """

    started: Started
    finished: Finished
    loss: float | None
    measured: Sequence[Mapping[str, float]]


def start_run(request: TrainingRequest, *, as_json: bool) -> None:
    """Run a training from its start."""
    request = complete(request)
    # Checks that need no base come before the long work of opening it.
    pictures = trainers.check(request)
    again = f"{_command(request.kind)} {command_options(request.loading)}--resume"
    with process_group(request.loading.get("device", "auto")):
        base = open_base(request.base, request.loading)
        stop = Event()
        draw = draw_with(base, trainers.drawn_with(request), between=partial(interrupt_if, stop))
        progress = trainers.run_request(request, base, draw=draw, pictures=pictures)
        expected = _estimate(request, base, pictures=len(pictures.examples))
        print_note(f"This will take {expected}.")
        title = f"Training {request.title!r}"
        _report(follow(progress, title=title, resume_with=again, stop=stop), as_json=as_json)


def count_run(request: TrainingRequest, *, config: str | None, as_json: bool) -> None:
    """Print what would be trained. config: a published model's layers, in place of the base."""
    from studio.adapters.load import load_adapter  # PyTorch with it
    from studio.bases.real_config import real_config

    pictures = _check_pictures(request)
    if config:
        stored = ("dtype", "quantize")
        how = {name: str(request.loading[name]) for name in stored if name in request.loading}
        base = real_config(config, **how)
    else:
        base = open_base(request.base, request.loading)
    if request.init:
        load_adapter(request.init, base=base)  # refuses damaged files and other bases' adapters
    text_encoders = bool(request.recipe.get("text_encoders"))
    counted = trainers.count(trainers.kind_of(request), base, text_encoders=text_encoders)
    estimate = _estimate(request, base, pictures=len(pictures.examples))
    facts = asdict(counted)
    if as_json:
        skipped = _skipped_facts(pictures.skipped)
        facts |= {"pictures": len(pictures.examples), "skipped": skipped}
        print_json(facts | {"estimate": asdict(estimate)})
        return
    more = facts.pop("facts")
    numbers = {key: f"{facts[key]:,}" for key in ("weights", "layers", "parameters")}
    share = {"share": f"{counted.parameters / counted.weights:.3%}"}
    taking = {"taking": str(estimate)}
    if request.from_prompts:
        facts |= {"prompts": len(pictures.examples)}
    elif request.pictures:
        facts |= {"pictures": len(pictures.examples), "skipped": count_skipped(pictures.skipped)}
    print_facts(f"{request.kind} would train", facts | numbers | share | taking | more)


def _check_pictures(request: TrainingRequest) -> Pictures:
    """The pictures of a dry run, if any are named. Prints which of them are left out."""
    if not (request.pictures or request.from_prompts):
        return Pictures()
    trigger = "" if request.from_prompts else request.trigger or request.kind
    # A missing trigger or an existing output file changes nothing of what would be trained.
    pictures = trainers.check(replace(request, trigger=trigger, out=None, run=None))
    for remark in pictures.remarks():
        print_note(remark)
    return pictures


def _skipped_facts(skipped: Sequence[Skipped]) -> list[dict[str, Any]]:
    return [asdict(one) | {"path": str(one.path)} for one in skipped]


def _estimate(request: TrainingRequest, base: "Base", *, pictures: int = 0) -> "trainers.Estimate":
    runs = request.run.parent if request.run else "runs"
    return trainers.estimate_request(request, base, pictures=pictures, runs=runs)


def resume_run(run: Path, *, name: str, loading: Mapping[str, object], as_json: bool) -> None:
    """Continue a training that was stopped."""
    then = trainers.base_of(run)
    again = f"{_command(name)} {command_options(loading)}--resume"
    with process_group(loading.get("device", "auto")):
        opened = open_base(then.pop("source"), then | dict(loading))
        stop, fields = Event(), trainers.drawn_with(read_request(run))
        draw = draw_with(opened, fields, between=partial(interrupt_if, stop))
        progress = trainers.resume(run, opened, kind=name, draw=draw)
        trained = follow(progress, title="Resuming", resume_with=again, stop=stop)
        _report(trained, as_json=as_json)


def _command(kind: str) -> str:
    """The command that trains this kind."""
    of_distill, of_align = trainers.distillation_kinds(), trainers.reward_kinds()
    group = "distill" if kind in of_distill else "align" if kind in of_align else "train"
    return f"studio {group} {kind}"


def follow(
    progress: Generator[Progress, None, None],
    *,
    title: str,
    resume_with: str = "",
    stop: Event | None = None,
) -> Trained:
    """Show a training until it ends.

    The first Ctrl-C or SIGTERM ends it after the current step and raises Stopped once its
    checkpoint is written; a second one ends it at once. resume_with: the command that resumes this
    training, without the run's folder; it is printed after a stop. stop: the flag that the first
    signal sets.
    """
    started: Started | None = None
    losses: deque[float] = deque(maxlen=SMOOTHED)
    measured: list[Mapping[str, float]] = []
    at_once = True
    with (
        stopping(stop=stop) as stop_requested,
        closing(progress),
        progress_bars("loss") as shown,
        suppress(KeyboardInterrupt),
    ):
        drawing = shown.add_task("Drawing the class", total=None, visible=False, loss="")
        encoding = shown.add_task("Encoding", total=None, visible=False, loss="")
        training = shown.add_task(title, total=None, loss="")
        for event in progress:
            match event:
                case Started():
                    started = event
                    _introduce(event)
                    shown.update(training, total=event.steps, completed=event.done)
                case Drawn(done, total) | Encoded(done, total):
                    task = drawing if isinstance(event, Drawn) else encoding
                    shown.update(task, total=total, completed=done, visible=done < total)
                case Step():
                    losses.append(event.loss)
                    measured.append(event.measured)
                    numbers = event.measured or {"loss": fmean(losses)}
                    loss = ", ".join(f"{name} {number:.4f}" for name, number in numbers.items())
                    shown.update(training, completed=event.step, loss=loss)
                case Sampled():
                    print_note(f"Step {event.step}: samples in {event.paths[0].parent}")
                case Saved():
                    print_note(f"Step {event.step}: checkpoint in {event.path}")
                case Finished():
                    assert started  # every training yields it first
                    loss = fmean(losses) if losses else None
                    return Trained(started, event, loss, measured)
            if stop_requested():
                break
        at_once = False
    if started and resume_with:
        print_note(f"Go on with: {resume_with} {shlex.quote(str(started.run))}")
    if not losses:
        raise Stopped("the training was stopped before its first step.")
    written = ", its checkpoint is written" if resume_with and not at_once else ""
    raise Stopped(f"the training was stopped{written}.")


def _introduce(started: Started) -> None:
    for remark in started.remarks:
        print_note(remark)
    after = f", going on after step {started.done}" if started.done else ""
    pictures = f"{started.examples} {started.unit}{'s' if started.examples != 1 else ''}"
    if started.round != started.examples:
        pictures += f", {started.round:g} a round with repeats and weights"
    print_note(
        f"{pictures}, {started.layers} layers, "
        f"{started.parameters:,} parameters; run folder {started.run}{after}"
    )


def _report(trained: Trained, *, as_json: bool) -> None:
    started, finished = trained.started, trained.finished
    facts = {
        "adapter": str(finished.path),
        "run": str(started.run),
        "steps": finished.steps,
        "seconds": round(finished.seconds, 1),
        "loss": trained.loss,
        **_measured(trained.measured),
        "parameters": started.parameters,
        f"{started.unit}s": started.examples,
        "skipped": _skipped_facts(started.skipped),
    }
    loss = None if trained.loss is None else f"{trained.loss:.4f}"
    shown = {"loss": loss, "skipped": count_skipped(started.skipped) or None}
    print_outcome("Trained", facts, as_json=as_json, shown=shown)


def _measured(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The measurements of the first and the last step; empty if there was no step."""
    if not steps:
        return {}
    first, last = steps[0], steps[-1]
    return {f"first {name}": round(first[name], 4) for name in first} | {
        f"last {name}": round(last[name], 4) for name in last
    }


class KindFromRecipe(TyperGroup):
    """`studio train --recipe FILE`, or `--resume RUN`, trains the kind that is named there."""

    def parse_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, ctx: typer.Context, args: list[str]
    ) -> list[str]:
        file = _recipe_file(args)
        if file and args[0] not in self.list_commands(ctx):
            args = [read_request(file).kind, *args]
        return super().parse_args(ctx, args)


def _recipe_file(args: Sequence[str]) -> str | None:
    """The file behind --recipe, or the folder behind --resume."""
    for word, following in zip_longest(args, args[1:], fillvalue=""):
        option, _, value = word.partition("=")
        if option in ("--recipe", "--resume"):
            return value or following
    return None


app = typer.Typer(
    cls=KindFromRecipe,
    name="train",
    help="Train an adapter on a folder of pictures.",
    epilog="Example: studio train --recipe runs/lora-1/recipe.toml --lr 5e-4",
    no_args_is_help=True,
)
# The defaults of these options depend on the base and the kind: see trainers.recipe_for.
BY_BASE: Mapping[str, str] = dict.fromkeys(
    ("steps", "batch", "lr", "accumulation", "schedule"), "by base and kind"
)


@dataclass(frozen=True)
class RequestOptions:
    """The fields of TrainingRequest that are options of the command."""

    trigger: str | None = option(None, 'what to call it in prompts, such as "a sks robot"')
    base: str | None = option(None, f"base model: {BASES} Default: sketch")
    out: Path | None = option(None, "the adapter's file; default: TRIGGER.safetensors")
    run: Path | None = option(None, "folder of this training; default: runs/KIND-NUMBER")
    prior_pictures: Path | None = option(
        None, "folder of class pictures; default: a folder in the run's folder"
    )
    init: str | None = option(None, "start from this adapter, FILE or FILE:HALF")


@dataclass(frozen=True)
class ModeOptions:
    """The options that choose what to do: train, repeat, resume, count or queue."""

    recipe: Path | None = option(
        None, "repeat the training of this recipe.toml; other options change it"
    )
    resume: Path | None = option(None, "continue the stopped training in this folder")
    dry_run: bool = option(False, "only show how many parameters would be trained")
    base_config: Literal["sd15", "sd21", "sdxl"] | None = option(
        None, "with --dry-run: the layers of a real model, without its weights"
    )
    queue: bool = option(False, "queue it for a worker, which puts the adapter into the library")


def train_command(name: str, kind: type) -> Callable[..., None]:
    """The command that trains adapters of this kind."""

    @with_options(
        {
            "request": Form(of=RequestOptions, title="Options"),
            "mode": Form(of=ModeOptions, title="Options"),
            "options": Form(of=kind, title=f"Options of {name}"),
            "training": Form(of=trainers.Recipe, title="Training", defaults=BY_BASE),
            "loading": LOADING,
        }
    )
    def train(
        pictures: Annotated[
            list[str] | None,
            typer.Argument(
                metavar="PICTURES[:WEIGHT]",
                help="Folders of pictures, with captions in .txt files or metadata.jsonl. Pictures "
                "in a sub-folder such as '10_sks robot' come ten times a round. A folder's weight "
                "is how often its pictures come, compared with those of other folders.",
            ),
        ] = None,
        *,
        workspace: WorkspaceFolder = DEFAULT_FOLDER,
        as_json: AsJson = False,
        request: Mapping[str, object],
        mode: Mapping[str, object],
        options: Mapping[str, object],
        training: Mapping[str, object],
        loading: Mapping[str, object],
    ) -> None:
        given = {
            "pictures": [parse_folder(text) for text in pictures or ()],
            **request,
            "options": options,
            "recipe": training,
            "loading": loading,
        }
        run_training(name, given, mode, space=workspace, as_json=as_json)

    return train


def run_training(
    kind: str,
    given: Mapping[str, object],
    mode: Mapping[str, object],
    *,
    space: Path,
    as_json: bool,
) -> None:
    """Do what the command line asks for.

    given: fields of TrainingRequest; empty ones were not given. mode: fields of ModeOptions.
    """
    given = {field: value for field, value in given.items() if value}
    chosen = build(ModeOptions, mode)
    if chosen.base_config and not chosen.dry_run:
        raise BadInput("--base-config has no weights to train: give --dry-run with it.")
    if chosen.resume:
        # The run's own recipe gives all other settings.
        named = [*options_in(given), *options_in({k: v for k, v in mode.items() if k != "resume"})]
        if named:
            raise BadInput(f"A resumed training keeps its recipe: leave out {named[0]}.")
        loading = given.get("loading") or {}
        assert isinstance(loading, Mapping)
        resume_run(chosen.resume, name=kind, loading=loading, as_json=as_json)
        return
    from ui.cli.jobs import enqueue_run

    request = request_for(kind, given, chosen.recipe)
    if chosen.recipe and "base" not in given and not chosen.base_config:
        from studio.bases.resolve import refuse_download  # this imports the hub's client

        refuse_download(request.base, f"The recipe {chosen.recipe}")
    if chosen.dry_run:
        count_run(request, config=chosen.base_config, as_json=as_json)
    elif chosen.queue:
        enqueue_run(open_workspace(space), request, as_json=as_json)
    else:
        own_out = chosen.recipe is None or "out" in given
        start_run(request if own_out else keep_out_here(request), as_json=as_json)


for _name, _kind in trainers.kinds().items():
    app.command(
        _name,
        help=(_kind.__doc__ or "").split("Raises")[0].strip(),
        epilog=f'Example: studio train {_name} photos/ --trigger "a sks robot" --steps 400',
    )(train_command(_name, _kind))
