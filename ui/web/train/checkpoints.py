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
from studio.requests.shot import Shot
from studio.workspace import (
    AdapterFile,
    PictureFile,
    Workspace,
    add_adapter,
    clean_name,
    get_run,
    list_checkpoints,
    thumbnail,
)
from ui.shared.checkpoint_grid import checkpoint_grid
from ui.shared.queue_requests import drawing_of, made_pictures, queue_pictures
from ui.web.server.torch_process import run_in_process

MOST = 64  # pictures in a grid
LOOKED = 30  # batches among which a grid is looked for


@dataclass(frozen=True)
class Cell:
    """A picture of a grid. step: of its checkpoint; 0 for what the training ended with."""

    step: int
    strength: float
    picture: PictureFile


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
    run = space.runs / job.run
    for batch in list_jobs(space, kinds=("batch",), limit=LOOKED):
        adapters = drawing_of(batch).shot(0).adapters
        if len(adapters) == 1 and Path(str(adapters[0][0])).is_relative_to(run):
            return batch
    return None


def drawn(space: Workspace, grid: Job) -> list[Cell]:
    """The cells whose pictures are drawn and are still there, row by row."""
    made = made_pictures(space, grid)
    return [Cell(*_adapter_of(shot), picture) for _, shot, picture in made]


def columns(grid: Job) -> int:
    """How many strengths there are."""
    return len({_adapter_of(shot)[1] for shot in drawing_of(grid).all_shots()})


def pictures(space: Workspace, found: Sequence[Cell], *, total: int) -> list[tuple[str, str]]:
    """Thumbnails of cells that are drawn, with what they show."""
    return [(str(thumbnail(space, cell.picture.id)), caption(cell, total)) for cell in found]


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


def _adapter_of(shot: Shot) -> tuple[int, float]:
    """Of a cell's one adapter: the step of its checkpoint, 0 for the last one, and its strength."""
    ((file, strength),) = shot.adapters
    folder = Path(str(file)).parent.name
    return int(folder.removeprefix("step-")) if folder.startswith("step-") else 0, strength
