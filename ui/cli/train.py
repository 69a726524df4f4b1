"""`studio train`: train an adapter, with progress bars; Ctrl-C stops it with a checkpoint."""

import shlex
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer.core import TyperGroup

import trainers
from studio.errors import BadInput, Stopped
from studio.requests.training import TrainingRequest, read_request
from studio.workspace import DEFAULT_FOLDER, open_workspace
from trainers import Drawn, Encoded, Finished, Progress, Sampled, Saved, Started, Step
from ui.cli.options import LOADING, AsJson, OptionalBase, WorkspaceFolder
from ui.shared.form import Form, with_options
from ui.shared.launched_processes import process_group
from ui.shared.loading import command_options, open_base
from ui.shared.names import parse_folder
from ui.shared.terminal import print_facts, print_json, print_note, progress_bars
from ui.shared.train_request import complete, options_in, request_for
from ui.shared.training_run import SMOOTHED, draw_with, stopping

if TYPE_CHECKING:
    from studio.bases.base import Base

__all__ = [
    "Trained",
    "app",
    "count_run",
    "follow",
    "resume_run",
    "start_run",
]


@dataclass(frozen=True)
class Trained:
    """How a training went. loss: the mean of the last steps; None if none was taken."""

    started: Started
    finished: Finished
    loss: float | None


def start_run(request: TrainingRequest, *, as_json: bool) -> None:
    """Train from the start, or as a recipe says."""
    request = complete(request)
    # All that can be known without the base, before the long work of opening it.
    pictures = trainers.check(request)
    again = f"studio train {request.kind} {command_options(request.loading)}--resume"
    with process_group(request.loading.get("device", "auto")):
        base = open_base(request.base, request.loading)
        progress = trainers.run_request(request, base, draw=draw_with(base), pictures=pictures)
        expected = _estimate(request, base, pictures=len(pictures.examples))
        print_note(f"This will take {expected}.")
        trained = follow(progress, said=f"Training {request.trigger!r}", resume_with=again)
        _report(trained, as_json=as_json)


def count_run(request: TrainingRequest, *, config: str | None, as_json: bool) -> None:
    """Say what would be trained. config: a real configuration, without weights, for the base."""
    from studio.bases.real_config import real_config  # PyTorch with it

    if config:
        base = real_config(config, dtype=str(request.loading.get("dtype", "auto")))
    else:
        base = open_base(request.base, request.loading)
    text_encoders = bool(request.recipe.get("text_encoders"))
    counted = trainers.count(trainers.kind_of(request), base, text_encoders=text_encoders)
    estimate = _estimate(request, base)
    facts = asdict(counted)
    if as_json:
        print_json(facts | {"estimate": asdict(estimate)})
        return
    more = facts.pop("facts")
    numbers = {key: f"{facts[key]:,}" for key in ("weights", "layers", "parameters")}
    share = {"share": f"{counted.parameters / counted.weights:.3%}"}
    taking = {"taking": str(estimate)}
    print_facts(f"{request.kind} would train", facts | numbers | share | taking | more)


def _estimate(request: TrainingRequest, base: "Base", *, pictures: int = 0) -> "trainers.Estimate":
    runs = request.run.parent if request.run else "runs"
    return trainers.estimate_request(request, base, pictures=pictures, runs=runs)


def resume_run(run: Path, *, name: str, loading: Mapping[str, object], as_json: bool) -> None:
    """Go on with a training that was stopped."""
    then = trainers.base_of(run)
    again = f"studio train {name} {command_options(loading)}--resume"
    with process_group(loading.get("device", "auto")):
        opened = open_base(then.pop("source"), then | dict(loading))
        progress = trainers.resume(run, opened, kind=name, draw=draw_with(opened))
        _report(follow(progress, said="Going on", resume_with=again), as_json=as_json)


def follow(
    progress: Generator[Progress, None, None], *, said: str, resume_with: str = ""
) -> Trained:
    """Show a training until it ends.

    The first Ctrl-C or SIGTERM ends it after the step at hand and raises Stopped when its
    checkpoint is written; a second one ends it at once. resume_with: the command that, with the
    run's folder behind it, goes on with this training; said to who stops it.
    """
    started: Started | None = None
    losses: deque[float] = deque(maxlen=SMOOTHED)
    with stopping() as asked, closing(progress), progress_bars("loss") as shown:
        drawing = shown.add_task("Drawing the class", total=None, visible=False, loss="")
        encoding = shown.add_task("Encoding", total=None, visible=False, loss="")
        training = shown.add_task(said, total=None, loss="")
        for event in progress:
            match event:
                case Started():
                    started = event
                    _introduce(event)
                    shown.update(training, total=event.steps, completed=event.done)
                case Drawn():
                    visible = event.done < event.total
                    shown.update(drawing, total=event.total, completed=event.done, visible=visible)
                case Encoded():
                    visible = event.done < event.total
                    shown.update(encoding, total=event.total, completed=event.done, visible=visible)
                case Step():
                    losses.append(event.loss)
                    loss = f"loss {fmean(losses):.4f}"
                    shown.update(training, completed=event.step, loss=loss)
                case Sampled():
                    print_note(f"Step {event.step}: samples in {event.paths[0].parent}")
                case Saved():
                    print_note(f"Step {event.step}: checkpoint in {event.path}")
                case Finished():
                    assert started  # it is what a training says first
                    return Trained(started, event, fmean(losses) if losses else None)
            if asked():
                break
    if started and resume_with:
        print_note(f"Go on with: {resume_with} {shlex.quote(str(started.run))}")
    if not losses:
        raise Stopped("the training was stopped before its first step.")
    raise Stopped(f"the training was stopped{', its checkpoint is written' * bool(resume_with)}.")


def _introduce(started: Started) -> None:
    for skipped in started.skipped:
        print_note(f"Skipped {skipped.path}: {skipped.reason}")
    for said in started.remarks:
        print_note(said)
    after = f", going on after step {started.done}" if started.done else ""
    pictures = "1 picture" if started.examples == 1 else f"{started.examples} pictures"
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
        "parameters": started.parameters,
        "pictures": started.examples,
        "skipped": [{"path": str(one.path), "reason": one.reason} for one in started.skipped],
    }
    if as_json:
        print_json(facts)
        return
    names = ", ".join(one.path.name for one in started.skipped)
    facts["loss"] = None if trained.loss is None else f"{trained.loss:.4f}"
    facts["skipped"] = f"{len(started.skipped)} ({names})" if started.skipped else None
    print_facts("Trained", facts)


class KindFromRecipe(TyperGroup):
    """`studio train --recipe FILE` trains the kind that the recipe names."""

    def parse_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, ctx: typer.Context, args: list[str]
    ) -> list[str]:
        file = _recipe_file(args)
        if file and args[0] not in self.list_commands(ctx):
            args = [read_request(file).kind, *args]
        return super().parse_args(ctx, args)


def _recipe_file(args: Sequence[str]) -> str | None:
    """The file behind --recipe."""
    for option, following in zip(args, [*args[1:], ""], strict=True):
        if option == "--recipe" or option.startswith("--recipe="):
            return option.partition("=")[2] or following
    return None


app = typer.Typer(
    cls=KindFromRecipe,
    name="train",
    help="Train an adapter on a folder of pictures.",
    epilog="Example: studio train --recipe runs/lora-1/recipe.toml --lr 5e-4",
    no_args_is_help=True,
)
# The defaults of these depend on the base and the kind: see trainers.recipe_for.
BY_BASE: Mapping[str, str] = dict.fromkeys(
    ("steps", "batch", "lr", "accumulation", "schedule"), "by base and kind"
)


def train_command(name: str, kind: type) -> Callable[..., None]:
    """The command that trains adapters of this kind."""

    @with_options(
        {
            "options": Form(of=kind, title=f"Options of {name}"),
            "recipe": Form(of=trainers.Recipe, title="Training", defaults=BY_BASE),
            "loading": LOADING,
        }
    )
    def train(
        pictures: Annotated[
            list[str] | None,
            typer.Argument(
                metavar="PICTURES[:WEIGHT]",
                help="Folders of pictures; captions in .txt files or metadata.jsonl. Those of a "
                "sub-folder such as '10_sks robot' come ten times a round, and a folder's weight "
                "says how often its pictures come beside others.",
            ),
        ] = None,
        *,
        trigger: Annotated[
            str | None, typer.Option(help='What to call it in prompts, such as "a sks robot".')
        ] = None,
        base: OptionalBase = None,
        out: Annotated[
            Path | None, typer.Option(help="Adapter file; TRIGGER.safetensors if not given.")
        ] = None,
        run: Annotated[
            Path | None,
            typer.Option(help=f"Folder of this training; runs/{name}-NUMBER if not given."),
        ] = None,
        prior_pictures: Annotated[
            Path | None,
            typer.Option(help="Folder of class pictures; one in the run's if not given."),
        ] = None,
        init: Annotated[
            str | None,
            typer.Option(metavar="FILE[:HALF]", help="Start from this adapter's numbers."),
        ] = None,
        recipe_file: Annotated[
            Path | None,
            typer.Option(
                "--recipe",
                help="Repeat the training of this recipe.toml, but for the options given.",
            ),
        ] = None,
        resume: Annotated[
            Path | None, typer.Option(help="Go on with the stopped training in this folder.")
        ] = None,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Only say how much would be trained.")
        ] = False,
        base_config: Annotated[
            Literal["sd15", "sd21", "sdxl"] | None,
            typer.Option(help="With --dry-run: a real model's layers, without its weights."),
        ] = None,
        queue: Annotated[
            bool, typer.Option("--queue", help="Let a worker do it; its adapter joins the library.")
        ] = False,
        workspace: WorkspaceFolder = DEFAULT_FOLDER,
        as_json: AsJson = False,
        options: Mapping[str, object],
        recipe: Mapping[str, object],
        loading: Mapping[str, object],
    ) -> None:
        from ui.cli.jobs import enqueue_run

        if base_config and not dry_run:
            raise BadInput("--base-config has no weights to train: give --dry-run with it.")
        fields = {
            "pictures": [parse_folder(text) for text in pictures or ()],
            "trigger": trigger,
            "base": base,
            "out": out,
            "run": run,
            "prior_pictures": prior_pictures,
            "init": init,
            "options": options,
            "recipe": recipe,
            "loading": loading,
        }
        given = {field: value for field, value in fields.items() if value}
        if resume:
            # What it learns from and how is in the run's own recipe.
            others = {"--recipe": recipe_file, "--dry-run": dry_run, "--queue": queue}
            named = [*options_in(given), *(option for option, on in others.items() if on)]
            if named:
                raise BadInput(f"A resumed training keeps its recipe: leave out {named[0]}.")
            resume_run(resume, name=name, loading=loading, as_json=as_json)
            return
        request = request_for(name, given, recipe_file)
        if dry_run:
            count_run(request, config=base_config, as_json=as_json)
        elif queue:
            enqueue_run(open_workspace(workspace), request, as_json=as_json)
        else:
            start_run(request, as_json=as_json)

    return train


for _name, _kind in trainers.kinds().items():
    app.command(
        _name,
        help=(_kind.__doc__ or "").split("Raises")[0].strip(),
        epilog=f'Example: studio train {_name} photos/ --trigger "a sks robot" --steps 400',
    )(train_command(_name, _kind))
