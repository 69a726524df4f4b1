"""`studio schedule`: what a method does at each step and layer, and its cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import compose
from studio.errors import BadInput
from studio.files import atomic_write, check_writable
from studio.requests.shot import Shot
from ui.cli.options import (
    BASES,
    LOADING,
    METHODS,
    AdapterFiles,
    AsJson,
    MethodName,
    parse_adapters,
    parse_method,
)
from ui.shared.form import with_options
from ui.shared.loading import open_base
from ui.shared.terminal import print_facts, print_json, print_table

if TYPE_CHECKING:
    from compose import Pass, Schedule

app = typer.Typer()


@dataclass(frozen=True)
class Steps:
    """Neighbouring steps with the same passes. first, last: their numbers, from 1."""

    first: int
    last: int
    passes: "tuple[Pass, ...]"


@app.command(
    epilog="Example: studio schedule --adapter robot.safetensors --adapter ink.safetensors "
    "--method klora --out schedule.png"
)
@with_options({"options": METHODS, "loading": LOADING})
def schedule(
    *,
    adapter: AdapterFiles = None,
    method: MethodName = None,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 25,
    regions: Annotated[
        list[str] | None,
        typer.Option(help="As in studio generate; may be given several times."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Also draw the schedule into this .png file.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help=f"{BASES} It is not run. Needed for DoRA and OFT; layers that it lacks are left "
            "out."
        ),
    ] = None,
    as_json: AsJson = False,
    options: Mapping[str, Mapping[str, object]],
    loading: Mapping[str, object],
) -> None:
    """Show which adapter changes which layers at which step, and what a picture costs."""
    mix, chosen = parse_adapters(adapter), parse_method(method, options)
    shot = Shot("", steps=steps, adapters=mix, method=chosen, regions=tuple(regions or ()))
    if out is not None and out.suffix.lower() != ".png":
        raise BadInput(f"{out}: the schedule is drawn as a picture, so give a name with .png.")
    if out is not None:
        check_writable(out)
    plan = compose.schedule(shot, open_base(base, loading) if base is not None else None)
    if out is not None:
        with atomic_write(out) as part:
            plan.picture().save(part, "PNG")
    if as_json:
        print_json(_as_json(plan))
    else:
        _print(plan, out)


def _print(plan: "Schedule", out: Path | None) -> None:
    lines = [line for steps in _group(plan) for line in _table_lines(steps, plan)]
    print_table(("steps", "pass", "weight", *plan.adapters), lines)
    full, reused = _count(plan)
    facts = {
        "steps": len(plan.steps),
        "evaluations of the UNet": f"{full} full, {reused} with reused features",
        "cost in full evaluations": round(plan.cost, 2),
        "layers of the UNet": len(plan.layers),
        "picture": out,
    }
    print_facts("Schedule", facts)


def _count(plan: "Schedule") -> tuple[int, int]:
    """The numbers of full evaluations and of evaluations that reuse deep features."""
    passes = [one for step in plan.steps for one in step]
    full = sum(not one.shallow for one in passes)
    return full, len(passes) - full


def _group(plan: "Schedule") -> list[Steps]:
    """The steps of a schedule, with neighbouring equal steps merged."""
    groups = []
    for passes, steps in groupby(enumerate(plan.steps, start=1), key=lambda pair: pair[1]):
        numbers = [number for number, _ in steps]
        groups.append(Steps(numbers[0], numbers[-1], passes))
    return groups


def _table_lines(steps: Steps, plan: "Schedule") -> list[tuple[object, ...]]:
    numbers = f"{steps.first}" if steps.first == steps.last else f"{steps.first}-{steps.last}"
    lines: list[tuple[object, ...]] = []
    for number, one in enumerate(steps.passes, start=1):
        position = f"{number} of {len(steps.passes)}, " if len(steps.passes) > 1 else ""
        kind = "reused" if one.shallow else "full"
        changes = (_layers(one.layers.get(at, {})) for at in range(len(plan.adapters)))
        line = (numbers if number == 1 else "", position + kind, f"{one.weight:.0%}", *changes)
        lines.append(line)
    return lines


def _layers(strengths: Mapping[str, float]) -> str:
    """Text such as `24 layers at 0.8`, or `24 layers at 0.5 to 1`. strengths: by layer."""
    if not strengths:
        return ""
    least, most = min(strengths.values()), max(strengths.values())
    at = f"{least:g}" if least == most else f"{least:g} to {most:g}"
    return f"{len(strengths)} {'layer' if len(strengths) == 1 else 'layers'} at {at}"


def _as_json(plan: "Schedule") -> dict[str, object]:
    full, reused = _count(plan)
    return {
        "adapters": plan.adapters,
        "cost": round(plan.cost, 2),
        "full": full,
        "reused": reused,
        "layers": plan.layers,
        "steps": [
            {
                "first": steps.first,
                "last": steps.last,
                "passes": [_pass_as_json(one, plan) for one in steps.passes],
            }
            for steps in _group(plan)
        ],
    }


def _pass_as_json(one: "Pass", plan: "Schedule") -> dict[str, object]:
    return {
        "counts": one.weight,
        "reused": one.shallow,
        "cost": one.cost,
        "adapters": {plan.adapters[at]: layers for at, layers in one.layers.items()},
    }
