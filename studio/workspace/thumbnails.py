"""Thumbnails of pictures, in the cache until the picture changes."""

from pathlib import Path

from PIL import ImageOps

from studio.files import atomic_write
from studio.picture import opened_picture, to_rgb

THUMBNAIL_SIZE = 320  # pixels of the longer side


def cached_thumbnail(picture: Path, place: Path) -> Path:
    """The thumbnail of a picture, a JPEG at `place`, made anew where the picture is newer.

    Turned as its EXIF says, transparency over white. Raises BadInput for a damaged picture.
    """
    if place.exists() and place.stat().st_mtime >= picture.stat().st_mtime:
        return place
    with opened_picture(picture) as opened:
        opened.draft("RGB", (2 * THUMBNAIL_SIZE, 2 * THUMBNAIL_SIZE))  # decodes a JPEG in part
        small = to_rgb(ImageOps.exif_transpose(opened))
    small.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    with atomic_write(place, durable=False) as file:
        small.save(file, "JPEG", quality=85)
    return place
