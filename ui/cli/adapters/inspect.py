"""`studio inspect`: show the facts of an adapter, or the recipe of a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from studio.adapters.describe import describe, find_adapter_file
from studio.bases.names import BUNDLED_BASES
from studio.errors import BadInput
from studio.json_value import JSON
from studio.requests.picture_file import read_recipe
from ui.cli.options import AsJson
from ui.shared.terminal import print_facts, print_json

PUBLISHED = {"sd1": "sd15", "sd2": "sd21", "sdxl": "sdxl"}
PICTURES = (".jpeg", ".jpg", ".png", ".webp")

app = typer.Typer()


@app.command(epilog="Example: studio inspect robot.safetensors")
def inspect(
    file: Annotated[Path, typer.Argument(help="An adapter, or a picture made by Studio.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Show what an adapter or a picture is, with its recipe.

    Of an adapter also how many of its layers the base has that it was made for: Studio's own base,
    or the published one of its family.
    """
    show_file(file, as_json=as_json)


def show_file(file: Path, *, as_json: bool) -> None:
    """Print what the file is; BadInput when it is neither an adapter nor a picture of Studio's."""
    is_picture = file.suffix.lower() in PICTURES
    facts = read_recipe(file) if is_picture else _describe(file)
    if as_json:
        print_json(facts)
    else:
        print_facts(f"{'Picture' if is_picture else 'Adapter'} {file}", _flatten(facts))


def _describe(file: Path) -> dict[str, JSON]:
    facts = describe(file)
    base, family = str(facts["base"]), str(facts["family"])
    if not facts["layers"] or (base not in BUNDLED_BASES and family not in PUBLISHED):
        return facts
    from studio.adapters.compatibility import check_header  # PyTorch takes seconds
    from studio.bases.load import load_base
    from studio.bases.real_config import real_config

    made_for = base in BUNDLED_BASES
    opened = load_base(base, device="cpu") if made_for else real_config(PUBLISHED[family])
    try:
        coverage = check_header(find_adapter_file(file), opened)
    except BadInput as error:
        return facts | {"matched": f"none: {error}"}
    facts["matched"] = coverage.sentence
    if coverage.missing:
        facts["left_out"] = [f"{layer}: {opened.name} has none" for layer in coverage.missing]
    return facts


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
