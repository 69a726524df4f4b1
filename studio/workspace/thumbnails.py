"""Thumbnails of pictures, in the cache until the picture changes."""

from pathlib import Path

from PIL import Image

from studio.files import atomic_write
from studio.picture import opened_picture, to_rgb, upright

THUMBNAIL_SIZE = 320  # pixels of the longer side


def cached_thumbnail(picture: Path, place: Path) -> Path:
    """The thumbnail of a picture, a JPEG at `place`, made anew where the picture is newer.

    Upright, in sRGB, transparency over white. Raises BadInput for a damaged picture.
    """
    if place.exists() and place.stat().st_mtime >= picture.stat().st_mtime:
        return place
    with opened_picture(picture) as opened:
        opened.draft("RGB", (2 * THUMBNAIL_SIZE, 2 * THUMBNAIL_SIZE))  # decodes a JPEG in part
        small = to_rgb(upright(opened))
    small.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    return _saved(small, place)


def grey_thumbnail(place: Path) -> Path:
    """A grey square, a JPEG at `place`, that stands for a picture which cannot be read."""
    return place if place.exists() else _saved(Image.new("RGB", (64, 64), "grey"), place)


def _saved(small: Image.Image, place: Path) -> Path:
    with atomic_write(place, durable=False) as file:
        small.save(file, "JPEG", quality=85)
    return place
