"""The trash: deleted files and folders, each with a note of where it was."""

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from studio.errors import BadInput
from studio.files import display_name, is_there, read_text, write_file
from studio.json_value import parse_json
from studio.workspace.folder import (
    Workspace,
    child_path,
    entries,
    move_to_free_name,
    path_in_workspace,
)

NOTE_FILE = "what.json"


@dataclass(frozen=True)
class Deleted:
    """A deleted file or folder. place: its former path, relative to the workspace.

    when: seconds since 1970. title: a name to show.
    """

    id: str
    place: str
    when: float
    bytes: int
    title: str

    @property
    def name(self) -> str:
        return self.place.rpartition("/")[2]


def delete(space: Workspace, place: str) -> str:
    """Move a file or folder of the workspace into its trash; returns the id to `undelete` it by.

    place: relative to the workspace, such as "adapters/robot.safetensors". Raises BadInput where
    there is nothing, and for the workspace's own folders.
    """
    path = path_in_workspace(space, place)
    if path.parent == space.root or not path.exists():
        raise BadInput(f"there is no {place} to delete")
    when = time.time()
    folder = space.trash / f"{int(when * 1000)}-{token_hex(3)}"
    write_file(folder / NOTE_FILE, json.dumps({"place": place, "when": when}).encode())
    move_to_free_name(path, folder, path.name)
    return folder.name


def undelete(space: Workspace, id: str) -> Path:
    """Move a file or folder back to where it was, under another name if that is taken by now.

    Raises BadInput where it is no longer in the trash.
    """
    folder = child_path(space.trash, id)
    deleted = _read(folder)
    if deleted is None:
        raise BadInput("it is no longer in the trash")
    former = path_in_workspace(space, deleted.place)
    former.parent.mkdir(parents=True, exist_ok=True)
    path = move_to_free_name(folder / former.name, former.parent, former.name)
    shutil.rmtree(folder)
    return path


def list_trash(space: Workspace) -> list[Deleted]:
    """What can be undeleted, the latest first."""
    trash = [deleted for folder in entries(space.trash) if (deleted := _read(folder))]
    return sorted(trash, key=lambda deleted: -deleted.when)


def empty_trash(space: Workspace, *, older: float = 0.0) -> int:
    """Erase what was deleted at least `older` seconds ago. Returns how many things were erased."""
    due = [deleted for deleted in list_trash(space) if deleted.when <= time.time() - older]
    for deleted in due:
        shutil.rmtree(child_path(space.trash, deleted.id))
    return len(due)


def _read(folder: Path) -> Deleted | None:
    """The contents of a folder of the trash; None if a killed process left it empty."""
    try:
        note = parse_json(read_text(folder / NOTE_FILE), NOTE_FILE)
    except BadInput:
        return None
    match note:
        case {"place": str(place), "when": float(when)}:
            path = folder / place.rpartition("/")[2]
            if is_there(path):
                return Deleted(folder.name, place, when, _size(path), display_name(path))
    return None


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
