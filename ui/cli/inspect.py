"""`studio inspect`: show the facts of an adapter, or the recipe of a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from studio.adapters.describe import describe
from studio.requests.picture_file import read_recipe
from ui.cli.options import AsJson
from ui.shared.terminal import print_facts, print_json

PICTURES = (".jpeg", ".jpg", ".png", ".webp")

app = typer.Typer()


@app.command(epilog="Example: studio inspect robot.safetensors")
def inspect(
    file: Annotated[Path, typer.Argument(help="An adapter, or a picture made by Studio.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Show what an adapter or a picture is, with its recipe."""
    show_file(file, as_json=as_json)


def show_file(file: Path, *, as_json: bool) -> None:
    """Print what the file is; BadInput when it is neither an adapter nor a picture of Studio's."""
    is_picture = file.suffix.lower() in PICTURES
    facts = read_recipe(file) if is_picture else describe(file)
    if as_json:
        print_json(facts)
    else:
        print_facts(f"{'Picture' if is_picture else 'Adapter'} {file}", _flatten(facts))


def _flatten(facts: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested names joined by dots, and each plain list as one line."""
    flat: dict[str, object] = {}
    for name, value in facts.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            value = {str(number): entry for number, entry in enumerate(value, start=1)}
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            line = ", ".join(map(str, value)) if isinstance(value, list) else value
            flat[prefix + name] = line
    return flat
