"""The checkpoints of a training compared in a grid, each at several strengths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from studio.requests.shot import Shot
from ui.shared.grid import Table, arrange


@dataclass(frozen=True)
class CheckpointShot:
    """A shot with the checkpoint of one step, at one strength."""

    step: int
    strength: float
    shot: Shot


def checkpoint_grid(
    checkpoints: Mapping[int, Path],
    *,
    base: str,
    strengths: Sequence[float],
    prompts: Sequence[str],
    seeds: Sequence[int] = (0,),
) -> list[CheckpointShot]:
    """A shot for every combination, row by row. checkpoints: the adapter file of each step."""
    return [
        CheckpointShot(
            step, strength, Shot(prompt, base=base, seed=seed, adapters=((file, strength),))
        )
        for prompt, (step, file), seed, strength in product(
            prompts, checkpoints.items(), seeds, strengths
        )
    ]


def checkpoint_table(cells: Sequence[CheckpointShot]) -> Table:
    """A row for each checkpoint and prompt, a column for each strength and seed."""
    several_prompts = len({cell.shot.prompt for cell in cells}) > 1
    several_seeds = len({cell.shot.seed for cell in cells}) > 1
    rows = [
        f"step {cell.step}" + (f": {cell.shot.prompt}" if several_prompts else "") for cell in cells
    ]
    columns = [
        f"strength {cell.strength:g}" + (f"\nseed {cell.shot.seed}" if several_seeds else "")
        for cell in cells
    ]
    table = arrange(rows, columns)
    assert table is not None  # every combination is there once
    return table
