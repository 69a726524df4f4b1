"""Thumbnails of pictures, in the cache until the picture changes."""

from pathlib import Path

from PIL import Image, ImageOps

from studio.errors import PICTURE_ERRORS, BadInput
from studio.files import atomic_write

THUMBNAIL_SIZE = 320  # pixels of the longer side


def cached_thumbnail(picture: Path, place: Path) -> Path:
    """The thumbnail of a picture, a JPEG at `place`, made anew where the picture is newer.

    Turned as its EXIF says, transparency over white. Raises BadInput for a damaged picture.
    """
    if place.exists() and place.stat().st_mtime >= picture.stat().st_mtime:
        return place
    from studio.dataset.pictures import to_rgb  # and numpy, which the command line does without

    try:
        with Image.open(picture) as opened:
            opened.draft(
                "RGB", (2 * THUMBNAIL_SIZE, 2 * THUMBNAIL_SIZE)
            )  # a JPEG need not be decoded whole
            small = to_rgb(ImageOps.exif_transpose(opened))
    except PICTURE_ERRORS as error:
        raise BadInput(f"{picture} can't be read as a picture: {error}") from error
    small.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    with atomic_write(place, durable=False) as file:
        small.save(file, "JPEG", quality=85)
    return place
