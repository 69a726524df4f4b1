"""`studio grid`: the checkpoints of a run at several strengths, on one contact sheet."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import compose
import trainers
from studio.errors import BadInput
from studio.files import atomic_write, check_writable
from studio.requests.recipe import draft
from studio.requests.training import read_request
from ui.cli.options import LOADING, AsJson
from ui.shared.checkpoint_grid import CheckpointShot, checkpoint_grid, checkpoint_table
from ui.shared.form import with_options
from ui.shared.labelled_sheet import CELL, cropped, draw_table
from ui.shared.loading import open_base
from ui.shared.terminal import print_note, print_outcome, progress_bars

if TYPE_CHECKING:
    from PIL.Image import Image

STRENGTHS = (0.5, 0.75, 1.0)


def grid_of_run(
    run: str | Path,
    *,
    strengths: Sequence[float] = STRENGTHS,
    prompts: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    steps: Sequence[int] = (),
) -> list[CheckpointShot]:
    """The shots of a run's grid, row by row.

    prompts: by default the run's own sample prompts, or its trigger. steps: of the checkpoints to
    compare, by default all; the finished adapter counts as one.
    Raises BadInput if the run has no checkpoint, or none of one of these steps, and for shots that
    can't be made.
    """
    checkpoints = trainers.checkpoints(run)
    if missing := [step for step in steps if step not in checkpoints]:
        known = ", ".join(map(str, checkpoints))
        raise BadInput(f"{run} has no checkpoint of step {missing[0]}; there are {known}.")
    cells = checkpoint_grid(
        {step: file for step, file in checkpoints.items() if not steps or step in steps},
        base=trainers.base_of(run)["source"],
        strengths=list(dict.fromkeys(strengths)),
        prompts=list(dict.fromkeys(prompts or _own_prompts(run))),
        seeds=list(dict.fromkeys(seeds)),
    )
    for cell in cells:
        cell.shot.check()
    return cells


def _own_prompts(run: str | Path) -> tuple[str, ...]:
    request = read_request(run)
    return draft(request.recipe).sample_prompts or (request.trigger,)


def write_grid(
    run: Path,
    cells: Sequence[CheckpointShot],
    *,
    loading: Mapping[str, object],
    out: Path,
    as_json: bool,
) -> None:
    """Render the cells of a run on its base, and write the sheet."""
    check_writable(out)
    then = trainers.base_of(run)
    base = open_base(then.pop("source"), then | dict(loading))
    pictures: dict[int, Image] = {}
    with progress_bars() as shown:
        task = shown.add_task("Rendering", total=len(cells))
        for event in compose.render_many(base, [cell.shot for cell in cells]):
            if isinstance(event, compose.Made):
                pictures[event.number] = cropped(event.picture, CELL)
            else:
                print_note(f"Step {cells[event.number].step}: {event.reason}")
            shown.advance(task)
    if not pictures:
        raise BadInput(f"none of the {len(cells)} pictures can be rendered")
    prompts = {cell.shot.prompt for cell in cells}
    note = cells[0].shot.prompt if len(prompts) == 1 else f"{len(prompts)} prompts"
    note += f"  ·  base {base.name}"
    sheet = draw_table(run.resolve().name, checkpoint_table(cells), pictures, note=note)
    with atomic_write(out) as part:
        sheet.save(part, "PNG")
    failed = len(cells) - len(pictures)
    facts = {"sheet": str(out), "pictures": len(pictures), "failed": failed}
    print_outcome("Grid", facts, as_json=as_json, shown={"failed": failed or None})


app = typer.Typer()


@app.command(epilog="Example: studio grid runs/lora-1 --strength 0.6 --strength 1 --seed 7")
@with_options({"loading": LOADING})
def grid(
    run: Annotated[Path, typer.Argument(help="The training's folder.")],
    *,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="Prompt; may be given several times. Default: the run's sample prompts."),
    ] = None,
    strength: Annotated[
        list[float] | None,
        typer.Option(help="A column for each strength. Default: 0.5, 0.75 and 1."),
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="A seed; may be given several times. Default: 0.")
    ] = None,
    step: Annotated[
        list[int] | None, typer.Option(help="Checkpoint to draw, by its step. Default: all.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The sheet's file. Default: RUN/grid.png.")
    ] = None,
    as_json: AsJson = False,
    loading: Mapping[str, object],
) -> None:
    """Draw a run's checkpoints at several strengths on one sheet, to choose from."""
    cells = grid_of_run(
        run,
        strengths=strength or STRENGTHS,
        prompts=prompt or (),
        seeds=seed or (0,),
        steps=step or (),
    )
    write_grid(run, cells, loading=loading, out=out or run / "grid.png", as_json=as_json)
