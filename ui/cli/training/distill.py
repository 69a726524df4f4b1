"""`studio distill`: train an adapter that makes a base fast, as `studio train` trains others."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import typer

import trainers
from studio.requests.validation import option
from studio.workspace import DEFAULT_FOLDER
from ui.cli.options import BASES, LOADING, AdapterFiles, AsJson, WorkspaceFolder, parse_adapters
from ui.cli.training.train import BY_BASE, KindFromRecipe, ModeOptions, run_training
from ui.shared.form import Form, with_options

app = typer.Typer(
    cls=KindFromRecipe,
    name="distill",
    help="Train an adapter that makes a base fast. It learns from the base; no pictures needed.",
    epilog="Example: studio distill lcm --base sketch --out fast.safetensors",
    no_args_is_help=True,
)


@dataclass(frozen=True)
class DistillOptions:
    """The fields of TrainingRequest that are options of the command."""

    base: str | None = option(None, f"base model: {BASES} Default: sketch")
    prompts: Path | None = option(
        None, "file with a prompt a line, or folder with captions; default: sketch's own, for it"
    )
    out: Path | None = option(None, "the adapter's file; default: KIND-of-BASE.safetensors")
    run: Path | None = option(None, "folder of this training; default: runs/KIND-NUMBER")
    init: str | None = option(None, "start from this adapter of the same kind")


def distill_command(name: str, kind: type[trainers.Kind]) -> Callable[..., None]:
    """The command that trains distillations of this kind."""

    @with_options(
        {
            "request": Form(of=DistillOptions, title="Options"),
            "mode": Form(of=ModeOptions, title="Options"),
            "options": Form(of=kind, title=f"Options of {name}"),
            "training": Form(
                of=trainers.Recipe, title="Training", without=kind.unused, defaults=BY_BASE
            ),
            "loading": LOADING,
        }
    )
    def distill(
        *,
        adapter: AdapterFiles = None,
        workspace: WorkspaceFolder = DEFAULT_FOLDER,
        as_json: AsJson = False,
        request: Mapping[str, object],
        mode: Mapping[str, object],
        options: Mapping[str, object],
        training: Mapping[str, object],
        loading: Mapping[str, object],
    ) -> None:
        given: dict[str, object] = {
            **request,
            "adapters": parse_adapters(adapter),
            "options": options,
            "recipe": training,
            "loading": loading,
        }
        given = {field: value for field, value in given.items() if value}
        run_training(name, given, mode, space=workspace, as_json=as_json)

    return distill


for _name, _kind in trainers.distillation_kinds().items():
    app.command(
        _name,
        help=(_kind.__doc__ or "").strip(),
        epilog=f"Example: studio distill {_name} --base sketch --adapter ink.safetensors:0.8",
    )(distill_command(_name, _kind))
