"""The folder of a workspace, and the rule that no name leads out of it.

Pages and programs send names, never paths. `child_path` turns a name into a path; it refuses paths
and links.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from studio.errors import BadInput
from studio.workspace.names import LONGEST_FILE_NAME, LONGEST_NAME, is_name, numbered_names

FOLDERS = ("adapters", "runs", "pictures", "uploads", "prompts", "trash", "cache", "logs")
DATABASE = "studio.sqlite"


class _Place:
    """An attribute of a workspace: the folder of the same name in it."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, space: "Workspace", owner: type) -> Path:
        return space.root / self._name


@dataclass(frozen=True)
class Workspace:
    """Where Studio keeps what it makes. `open_workspace` returns one. root: a resolved path."""

    root: Path

    adapters = _Place()  # the library
    runs = _Place()  # a folder for each training
    pictures = _Place()  # drawn pictures, by date
    uploads = _Place()  # sets of pictures to train on or start from
    prompts = _Place()  # files of prompts for trainings
    trash = _Place()  # deleted files, which can be restored
    cache = _Place()  # files that can be made again
    logs = _Place()  # the output of workers

    @property
    def database(self) -> Path:
        """The SQLite file; see studio/workspace/database.py."""
        return self.root / DATABASE


def child_path(folder: Path, name: str) -> Path:
    """The path of this name in a folder of the workspace; it need not exist.

    Raises BadInput for anything but a plain name, and for the name of a link.
    """
    path = folder / name
    if (
        not is_name(name, longest=LONGEST_FILE_NAME)
        or path.is_symlink()
        or path.parent.resolve() != folder
    ):
        raise BadInput(
            f"there can be no {name[:LONGEST_NAME]!r} here: it is no name, or it is a link"
        )
    return path


def path_in_workspace(space: Workspace, place: str) -> Path:
    """The path of a place: a path relative to the workspace, such as "runs/robot-3".

    Raises BadInput unless every part is a plain name and no link.
    """
    path = space.root
    for part in place.split("/"):
        path = child_path(path, part)
    return path


def entries(folder: Path) -> Iterator[Path]:
    """The entries of a folder of the workspace, unordered, without hidden files and links."""
    for path in folder.iterdir():
        if not path.name.startswith(".") and not path.is_symlink():
            yield path


def move_to_free_name(source: Path, folder: Path, name: str) -> Path:
    """Move a file or folder into a folder, without overwriting anything.

    Where the name is taken it becomes `name-2`, `name-3` and so on; a file's suffix stays at the
    end. Returns the new path.
    """
    suffix = "" if source.is_dir() else Path(name).suffix
    for stem in numbered_names(name.removesuffix(suffix)):
        target = folder / f"{stem}{suffix}"
        try:
            _move(source, target)
        except FileExistsError:
            continue
        return target
    raise AssertionError("numbers do not end")


def _move(source: Path, target: Path) -> None:
    """Rename, or raise FileExistsError. A killed process leaves the source or the target whole."""
    if source.is_dir():
        target.mkdir()
        os.replace(source, target)  # replaces the empty folder
        return
    try:
        os.link(source, target)
        source.unlink()
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        target.open("x").close()
        os.replace(source, target)
