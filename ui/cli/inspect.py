"""What a file is: an adapter, or a picture with its recipe."""

from collections.abc import Mapping
from pathlib import Path

from studio.adapters.describe import describe
from studio.requests.shot import read_recipe
from ui.shared.terminal import print_facts, print_json

__all__ = ["show"]

PICTURES = (".jpeg", ".jpg", ".png", ".webp")


def show(file: Path, *, as_json: bool) -> None:
    """Print what the file is; BadInput when it is neither an adapter nor a picture of Studio's."""
    picture = file.suffix.lower() in PICTURES
    facts = read_recipe(file) if picture else describe(file)
    if as_json:
        print_json(facts)
    else:
        print_facts(f"{'Picture' if picture else 'Adapter'} {file}", _flat(facts))


def _flat(facts: Mapping[str, object], before: str = "") -> dict[str, object]:
    """Nested names with dots between them, plain lists in one line."""
    found: dict[str, object] = {}
    for name, value in facts.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            value = {str(number): one for number, one in enumerate(value, start=1)}
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{name}.")
        else:
            line = ", ".join(map(str, value)) if isinstance(value, list) else value
            found[before + name] = line
    return found
