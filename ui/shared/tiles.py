"""What is said of a picture that was decoded in tiles."""

import json
from collections.abc import Mapping

from PIL.Image import Image

IN_TILES = "decoded in tiles, for want of memory"


def tiles_note(recipe: Mapping[str, object]) -> str:
    """A picture's recipe tells; "" where it was decoded whole."""
    base = recipe.get("base")
    return IN_TILES if isinstance(base, Mapping) and base.get("vae_tiling") else ""


def tiles_note_of(picture: Image) -> str:
    """The same of a picture that was just made."""
    return tiles_note(json.loads(picture.info["studio"]))
