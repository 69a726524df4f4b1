"""Which checkpoint of a run, at which strength? One picture of each, on one sheet.

Rows are the checkpoints, columns the strengths; where several prompts or seeds are asked for, each
has rows or columns of its own. Every picture is a shot like any other, and all go through the
batches of `compose.render_many`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import compose
import trainers
from studio.errors import BadInput
from studio.files import atomic_write
from studio.requests.shot import Shot
from ui.shared.labelled_sheet import CELL, Row, draw_sheet
from ui.shared.loading import open_base
from ui.shared.terminal import bars, print_facts, print_json, remark

if TYPE_CHECKING:
    from PIL.Image import Image

    from studio.bases.base import Base

__all__ = ["Cell", "cells_of", "draw_grid", "grid_sheet", "write_grid"]

STRENGTHS = (0.5, 0.75, 1.0)
FAILED = "#e8d5d3"


@dataclass(frozen=True)
class Cell:
    """One picture of a grid: a checkpoint, by its step, at a strength. file: of its adapter."""

    step: int
    file: Path
    strength: float
    prompt: str
    seed: int

    def shot(self, base: "Base") -> Shot:
        """What is drawn."""
        mix = ((self.file, self.strength),)
        return Shot(self.prompt, base=base.source, adapters=mix, seed=self.seed)


def cells_of(
    run: str | Path,
    *,
    strengths: Sequence[float] = STRENGTHS,
    prompts: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    steps: Sequence[int] = (),
) -> tuple[Cell, ...]:
    """The pictures of a run's grid, row by row.

    prompts: the run's own sample prompts, or its trigger, when none are given. steps: of the
    checkpoints to compare, all when none are given; the finished adapter is one.
    Raises BadInput where the run has no checkpoint, or none of such a step.
    """
    found = trainers.checkpoints(run)
    if missing := [step for step in steps if step not in found]:
        known = ", ".join(map(str, found))
        raise BadInput(f"{run} has no checkpoint of step {missing[0]}; there are {known}.")
    written = trainers.read_recipe(run)
    own = written.training.get("sample_prompts") or (written.trigger,)
    asked = prompts or [str(prompt) for prompt in own]  # pyright: ignore[reportGeneralTypeIssues]
    chosen = [step for step in found if not steps or step in steps]
    return tuple(
        Cell(step, found[step], strength, prompt, seed)
        for prompt, step, seed, strength in product(asked, chosen, seeds, strengths)
    )


def draw_grid(base: "Base", cells: Sequence[Cell]) -> "Iterator[tuple[int, Image | BadInput]]":
    """Draw the pictures as it is fastest: each cell's number, and its picture or why there is none.

    base: the one that the run was trained on, see `trainers.base_of`.
    """
    for event in compose.render_many(base, [cell.shot(base) for cell in cells]):
        made = isinstance(event, compose.Made)
        yield event.number, event.picture if made else BadInput(event.reason)


def grid_sheet(
    title: str, cells: Sequence[Cell], pictures: "Mapping[int, Image]", *, note: str = ""
) -> "Image":
    """All on one sheet. pictures: by their cells' numbers; one that is missing leaves a blank."""
    from PIL import Image

    prompts = list(dict.fromkeys(cell.prompt for cell in cells))
    seeds = list(dict.fromkeys(cell.seed for cell in cells))
    columns = list(dict.fromkeys(_column(cell, len(seeds) > 1) for cell in cells))
    rows: dict[str, list[Image.Image]] = {}
    for number, cell in enumerate(cells):
        blank = Image.new("RGB", (CELL, CELL), FAILED)
        label = _row(cell, len(prompts) > 1)
        rows.setdefault(label, []).append(pictures.get(number, blank))
    drawn = [Row(label, row) for label, row in rows.items()]
    return draw_sheet(title, note=note, columns=columns, rows=drawn, groups=())


def _row(cell: Cell, several: bool) -> str:
    return f"step {cell.step}" + (f": {cell.prompt}" if several else "")


def _column(cell: Cell, several: bool) -> str:
    return f"strength {cell.strength:g}" + (f"\nseed {cell.seed}" if several else "")


def write_grid(
    run: Path,
    cells: Sequence[Cell],
    *,
    loading: Mapping[str, object],
    out: Path,
    as_json: bool,
) -> None:
    """Draw the cells of a run on its base, and write the sheet."""
    then = trainers.base_of(run)
    base = open_base(then.pop("source"), then | dict(loading))
    pictures: dict[int, Image] = {}
    with bars() as shown:
        task = shown.add_task("Drawing", total=len(cells))
        for number, made in draw_grid(base, cells):
            if isinstance(made, BadInput):
                remark(f"Step {cells[number].step}: {made}")
            else:
                pictures[number] = made
            shown.advance(task)
    if not pictures:
        raise BadInput(f"none of the {len(cells)} pictures can be drawn")
    prompts = {cell.prompt for cell in cells}
    note = cells[0].prompt if len(prompts) == 1 else f"{len(prompts)} prompts"
    sheet = grid_sheet(run.resolve().name, cells, pictures, note=f"{note}  ·  base {base.name}")
    with atomic_write(out) as part:
        sheet.save(part, "PNG")
    facts = {"sheet": str(out), "pictures": len(pictures), "failed": len(cells) - len(pictures)}
    if as_json:
        print_json(facts)
    else:
        print_facts("Grid", {**facts, "failed": facts["failed"] or None})
