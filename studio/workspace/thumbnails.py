"""Thumbnails of pictures, cached until the picture changes."""

import os
from pathlib import Path

from PIL import Image

from studio.files import atomic_write, file_version
from studio.picture import opened_picture, to_rgb, upright
from studio.workspace.folder import Workspace, path_in_workspace

THUMBNAIL_SIZE = 320  # pixels of the longer side


def cached_thumbnail(space: Workspace, place: str) -> Path:
    """The thumbnail of a picture of the workspace: a JPEG, upright, in sRGB, over white.

    place: relative to the workspace, such as "uploads/robot/1.png". Raises BadInput for a place
    outside the workspace, BadPicture for a picture that is damaged or missing.
    """
    picture, small = path_in_workspace(space, place), _thumbnails(space) / f"{place}.jpg"
    state = file_version(picture)
    # The thumbnail has its picture's time, which must be equal: a picture restored from the trash
    # may be older than the thumbnail of another picture that had its name.
    if state and small.exists() and small.stat().st_mtime_ns == state[0]:
        return small
    with opened_picture(picture) as opened:
        opened.draft("RGB", (2 * THUMBNAIL_SIZE, 2 * THUMBNAIL_SIZE))  # decodes a JPEG in part
        copy = to_rgb(upright(opened))
    copy.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    _save(copy, small)
    if state:
        os.utime(small, ns=(state[0], state[0]))
    return small


def grey_thumbnail(space: Workspace) -> Path:
    """A grey square, a JPEG in the cache, to show for a picture that cannot be read."""
    file = _thumbnails(space) / "unreadable.jpg"
    if not file.exists():
        _save(Image.new("RGB", (64, 64), "grey"), file)
    return file


def _thumbnails(space: Workspace) -> Path:
    return space.cache / "thumbnails"


def _save(small: Image.Image, path: Path) -> None:
    with atomic_write(path, durable=False) as file:
        small.save(file, "JPEG", quality=85)
