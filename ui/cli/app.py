"""The `studio` program: its commands in order, and its exit codes.

Each command is a module of this package or of its folders. None of them imports PyTorch at the top,
so that `studio --help` answers at once: a command imports what it needs when it runs.
"""

import signal
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from studio.errors import BadInput, Stopped, disk_refusal
from studio.out_of_memory import is_out_of_memory
from studio.requests.shot_recipe import versions
from ui.cli import demo, jobs, web
from ui.cli.adapters import convert, inspect, profile, resize
from ui.cli.drawing import batch, generate, schedule
from ui.cli.training import align, caption, distill, grid, sweep, train

NO_MEMORY = (
    "there was not enough memory: choose a smaller size or batch, open the base with --low-memory, "
    "or close other programs. A training goes on from its last checkpoint with --resume"
)

app = typer.Typer(
    name="studio",
    help="Teach a diffusion model a subject or a style, and mix what it has learned.",
    epilog="Example: studio demo; each command's --help has one too.",
    no_args_is_help=True,
    add_completion=False,
)
TRAINING = (caption, train, align, distill, sweep, grid)
DRAWING = (generate, batch, schedule)
ADAPTERS = (inspect, convert, profile, resize)


def show_versions(wanted: bool) -> None:
    """Print the versions of Studio and of the libraries, and exit."""
    if wanted:
        print(", ".join(f"{name} {number}" for name, number in versions().items()))
        raise typer.Exit


@app.callback()
def root(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=show_versions, help="Show the versions."),
    ] = False,
) -> None:
    """The options of `studio` itself."""


for command in (*TRAINING, *DRAWING, *ADAPTERS, web, jobs, demo):
    app.add_typer(command.app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 2 bad input, 130 stopped by the user, 1 anything else."""
    # SIGTERM stops a command as Ctrl-C does, so that a training writes its checkpoint.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        typer.main.get_command(app)(arguments, prog_name="studio")
    except BadInput as error:
        _exit(str(error), code=2)
    except Stopped as stopped:
        _exit(str(stopped), code=130)
    except OSError as error:
        refusal = disk_refusal(error)
        if refusal is None:
            raise
        _exit(str(refusal), code=2)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        _exit(NO_MEMORY, code=1)


def _exit(message: str, *, code: int) -> None:
    sentence = message if message.endswith("?") else f"{message.rstrip('.')}."
    print(f"studio: {sentence}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
