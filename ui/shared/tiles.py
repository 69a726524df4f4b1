"""The note on pictures that were decoded in tiles."""

import json
from collections.abc import Mapping

from PIL.Image import Image

IN_TILES = "decoded in tiles, for want of memory"


def tiles_note(recipe: Mapping[str, object]) -> str:
    """The note for a picture with this recipe; "" if it was not decoded in tiles."""
    base = recipe.get("base")
    return IN_TILES if isinstance(base, Mapping) and base.get("vae_tiling") else ""


def tiles_note_of(picture: Image) -> str:
    """The note for a picture that was just made, with its recipe in `info`."""
    return tiles_note(json.loads(picture.info["studio"]))
