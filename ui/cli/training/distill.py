"""`studio distill`, and the code it shares with `studio align`: training from prompts alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import typer

import trainers
from studio.requests.validation import option
from studio.workspace import DEFAULT_FOLDER
from ui.cli.options import BASES, LOADING, AdapterFiles, AsJson, WorkspaceFolder, parse_adapters
from ui.cli.training.train import BY_BASE, KindFromRecipe, ModeOptions, run_training
from ui.shared.form import Form, with_options


@dataclass(frozen=True)
class PromptOptions:
    """The fields of TrainingRequest that are options of the command."""

    base: str | None = option(None, f"base model: {BASES} Default: sketch")
    prompts: Path | None = option(
        None,
        "file with one prompt a line, or folder with captions; default: for sketch its own prompts",
    )
    out: Path | None = option(None, "the adapter's file; default: KIND-of-BASE.safetensors")
    run: Path | None = option(None, "folder of this training; default: runs/KIND-NUMBER")
    init: str | None = option(None, "start from this adapter of the same kind")


def prompt_command(name: str, kind: type[trainers.Kind]) -> Callable[..., None]:
    """The command that trains this kind."""
    of_lora = frozenset(one.name for one in fields(trainers.LoRA))

    @with_options(
        {
            "request": Form(of=PromptOptions, title="Options"),
            "mode": Form(of=ModeOptions, title="Options"),
            "options": {
                "own": Form(of=kind, title=f"Options of {name}", without=of_lora),
                "lora": Form(of=trainers.LoRA, title="The LoRA"),
            },
            "training": Form(
                of=trainers.Recipe, title="Training", without=kind.unused, defaults=BY_BASE
            ),
            "loading": LOADING,
        }
    )
    def train(
        *,
        adapter: AdapterFiles = None,
        workspace: WorkspaceFolder = DEFAULT_FOLDER,
        as_json: AsJson = False,
        request: Mapping[str, object],
        mode: Mapping[str, object],
        options: Mapping[str, Mapping[str, object]],
        training: Mapping[str, object],
        loading: Mapping[str, object],
    ) -> None:
        given = {
            **request,
            "adapters": parse_adapters(adapter),
            "options": {**options["lora"], **options["own"]},
            "recipe": training,
            "loading": loading,
        }
        run_training(name, given, mode, space=workspace, as_json=as_json)

    return train


def add_commands(app: typer.Typer, kinds: Mapping[str, type[trainers.Kind]], example: str) -> None:
    """Add a command for each of these kinds. example: with {} in the place of the kind's name."""
    for name, kind in kinds.items():
        summary, epilog = (kind.__doc__ or "").strip(), f"Example: {example.format(name)}"
        app.command(name, help=summary, epilog=epilog)(prompt_command(name, kind))


app = typer.Typer(
    cls=KindFromRecipe,
    name="distill",
    help="Train an adapter that makes a base fast. It learns from the base; no pictures needed.",
    epilog="Example: studio distill lcm --base sketch --out fast.safetensors",
    no_args_is_help=True,
)
add_commands(
    app,
    trainers.distillation_kinds(),
    example="studio distill {} --base sketch --adapter ink.safetensors:0.8",
)
