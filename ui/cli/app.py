"""The command line.

Importing this file imports no PyTorch: `studio --help` answers at once, and what a command needs
is imported when it runs.
"""

import errno
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer.core import TyperGroup

import compose
import trainers
from studio.errors import BadInput, Stopped
from studio.requests.shot import Shot
from studio.workspace import DEFAULT_FOLDER, display_name, open_workspace
from ui.shared.form import Form, with_options
from ui.shared.loading import Loading
from ui.shared.names import adapter_and_strength, folder_and_weight

__all__ = ["app", "main"]


class _Ordered(TyperGroup):
    """Commands in the order in which they are used."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # pyright: ignore[reportIncompatibleMethodOverride]
        order = (
            "train",
            "sweep",
            "grid",
            "generate",
            "batch",
            "schedule",
            "inspect",
            "convert",
            "profile",
        )
        order += ("ui", "jobs", "worker", "demo")
        return sorted(super().list_commands(ctx), key=order.index)


class _Kinds(TyperGroup):
    """`studio train --recipe FILE`: the kind is the recipe's, where none is named."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # pyright: ignore[reportIncompatibleMethodOverride]
        file = _recipe_in(args)
        if file and args[0] not in self.list_commands(ctx):
            args = [trainers.kind_of(file), *args]
        return super().parse_args(ctx, args)


def _recipe_in(args: Sequence[str]) -> str | None:
    """The file behind --recipe."""
    for option, following in zip(args, [*args[1:], ""], strict=True):
        if option == "--recipe" or option.startswith("--recipe="):
            return option.partition("=")[2] or following
    return None


app = typer.Typer(
    cls=_Ordered,
    name="studio",
    help="Teach a diffusion model a subject or a style, and mix what it has learned.",
    no_args_is_help=True,
    add_completion=False,
)
train_app = typer.Typer(
    cls=_Kinds,
    name="train",
    help="Train an adapter on a folder of pictures.",
    epilog="Example: studio train --recipe runs/lora-1/recipe.toml --lr 5e-4",
    no_args_is_help=True,
)
app.add_typer(train_app)
jobs_app = typer.Typer(name="jobs", help="See and steer what is queued.", no_args_is_help=True)
app.add_typer(jobs_app)

LOADING = Form(of=Loading, title="Base")
# Methods have options of the same names, and `seed` is the picture's too.
METHODS = {
    name: Form(of=method, title=f"Options of the method {name}", prefix=name)
    for name, method in compose.methods().items()
}
# Where a training starts from depends on the base and the kind: trainers.recipe_for.
BY_BASE: Mapping[str, str] = dict.fromkeys(
    ("steps", "batch", "lr", "accumulation", "schedule"), "by base and kind"
)
BASES = "sketch, sketch-sd1, a diffusers folder, a .safetensors file or a hub id."
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Source = Annotated[str, typer.Option(help=BASES)]
# Where a run or a picture may have named its base already.
SourceOrNone = Annotated[str | None, typer.Option(help=f"{BASES} sketch if not given.")]
Mixed = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE[:HALF][:STRENGTH]",
        help="An adapter, or a B-LoRA's half, content or style; may be given several times.",
    ),
]
InWorkspace = Annotated[Path, typer.Option("--workspace", help="Folder of all that is made.")]
JobNumber = Annotated[int, typer.Argument(help="Its number, as `studio jobs list` shows it.")]
MethodName = Annotated[
    str | None, typer.Option(help=f"How adapters are mixed: {', '.join(compose.methods())}.")
]
OnRay = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Have it done by a Ray cluster: HOST:PORT, or auto."),
]
# The system's word for a place that can't be written, or that is full.
PLACES = (
    errno.EACCES,
    errno.EDQUOT,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
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
        base: SourceOrNone = None,
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
        workspace: InWorkspace = DEFAULT_FOLDER,
        as_json: AsJson = False,
        options: Mapping[str, object],
        recipe: Mapping[str, object],
        loading: Mapping[str, object],
    ) -> None:
        from ui.cli.jobs import enqueue_run
        from ui.cli.train import count_run, resume_run, start_run
        from ui.cli.train_request import Asked

        if base_config and not dry_run:
            raise BadInput("--base-config has no weights to train: give --dry-run with it.")
        asked = Asked(
            kind=name,
            pictures=[folder_and_weight(text) for text in pictures or ()],
            trigger=trigger,
            base=base,
            out=out,
            run=run,
            prior_pictures=prior_pictures,
            init=init,
            options=options,
            recipe=recipe,
            loading=loading,
            file=recipe_file,
        )
        if resume:
            # What it learns from and how is in the run's own recipe.
            given = [*asked.given(), *["--dry-run"] * dry_run, *["--queue"] * queue]
            if given:
                raise BadInput(f"A resumed training keeps its recipe: leave out {given[0]}.")
            resume_run(resume, name=name, loading=loading, as_json=as_json)
        elif dry_run:
            count_run(asked, config=base_config, as_json=as_json)
        elif queue:
            enqueue_run(open_workspace(workspace), asked, as_json=as_json)
        else:
            start_run(asked, as_json=as_json)

    return train


for _name, _kind in trainers.kinds().items():
    train_app.command(
        _name,
        help=(_kind.__doc__ or "").split("Raises")[0].strip(),
        epilog=f'Example: studio train {_name} photos/ --trigger "a sks robot" --steps 400',
    )(train_command(_name, _kind))


@app.command(epilog="Example: studio sweep rates.toml --out runs/rates")
@with_options({"loading": LOADING})
def sweep(
    file: Annotated[Path, typer.Argument(help="A recipe.toml in which lists multiply.")],
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the runs' folders; runs/NAME OF THE FILE if not given."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the sweep in that folder.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check it all and tell the cost; nothing is trained.")
    ] = False,
    ray: OnRay = None,
    as_json: AsJson = False,
    loading: Mapping[str, object],
) -> None:
    """Do the trainings of a file: 0 all are finished, 1 some failed, 2 it has mistakes."""
    from ui.sweep.runner import make_sweep, plan_sweep, tell_sweep

    plan = plan_sweep(file, out, loading, resume=resume or dry_run)
    if dry_run:
        tell_sweep(plan, as_json=as_json)
    elif code := make_sweep(plan, ray=ray, as_json=as_json):
        raise typer.Exit(code)


@app.command(epilog="Example: studio grid runs/lora-1 --strength 0.6 --strength 1 --seed 7")
@with_options({"loading": LOADING})
def grid(
    run: Annotated[Path, typer.Argument(help="A training's folder.")],
    *,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="May be given several times; the run's own samples' if not given."),
    ] = None,
    strength: Annotated[
        list[float] | None, typer.Option(help="A column each; 0.5, 0.75 and 1 if not given.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="0 if not given.")] = None,
    step: Annotated[
        list[int] | None, typer.Option(help="Of a checkpoint; all of them if not given.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The sheet; RUN/grid.png if not given.")] = None,
    as_json: AsJson = False,
    loading: Mapping[str, object],
) -> None:
    """Draw a run's checkpoints at several strengths on one sheet, to choose from."""
    from ui.cli.grid import STRENGTHS, grid_of_run, write_grid

    cells = grid_of_run(
        run,
        strengths=strength or STRENGTHS,
        prompts=prompt or (),
        seeds=seed or (0,),
        steps=step or (),
    )
    write_grid(run, cells, loading=loading, out=out or run / "grid.png", as_json=as_json)


@app.command(
    epilog='Example: studio generate "a sks robot on the moon" --adapter robot.safetensors:0.8'
)
@with_options(
    {
        "shot": Form(
            of=Shot,
            title="Picture",
            without=frozenset({"prompt", "base", "adapters", "method", "init_image"}),
        ),
        "options": METHODS,
        "loading": LOADING,
    }
)
def generate(
    prompt: Annotated[str | None, typer.Argument(help="What the picture is to show.")] = None,
    *,
    like: Annotated[
        Path | None, typer.Option(help="Make this picture again, but for the options given.")
    ] = None,
    adapter: Mixed = None,
    method: MethodName = None,
    count: Annotated[int, typer.Option(min=1, help="Pictures, of rising seeds.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder, or one picture's .png.")] = Path("outputs"),
    base: SourceOrNone = None,
    init_image: Annotated[
        Path | None, typer.Option(help="Start from this picture; see --denoise.")
    ] = None,
    as_json: AsJson = False,
    shot: Mapping[str, object],
    options: Mapping[str, Mapping[str, object]],
    loading: Mapping[str, object],
) -> None:
    """Make pictures; each carries the recipe it can be made again from."""
    mix = tuple(adapter_and_strength(text) for text in adapter or ())
    given = {
        "prompt": prompt,
        "base": base,
        "adapters": mix or None,
        "method": _method(method, options),
        "init_image": init_image,
    }
    fields = dict(shot) | {name: value for name, value in given.items() if value is not None}

    from ui.cli.generate import Order, make_pictures

    order = Order(fields=fields, loading=loading, like=like, count=count, out=out)
    make_pictures(order, as_json=as_json)


@app.command(epilog="Example: studio batch faces.toml --out faces")
@with_options({"loading": LOADING})
def batch(
    file: Annotated[Path, typer.Argument(help="A manifest: .toml, .jsonl or .csv.")],
    *,
    out: Annotated[
        Path | None, typer.Option(help="Folder; outputs/NAME OF THE MANIFEST if not given.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the batch in that folder.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check it all and tell the cost; no picture is made.")
    ] = False,
    ray: OnRay = None,
    as_json: AsJson = False,
    loading: Mapping[str, object],
) -> None:
    """Make the pictures of a manifest: 0 all are there, 1 some failed, 2 it has mistakes."""
    from ui.batch.plan import plan_batch

    plan = plan_batch(file, out, resume=resume or dry_run)

    from ui.cli.batch import make_batch, tell_cost

    if dry_run:
        tell_cost(plan, loading=loading, as_json=as_json)
        return
    code = make_batch(plan, loading=loading, ray=ray, as_json=as_json)
    if code:
        raise typer.Exit(code)


@app.command(
    epilog="Example: studio schedule --adapter robot.safetensors --adapter ink.safetensors "
    "--method klora --out schedule.png"
)
@with_options({"options": METHODS, "loading": LOADING})
def schedule(
    *,
    adapter: Mixed = None,
    method: MethodName = None,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 25,
    out: Annotated[Path | None, typer.Option(help="Draw it into this .png.")] = None,
    base: Annotated[
        str | None,
        typer.Option(help=f"{BASES} Read for DoRA, and for which layers it has; not run."),
    ] = None,
    as_json: AsJson = False,
    options: Mapping[str, Mapping[str, object]],
    loading: Mapping[str, object],
) -> None:
    """Show which adapter changes which layers at which step, and what a picture costs."""
    mix = tuple(adapter_and_strength(text) for text in adapter or ())
    shot = Shot("", steps=steps, adapters=mix, method=_method(method, options))

    from ui.cli.schedule import show_schedule

    show_schedule(shot, base=base, loading=loading, out=out, as_json=as_json)


@app.command(epilog="Example: studio inspect robot.safetensors")
def inspect(
    file: Annotated[Path, typer.Argument(help="An adapter, or a picture made by Studio.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Say what an adapter or a picture is, with its recipe."""
    from ui.cli.inspect import show

    show(file, as_json=as_json)


@app.command(epilog="Example: studio convert robot.safetensors --to kohya")
def convert(
    file: Annotated[Path, typer.Argument(help="An adapter.")],
    *,
    to: Annotated[
        Literal["kohya", "diffusers", "lycoris", "embedding"],
        typer.Option(help="Whose names to write; embedding: the learned words alone."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The new file; FILE-FORMAT.safetensors if not given.")
    ] = None,
    halves: Annotated[
        bool, typer.Option("--halves", help="Write a B-LoRA as two: OUT-content and OUT-style.")
    ] = False,
    family: Annotated[
        Literal["sd1", "sd2", "sdxl"] | None,
        typer.Option(help="Of the base it was made for, where the file does not tell."),
    ] = None,
) -> None:
    """Write an adapter as other tools read it."""
    from ui.cli.convert import write_as, write_halves

    write = write_halves if halves else write_as
    name = display_name(file)
    write(file, to=to, family=family, out=out or file.with_name(f"{name}-{to}.safetensors"))


@app.command(epilog="Example: studio profile robot.safetensors ink.safetensors")
@with_options({"loading": LOADING})
def profile(
    files: Annotated[list[Path], typer.Argument(help="Adapters.")],
    *,
    base: Annotated[
        str | None, typer.Option(help=f"{BASES} The one that each was trained on if not given.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps of each picture.")] = 10,
    pictures: Annotated[int, typer.Option(min=1, help="Seeds that are drawn and averaged.")] = 2,
    as_json: AsJson = False,
    loading: Mapping[str, object],
) -> None:
    """Measure whether adapters add detail or smooth, and note it in their files for cmlora.

    Those that add detail lead early, those that smooth lead late. Only what a file says of itself
    is changed; a picture's recipe knows a file by all its bytes, so measure before drawing.
    """
    from ui.cli.profile import profile_files

    profile_files(
        files, base=base, steps=steps, pictures=pictures, loading=loading, as_json=as_json
    )


@app.command("ui", epilog="Example: studio ui")
def web(
    *,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than this machine's need --auth.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="Port; the first free one from 7860 on if not given.")
    ] = None,
    auth: Annotated[
        str | None,
        typer.Option(metavar="NAME:PASSWORD", envvar="STUDIO_AUTH", help="Ask for these first."),
    ] = None,
    browser: Annotated[bool, typer.Option("--browser", help="Open it in the browser.")] = False,
    workspace: InWorkspace = DEFAULT_FOLDER,
) -> None:
    """Train, mix and draw in the browser."""
    from ui.web.server.app import serve

    serve(open_workspace(workspace), host=host, port=port, auth=auth, inbrowser=browser)


@jobs_app.command("list", epilog="Example: studio jobs list")
def list_(
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="Those that ended long ago too.")
    ] = False,
    workspace: InWorkspace = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> None:
    """What runs, what waits and what became of the last."""
    from ui.cli.jobs import show_jobs

    show_jobs(open_workspace(workspace), everything=everything, as_json=as_json)


@jobs_app.command(epilog="Example: studio jobs show 3")
def show(
    job: JobNumber, *, workspace: InWorkspace = DEFAULT_FOLDER, as_json: AsJson = False
) -> None:
    """All about one job."""
    from ui.cli.jobs import show_job

    show_job(open_workspace(workspace), job, as_json=as_json)


@jobs_app.command(epilog="Example: studio jobs stop 3")
def stop(
    job: JobNumber, *, workspace: InWorkspace = DEFAULT_FOLDER, as_json: AsJson = False
) -> None:
    """Stop a job; a training keeps its checkpoint."""
    from ui.cli.jobs import steer

    steer("stop", open_workspace(workspace), job, as_json=as_json)


@jobs_app.command(epilog="Example: studio jobs resume 3")
def resume(
    job: JobNumber, *, workspace: InWorkspace = DEFAULT_FOLDER, as_json: AsJson = False
) -> None:
    """Go on with a job that was stopped, or failed, from where it was."""
    from ui.cli.jobs import steer

    steer("resume", open_workspace(workspace), job, as_json=as_json)


@jobs_app.command(epilog="Example: studio jobs remove 3")
def remove(
    job: JobNumber, *, workspace: InWorkspace = DEFAULT_FOLDER, as_json: AsJson = False
) -> None:
    """Strike a job from the list; the folder of a training goes to the trash."""
    from ui.cli.jobs import steer

    steer("remove", open_workspace(workspace), job, as_json=as_json)


@jobs_app.command(epilog="Example: studio jobs restore 3")
def restore(
    job: JobNumber, *, workspace: InWorkspace = DEFAULT_FOLDER, as_json: AsJson = False
) -> None:
    """Bring a removed job back."""
    from ui.cli.jobs import steer

    steer("restore", open_workspace(workspace), job, as_json=as_json)


@app.command(epilog="Example: studio worker --until-empty")
def worker(
    *,
    queue: Annotated[
        Literal["train", "render"] | None,
        typer.Option(help="Do only these jobs, in this very process; both if not given."),
    ] = None,
    until_empty: Annotated[
        bool, typer.Option("--until-empty", help="End when nothing is queued.")
    ] = False,
    parent: Annotated[
        int | None, typer.Option(hidden=True, help="End as soon as idle when this process is gone.")
    ] = None,
    workspace: InWorkspace = DEFAULT_FOLDER,
) -> None:
    """Do the jobs that are queued, until told to end."""
    from ui.worker.processes import run_worker, watch_workers

    space = open_workspace(workspace)
    if queue:
        run_worker(space, queue, until_empty=until_empty, parent=parent)
    else:
        watch_workers(space, until_empty=until_empty)


@app.command(epilog="Example: studio demo --out demo")
@with_options({"loading": LOADING})
def demo(
    *,
    base: Source = "sketch",
    out: Annotated[Path, typer.Option(help="Folder of adapters and sheet.")] = Path("demo"),
    as_json: AsJson = False,
    loading: Mapping[str, object],
) -> None:
    """Train a subject and a style, mix them, and draw it all on one contact sheet."""
    from ui.cli.demo import run_demo

    run_demo(base=base, out=out, loading=loading, as_json=as_json)


def _method(name: str | None, options: Mapping[str, Mapping[str, object]]) -> compose.Method | None:
    """The method that was asked for; BadInput for an option of another one."""
    for other, given in options.items():
        if given and other != name:
            option = f"--{other}-{next(iter(given)).replace('_', '-')}"
            chosen = f"not of {name}" if name else f"so give --method {other} with it"
            raise BadInput(f"{option} is an option of the method {other}, {chosen}.")
    return compose.method_named(name, options.get(name, {})) if name else None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 2 bad input, 130 stopped by the user, 1 anything else."""
    # A training that is told to end is to write its checkpoint, whoever tells it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        typer.main.get_command(app)(arguments, prog_name="studio")
    except BadInput as wrong:
        _leave(str(wrong), code=2)
    except Stopped as stopped:
        _leave(str(stopped), code=130)
    except OSError as error:
        if error.errno not in PLACES:
            raise
        _leave(f"{error.filename or 'the disk'}: {error.strerror}.", code=2)


def _leave(sentence: str, *, code: int) -> None:
    ended = sentence if sentence.endswith("?") else f"{sentence.rstrip('.')}."
    print(f"studio: {ended}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
