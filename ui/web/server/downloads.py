"""Files to download. Each lies for an hour in a folder whose name nobody can guess."""

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

LIFETIME = 3600.0  # seconds


def web_folder(space: Workspace) -> Path:
    """Where the server keeps uploads and downloads."""
    return space.cache / "web"


def write_download(space: Workspace, name: str, write: Callable[[Path], object]) -> Path:
    """Let `write` write a file at a path that can be downloaded; returns the path.

    name: the file's name. Raises BadInput where it cannot be written.
    """
    folder = web_folder(space) / "out"
    _delete_old(folder)
    path = folder / token_urlsafe(18) / name
    path.parent.mkdir(parents=True)
    try:
        write(path)
    except OSError as error:
        raise BadInput(f"{name} cannot be written: {error.strerror or error}") from error
    return path


def link_download(space: Workspace, name: str, file: Path) -> Path:
    """Put a file of the workspace where it can be downloaded by this name; returns that path."""

    def write(path: Path) -> None:
        try:
            os.link(file, path)
        except OSError:  # a file system without hard links
            shutil.copyfile(file, path)

    return write_download(space, name, write)


def file_url(file: Path) -> str:
    """The URL of a file that the page may show or download, relative to the page's URL."""
    return f"gradio_api/file={quote(str(file))}"


def _delete_old(folder: Path) -> None:
    """Delete downloads older than LIFETIME."""
    for old in folder.glob("*"):
        with suppress(OSError):
            if old.stat().st_mtime < time.time() - LIFETIME:
                shutil.rmtree(old)
