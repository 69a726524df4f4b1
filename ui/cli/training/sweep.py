"""`studio sweep`: many trainings from one file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from ui.cli.options import LOADING, AsJson, RayAddress
from ui.shared.form import with_options

app = typer.Typer()


@app.command(epilog="Example: studio sweep rates.toml --out runs/rates")
@with_options({"loading": LOADING})
def sweep(
    file: Annotated[
        Path, typer.Argument(help="A recipe.toml in which lists give several values to try.")
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the run folders. Default: runs/ and the file's name."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Finish the sweep that is in that folder.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and show the cost. Train nothing.")
    ] = False,
    ray: RayAddress = None,
    as_json: AsJson = False,
    loading: Mapping[str, object],
) -> None:
    """Run the trainings of a file, one for each combination of its values.

    Exit codes: 0 all are finished, 1 some failed, 2 the file has mistakes.
    """
    from ui.sweep.runner import plan_sweep, print_cost, run_sweep

    plan = plan_sweep(file, out, loading, resume=resume or dry_run)
    if dry_run:
        print_cost(plan, as_json=as_json)
    elif code := run_sweep(plan, ray=ray, as_json=as_json):
        raise typer.Exit(code)
