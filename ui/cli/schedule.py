"""A method's schedule on the terminal: steps, passes, and what each adapter changes in them."""

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

import compose
from compose import Pass, Schedule
from studio.errors import BadInput
from studio.requests.shot import Shot
from ui.shared.loading import open_base
from ui.shared.terminal import print_facts, print_json, print_table

__all__ = ["show_schedule"]

Row = tuple[int, int, tuple[Pass, ...]]


def show_schedule(
    shot: Shot, *, base: str | None, loading: Mapping[str, object], out: Path | None, as_json: bool
) -> None:
    """Print it, and draw it into a .png where one is named. base: opened where given, never run."""
    if out is not None and out.suffix.lower() != ".png":
        raise BadInput(f"{out}: the schedule is drawn as .png.")
    opened = open_base(base, loading) if base is not None else None
    found = compose.schedule(shot, opened)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        found.picture().save(out)
    rows = _rows(found)
    full = sum(not one.shallow for step in found.steps for one in step)
    facts: dict[str, object] = {
        "cost": round(found.cost, 2),
        "full": full,
        "reused": sum(map(len, found.steps)) - full,
        "layers": len(found.layers),
    }
    if as_json:
        told = {"adapters": found.adapters, **facts, "layers": found.layers}
        print_json(told | {"steps": [_told(row, found) for row in rows]})
        return
    lines = [line for row in rows for line in _lines(row, found)]
    print_table(("steps", "pass", "counts", *found.adapters), lines)
    print_facts(
        "Schedule",
        {
            "steps": len(found.steps),
            "evaluations of the UNet": f"{full} full, {facts['reused']} with reused features",
            "cost in full evaluations": facts["cost"],
            "layers of the UNet": facts["layers"],
            "picture": out,
        },
    )


def _rows(found: Schedule) -> list[Row]:
    """Neighbouring steps that are alike in one: the first, the last, from 1, and their passes."""
    rows = []
    for passes, steps in groupby(enumerate(found.steps, start=1), key=lambda pair: pair[1]):
        numbers = [number for number, _ in steps]
        rows.append((numbers[0], numbers[-1], passes))
    return rows


def _lines(row: Row, found: Schedule) -> list[tuple[object, ...]]:
    first, last, passes = row
    steps = f"{first}" if first == last else f"{first}-{last}"
    lines: list[tuple[object, ...]] = []
    for number, one in enumerate(passes, start=1):
        said = f"{number} of {len(passes)}, " if len(passes) > 1 else ""
        said += "reused" if one.shallow else "full"
        worn = (_worn(one.layers.get(at, {})) for at in range(len(found.adapters)))
        lines.append((steps if number == 1 else "", said, f"{one.weight:.0%}", *worn))
    return lines


def _worn(layers: Mapping[str, float]) -> str:
    """Such as `24 layers at 0.8`; several strengths from the least to the greatest."""
    if not layers:
        return ""
    least, most = min(layers.values()), max(layers.values())
    at = f"{least:g}" if least == most else f"{least:g} to {most:g}"
    return f"{len(layers)} {'layer' if len(layers) == 1 else 'layers'} at {at}"


def _told(row: Row, found: Schedule) -> dict[str, object]:
    first, last, passes = row
    return {
        "first": first,
        "last": last,
        "passes": [
            {
                "counts": one.weight,
                "reused": one.shallow,
                "cost": one.cost,
                "adapters": {found.adapters[at]: layers for at, layers in one.layers.items()},
            }
            for one in passes
        ],
    }
