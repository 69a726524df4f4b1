"""Small copies of pictures, to look at; kept in the cache until the picture changes."""

from pathlib import Path

from PIL import Image, ImageOps

from studio.errors import DAMAGED, BadInput
from studio.files import replacing

__all__ = ["keep_small"]

LONGER = 320  # pixels of the longer side


def keep_small(picture: Path, place: Path) -> Path:
    """A small JPEG of a picture at `place`, made where there is none that is younger.

    Turned as its EXIF says, transparency over white. Raises BadInput for a damaged picture.
    """
    if place.exists() and place.stat().st_mtime >= picture.stat().st_mtime:
        return place
    from studio.dataset.pictures import as_rgb  # and numpy, which the command line does without

    try:
        with Image.open(picture) as opened:
            opened.draft("RGB", (2 * LONGER, 2 * LONGER))  # a JPEG need not be decoded whole
            small = as_rgb(ImageOps.exif_transpose(opened))
    except DAMAGED as error:
        raise BadInput(f"{picture} can't be read as a picture: {error}") from error
    small.thumbnail((LONGER, LONGER))
    with replacing(place, lasting=False) as file:
        small.save(file, "JPEG", quality=85)
    return place
