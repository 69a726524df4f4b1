"""A training's checkpoints side by side: a grid of checkpoints by strengths, and the one to keep.

The grid is a batch in the queue like any other; which pictures belong to which training stands in
the batch's shots, so that a reload finds it again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from studio.errors import BadInput
from studio.queue.client import list_jobs
from studio.queue.job import Job
from studio.workspace import (
    AdapterFile,
    Workspace,
    add_adapter,
    clean_name,
    get_picture,
    get_run,
    list_checkpoints,
    thumbnail,
)
from ui.shared.checkpoint_grid import checkpoint_grid
from ui.shared.queue_requests import drawing_of, queue_pictures
from ui.web.server.adapter_process import run_in_process

MOST = 64  # pictures in a grid
LOOKED = 30  # batches among which a grid is looked for


@dataclass(frozen=True)
class Cell:
    """One of a grid. picture: its id; None while it is not drawn."""

    step: int
    strength: float
    picture: str | None


def checkpoints(space: Workspace, job: Job) -> dict[int, Path]:
    """The adapters of a training by their steps, its last one among them."""
    try:
        found = {one.step: one.adapter for one in list_checkpoints(space, job.run)}
        final = get_run(space, job.run) / "adapter.safetensors"
    except BadInput:  # nothing was made yet
        return {}
    return found | ({job.total: final} if final.is_file() else {})


def draw_grid(
    space: Workspace,
    job: Job,
    *,
    steps: Sequence[int],
    strengths: Sequence[float],
    prompt: str,
    seed: int,
) -> Job:
    """Queue a picture for each checkpoint, a row, at each strength, a column. Raises BadInput."""
    there = checkpoints(space, job)
    chosen = [step for step in sorted(steps) if step in there]
    if not chosen or not strengths:
        raise BadInput("choose the checkpoints to compare, and give a strength")
    if len(chosen) * len(strengths) > MOST:
        raise BadInput(
            f"{len(chosen)} checkpoints at {len(strengths)} strengths are "
            f"{len(chosen) * len(strengths)} pictures, and {MOST} are the most: choose fewer"
        )
    files, arguments = {step: there[step] for step in chosen}, cast("Any", job.arguments)
    cells = checkpoint_grid(
        files, base=arguments["base"], strengths=strengths, prompts=[prompt], seeds=[seed]
    )
    shots = [cell.shot for cell in cells]
    return queue_pictures(space, shots, kind="batch", loading=arguments["loading"])


def latest_grid(space: Workspace, job: Job) -> Job | None:
    """The last grid of a training's checkpoints; None where none was asked for."""
    run = str(space.runs / job.run)
    batches = list_jobs(space, kinds=("batch",), limit=LOOKED)
    return next((one for one in batches if _adapter(one, 0)[0].startswith(f"{run}/")), None)


def cells(grid: Job) -> list[Cell]:
    """The cells of a grid, row by row; each row is a checkpoint."""
    return [
        Cell(_step(grid, n), _adapter(grid, n)[1], _result(grid, n))
        for n in range(len(drawing_of(grid).shots))
    ]


def drawn(space: Workspace, grid: Job) -> list[Cell]:
    """The cells whose pictures are drawn and are still there."""
    return [cell for cell in cells(grid) if cell.picture and _is_there(space, cell.picture)]


def pictures(space: Workspace, found: Sequence[Cell], *, total: int) -> list[tuple[str, str]]:
    """Thumbnails of cells that are drawn, with what they show."""
    return [(str(thumbnail(space, cell.picture or "")), caption(cell, total)) for cell in found]


def caption(cell: Cell, total: int) -> str:
    """The caption under a cell: its step and its strength."""
    step = f"step {cell.step or total}"
    return f"{step}, {cell.strength:g}"


def keep(space: Workspace, job: Job, *, step: int, strength: float) -> AdapterFile:
    """Put a checkpoint into the library as an adapter that is at strength 1 what it is at this.

    Takes seconds for a strength other than 1. Raises BadInput where there is no such checkpoint.
    """
    there = checkpoints(space, job)
    step = step or job.total
    if step not in there:
        raise BadInput(f"the checkpoint of step {step} is no longer there")
    name = clean_name(str(job.arguments["name"])[:90], otherwise="adapter")
    if step != job.total:
        name = f"{name} step {step}"
    if strength == 1:
        return add_adapter(space, there[step], name=name)
    return run_in_process(_add_scaled, space, there[step], strength, f"{name} at {strength:g}")


def _add_scaled(space: Workspace, file: Path, strength: float, name: str) -> AdapterFile:
    from studio.adapters.load import load_adapter  # PyTorch with it
    from studio.adapters.rescale import scale_adapter

    with TemporaryDirectory(dir=space.cache) as scratch:
        scaled = scale_adapter(load_adapter(file), strength)
        return add_adapter(space, scaled.save(Path(scratch) / "scaled.safetensors"), name=name)


def _adapter(grid: Job, number: int) -> tuple[str, float]:
    """File and strength of the one adapter of a shot; an empty name where it has not one."""
    adapters = drawing_of(grid).shot(number).adapters
    return (str(adapters[0][0]), adapters[0][1]) if len(adapters) == 1 else ("", 0.0)


def _step(grid: Job, number: int) -> int:
    """Of the checkpoint; 0 for the adapter that the training ended with."""
    folder = Path(_adapter(grid, number)[0]).parent.name
    return int(folder.removeprefix("step-")) if folder.startswith("step-") else 0


def _result(grid: Job, number: int) -> str | None:
    return (grid.results[number] or None) if number < len(grid.results) else None


def _is_there(space: Workspace, picture: str) -> bool:
    try:
        return get_picture(space, picture).path.is_file()
    except BadInput:
        return False
