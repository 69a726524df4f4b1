"""Pictures on the terminal: from a prompt, or from a picture made before."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import compose
from studio.adapters.adapter import Adapter, check_fits
from studio.adapters.blora_blocks import split_half
from studio.adapters.describe import describe
from studio.bases.base import Base
from studio.errors import BadInput
from studio.requests.shot import Shot, open_picture, read_recipe, save_picture
from ui.shared.loading import open_base
from ui.shared.names import slug
from ui.shared.terminal import bars, print_json, print_table, remark

__all__ = ["Order", "make_pictures"]


@dataclass(frozen=True)
class Order:
    """What was asked for. fields: of Shot, by name, those that were given and no others."""

    fields: Mapping[str, Any]
    loading: Mapping[str, object]
    like: Path | None
    count: int
    out: Path


def make_pictures(order: Order, *, as_json: bool) -> None:
    """Render what was ordered, the seed rising by one from picture to picture.

    With `like` it is the shot of that picture with the given fields put in, on a base opened as it
    was then.
    """
    made = dict(read_recipe(order.like)) if order.like else None
    _check(order)
    base, shot = _fresh(order) if made is None else _again(order, made)
    settled = shot.settled(base)
    for adapter, _ in settled.adapters:
        assert isinstance(adapter, Adapter)
        covered = check_fits(adapter, base)
        if covered.missing:
            remark(f"{adapter.name or adapter.path}: {covered.sentence}; the rest is left out")
    rows = []
    with bars() as shown:
        steps = shown.add_task("Drawing", total=None)
        for number in range(order.count):
            one, begun = replace(settled, seed=shot.seed + number), perf_counter()
            shown.reset(steps, description=f"Picture {number + 1} of {order.count}", total=None)
            for event in compose.denoise(base, one):
                if isinstance(event, compose.Step):
                    shown.update(steps, total=event.steps, completed=event.step)
                else:
                    picture = compose.develop(base, one, event.latents)
                    path = save_picture(picture, _place(order.out, one), one, base)
                    seconds = round(perf_counter() - begun, 2)
                    rows.append({"path": str(path), "seed": one.seed, "seconds": seconds})
    if as_json:
        print_json(rows)
    else:
        print_table(("picture", "seed", "seconds"), [tuple(row.values()) for row in rows])


def _fresh(order: Order) -> tuple[Base, Shot]:
    shot = Shot(**order.fields)  # pyright: ignore[reportArgumentType]
    shot.check()
    return open_base(shot.base, order.loading), shot


def _again(order: Order, made: dict[str, object]) -> tuple[Base, Shot]:
    """The base and the shot of a picture made before; what was given takes the recipe's place."""
    entry = made.get("base")
    parts = ("source", "dtype", "device")
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in parts):
        raise BadInput(f"The recipe in {order.like} is damaged: its base is {entry!r}.")
    given = order.fields
    then = {key: entry[key] for key in ("dtype", "device", "prediction") if key in entry}
    base = open_base(str(given.get("base", entry["source"])), then | dict(order.loading))
    if "base" in given:
        made["base"] = entry | {"fingerprint": base.fingerprint()}
    if "adapters" in given:
        made["adapters"] = []
    if "init_image" in given:
        made["init_image"] = None
    shot = replace(compose.like(made, base), **given)  # pyright: ignore[reportArgumentType]
    shot.check()
    return base, shot


def _check(order: Order) -> None:
    """BadInput for what would otherwise be found out after the base is opened."""
    if not order.like and "prompt" not in order.fields:
        raise BadInput("A prompt is missing: say what the picture is to show, or give --like.")
    for adapter, _ in order.fields.get("adapters") or ():
        describe(split_half(str(adapter))[0])
    start = order.fields.get("init_image")
    if isinstance(start, Path):
        open_picture(start)
    one = order.out.suffix.lower() == ".png"
    if one and order.count > 1:
        raise BadInput(f"{order.out} is one picture, and {order.count} are wanted: give a folder.")
    folder = order.out.parent if one else order.out
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise BadInput(f"{place} is a file; --out is a folder, or a name that ends in .png.")


def _place(out: Path, shot: Shot) -> Path:
    """Where a picture goes: named after its prompt and seed, beside those that are there."""
    if out.suffix.lower() == ".png":
        return out
    stem = f"{slug(shot.prompt) or 'picture'}-{shot.seed}"
    path, number = out / f"{stem}.png", 1
    while path.exists():
        number += 1
        path = out / f"{stem}-{number}.png"
    return path
