"""`studio inspect`: show the facts of an adapter, or the recipe of a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from studio.adapters.adapter_header import read_adapter_header
from studio.adapters.describe import describe
from studio.bases.names import BUNDLED_BASES, PUBLISHED
from studio.errors import BadInput
from studio.json_value import JSON
from studio.requests.picture_file import read_recipe
from ui.cli.options import BASES, AsJson
from ui.shared.terminal import flat_facts, print_facts, print_json

PICTURES = (".jpeg", ".jpg", ".png", ".webp")
MOST_SHOWN = 10  # layers that the table lists as left out; --json lists all

app = typer.Typer()


@app.command(epilog="Example: studio inspect robot.safetensors")
def inspect(
    file: Annotated[Path, typer.Argument(help="An adapter, or a picture made by Studio.")],
    *,
    base: Annotated[
        str | None,
        typer.Option(help=f"Count the layers that this base has: {BASES} Also sd15, sd21, sdxl."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what an adapter or a picture is, with its recipe.

    For an adapter, also show how many of its layers a base has, and which it lacks. Without --base
    that is the best match among Studio's own bases and the published SD 1.5, SD 2.1 and SDXL.
    """
    show_file(file, base=base, as_json=as_json)


def show_file(file: Path, *, base: str | None, as_json: bool) -> None:
    """Print what a file is. Raises BadInput if it is neither an adapter nor a picture of Studio."""
    is_picture = file.suffix.lower() in PICTURES
    if is_picture and base:
        raise BadInput(f"--base is for adapters, and {file} is a picture: leave it out")
    facts = read_recipe(file) if is_picture else {**_describe(file, base)}
    if as_json:
        print_json(facts)
        return
    if not is_picture:
        facts = _in_short(facts)
    print_facts(f"{'Picture' if is_picture else 'Adapter'} {file}", flat_facts(facts))


def _describe(file: Path, base: str | None) -> dict[str, JSON]:
    facts = describe(file)
    if not facts["layers"] and base is None:
        return facts
    from studio.adapters.compatibility import Coverage, check_header  # PyTorch takes seconds
    from studio.bases.real_config import outline

    adapter, family = read_adapter_header(file), str(facts["family"])
    coverages, refusals = list[Coverage](), list[BadInput]()
    for source in _bases(base, str(facts["base"]), family):
        opened = outline(source)
        try:
            coverages.append(check_header(adapter, opened))
        except BadInput as error:
            refusals.append(error)
    if not coverages:
        why = refusals[0] if base or family else "no base that Studio knows: give its own, --base"
        return facts | {"matched": f"none: {why}"}
    most = max(one.matched for one in coverages)
    best = [one for one in coverages if one.matched == most]
    names = " or ".join(one.base for one in best)
    total = best[0].total
    matched = f"{most} of {total} layers" if total else "all words"
    facts["matched"] = f"{matched} matched, base {names}"
    if best[0].missing:
        facts["left_out"] = [f"{layer}: {best[0].base} has none" for layer in best[0].missing]
    return facts


def _bases(given: str | None, made_for: str, family: str) -> tuple[str, ...]:
    """The bases that an adapter may be for, the most likely first."""
    if given:
        return (given,)
    if made_for in BUNDLED_BASES:
        return (made_for,)
    return (*([PUBLISHED[family]] if family else PUBLISHED.values()), *BUNDLED_BASES)


def _in_short(facts: Mapping[str, object]) -> dict[str, object]:
    """The facts for the table: without an unknown kind, and with only a few left-out layers."""
    short = {name: fact for name, fact in facts.items() if (name, fact) != ("kind", "unknown")}
    missing = facts.get("left_out", [])
    if isinstance(missing, list) and len(missing) > MOST_SHOWN:
        short["left_out"] = [*missing[:MOST_SHOWN], f"and {len(missing) - MOST_SHOWN} more"]
    return short
