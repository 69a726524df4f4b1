"""Files to take away, each in a folder of its own that nobody can guess, for an hour."""

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from secrets import token_urlsafe
from urllib.parse import quote

from studio.errors import BadInput
from studio.workspace import Workspace

__all__ = ["file_url", "link_download", "web_folder", "write_download"]

KEPT = 3600.0  # seconds


def web_folder(space: Workspace) -> Path:
    """Where the server keeps what was sent to it, and what it hands out."""
    return space.cache / "web"


def write_download(space: Workspace, name: str, write: Callable[[Path], object]) -> Path:
    """The file that `write` writes where it is told to, ready to be taken away by this name."""
    folder = web_folder(space) / "out"
    _clear(folder)
    place = folder / token_urlsafe(18) / name
    place.parent.mkdir(parents=True)
    try:
        write(place)
    except OSError as error:
        raise BadInput(f"{name} cannot be written: {error.strerror or error}") from error
    return place


def link_download(space: Workspace, name: str, file: Path) -> Path:
    """A file of the workspace, ready to be taken away; it takes no room twice where it can."""

    def write(place: Path) -> None:
        try:
            os.link(file, place)
        except OSError:  # a file system without hard links
            shutil.copyfile(file, place)

    return write_download(space, name, write)


def file_url(file: Path) -> str:
    """The URL of a file that the page may show or download, relative to the page's own."""
    return f"gradio_api/file={quote(str(file))}"


def _clear(folder: Path) -> None:
    """Delete what was handed out too long ago."""
    for old in folder.glob("*"):
        with suppress(OSError):
            if old.stat().st_mtime < time.time() - KEPT:
                shutil.rmtree(old)
