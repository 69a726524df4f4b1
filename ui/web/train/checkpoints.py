"""Draw a training's checkpoints at several strengths as a grid, and put one into the library.

The grid is a batch like any other. Its shots name the training's files, so that a reloaded page
finds the grid of a training again.
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
LOOKED = 30  # the latest batches, among which a training's grid is searched


@dataclass(frozen=True)
class Cell:
    """A picture of a grid. step: of its checkpoint; 0 for the training's final adapter."""

    step: int
    strength: float
    picture: PictureFile


def checkpoints(space: Workspace, job: Job) -> dict[int, Path]:
    """The files of a training's checkpoints and of its final adapter, by step."""
    try:
        files = {each.step: each.adapter for each in list_checkpoints(space, job.run)}
        final = get_run(space, job.run) / "adapter.safetensors"
    except BadInput:  # the training has not begun
        return {}
    return files | ({job.total: final} if final.is_file() else {})


def draw_grid(
    space: Workspace,
    job: Job,
    *,
    steps: Sequence[int],
    strengths: Sequence[float],
    prompt: str,
    seed: int,
) -> Job:
    """Queue a grid: a row for each checkpoint, a column for each strength.

    Raises BadInput where there is nothing to draw, and for more than MOST pictures.
    """
    existing = checkpoints(space, job)
    chosen = [step for step in sorted(steps) if step in existing]
    if not chosen or not strengths:
        raise BadInput("choose the checkpoints to compare, and give a strength")
    if len(chosen) * len(strengths) > MOST:
        raise BadInput(
            f"{len(chosen)} checkpoints at {len(strengths)} strengths are "
            f"{len(chosen) * len(strengths)} pictures, and {MOST} are the most: choose fewer"
        )
    files, arguments = {step: existing[step] for step in chosen}, cast("Any", job.arguments)
    cells = checkpoint_grid(
        files, base=arguments["base"], strengths=strengths, prompts=[prompt], seeds=[seed]
    )
    shots = [cell.shot for cell in cells]
    return queue_pictures(space, shots, kind="batch", loading=arguments["loading"])


def latest_grid(space: Workspace, job: Job) -> Job | None:
    """The latest grid of a training's checkpoints; None where there is none."""
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
    """How many strengths a grid has."""
    return len({_adapter_of(shot)[1] for shot in drawing_of(grid).all_shots()})


def pictures(space: Workspace, cells: Sequence[Cell], *, total: int) -> list[tuple[str, str]]:
    """The thumbnails and captions of cells. total: steps of the training."""
    return [(str(thumbnail(space, cell.picture.id)), caption(cell, total)) for cell in cells]


def caption(cell: Cell, total: int) -> str:
    """The caption under a cell: its step and its strength."""
    step = f"step {cell.step or total}"
    return f"{step}, {cell.strength:g}"


def keep(space: Workspace, job: Job, *, step: int, strength: float) -> AdapterFile:
    """Put a checkpoint into the library, scaled so that its strength 1 is what `strength` was.

    step: 0 for the final adapter. Takes seconds for a strength other than 1. Raises BadInput where
    there is no such checkpoint.
    """
    existing = checkpoints(space, job)
    step = step or job.total
    if step not in existing:
        raise BadInput(f"the checkpoint of step {step} is no longer there")
    name = clean_name(str(job.arguments["name"])[:90], otherwise="adapter")
    if step != job.total:
        name = f"{name} step {step}"
    if strength == 1:
        return add_adapter(space, existing[step], name=name)
    return run_in_process(_add_scaled, space, existing[step], strength, f"{name} at {strength:g}")


def _add_scaled(space: Workspace, file: Path, strength: float, name: str) -> AdapterFile:
    from studio.adapters.load import load_adapter  # this imports PyTorch
    from studio.adapters.rescale import scale_adapter

    with TemporaryDirectory(dir=space.cache) as scratch:
        scaled = scale_adapter(load_adapter(file), strength)
        return add_adapter(space, scaled.save(Path(scratch) / "scaled.safetensors"), name=name)


def _adapter_of(shot: Shot) -> tuple[int, float]:
    """The step, 0 for the final adapter, and the strength of the only adapter of a cell's shot."""
    ((file, strength),) = shot.adapters
    folder = Path(str(file)).parent.name
    return int(folder.removeprefix("step-")) if folder.startswith("step-") else 0, strength
