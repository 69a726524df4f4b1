"""The folder of a workspace, and the rule that no name leads out of it.

What a page or a program sends are names, never paths: `child_path` turns a name into a path, and
refuses one that is more than a name, or stands for a link.
"""

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from studio.errors import BadInput

__all__ = [
    "DEFAULT_FOLDER",
    "Workspace",
    "check_name",
    "child_path",
    "clean_name",
    "entries",
    "move_to_free_name",
    "numbered_names",
    "open_workspace",
    "path_in_workspace",
]

# Not ~/studio, which is where a clone of this program lies when it was cloned at home.
DEFAULT_FOLDER = Path("~/studio-workspace")
FOLDERS = ("adapters", "runs", "pictures", "uploads", "trash", "cache", "logs")
DATABASE = "studio.sqlite"
# What a name may hold besides letters, digits and their marks, of any script. No colon, as in
# FILE:HALF:STRENGTH; neither < nor > nor ".
NAME_PUNCTUATION = set("_ .,+()[]@=~!&'#-")
LONGEST_NAME = 120  # bytes in UTF-8 of what a user may call a thing
LONGEST_FILE_NAME = 200  # with an ending and a number behind it
RESERVED_NAMES = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{port}{n}" for port in ("com", "lpt") for n in range(10)),
}


@dataclass(frozen=True)
class Workspace:
    """Where Studio keeps what it makes. `open_workspace` makes one; root is a resolved path.

    adapters/ the library, runs/ a folder for each training, pictures/ what was rendered, by date,
    uploads/ sets of pictures to train on or start from, trash/ what was deleted and may come back,
    cache/ what can be made again, logs/ what workers said, studio.sqlite jobs and known bases.
    """

    root: Path

    @property
    def adapters(self) -> Path:
        return self.root / "adapters"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def pictures(self) -> Path:
        return self.root / "pictures"

    @property
    def uploads(self) -> Path:
        return self.root / "uploads"

    @property
    def trash(self) -> Path:
        return self.root / "trash"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def database(self) -> Path:
        return self.root / DATABASE


def open_workspace(folder: str | Path = DEFAULT_FOLDER) -> Workspace:
    """The workspace in this folder, made where there is none.

    Raises BadInput where the folder holds other things, so that nothing of them is ever served or
    deleted, where it cannot be written, and for a workspace of a newer Studio.
    """
    from studio.workspace.database import create_database

    try:
        root = Path(folder).expanduser().resolve()
        if root.exists() and not root.is_dir():
            raise BadInput(f"{root} is a file: a workspace is a folder")
        if root.is_dir() and not (root / DATABASE).is_file() and any(root.iterdir()):
            raise BadInput(
                f"{root} holds other things: a workspace needs an empty folder, or a new one"
            )
        root.mkdir(parents=True, exist_ok=True)
        space = Workspace(root)
        create_database(space.database)  # first: it is what tells a workspace from other folders
        for name in FOLDERS:
            (root / name).mkdir(exist_ok=True)
            if (root / name).resolve() != root / name:
                raise BadInput(f"{root / name} leads out of the workspace: put a folder there")
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadInput(f"{folder} cannot be a workspace: {reason}") from error
    return space


def check_name(name: str) -> str:
    """The name, if it is one that any system can have for a file; else BadInput."""
    if not _is_name(name, longest=LONGEST_NAME):
        raise BadInput(
            f"{name[:LONGEST_NAME]!r} cannot be a name: use letters, digits, spaces and "
            f"- _ . , + ( ), beginning with a letter or a digit, at most {LONGEST_NAME} bytes"
        )
    return name


def clean_name(text: str, *, otherwise: str) -> str:
    """The nearest permitted name; `otherwise` where nothing of the text is left."""
    kept = "".join(
        sign if _is_allowed(sign) else " " for sign in unicodedata.normalize("NFC", text)
    )
    kept = " ".join(kept.split()).encode()[:LONGEST_NAME].decode(errors="ignore")
    while kept and not (kept[0].isalnum() or kept[0] == "_"):
        kept = kept[1:]
    kept = kept.rstrip(" .")
    return kept if _is_name(kept, longest=LONGEST_NAME) else otherwise


def _is_name(name: str, *, longest: int) -> bool:
    return (
        all(map(_is_allowed, name))
        and name[:1].replace("_", "a").isalnum()
        and name[-1] not in " ."
        and len(name.encode()) <= longest
        and name.partition(".")[0].strip().lower() not in RESERVED_NAMES
        and unicodedata.is_normalized("NFC", name)
    )


def _is_allowed(sign: str) -> bool:
    return sign.isalnum() or sign in NAME_PUNCTUATION or unicodedata.category(sign)[0] == "M"


def child_path(folder: Path, name: str) -> Path:
    """The path of this name in a folder of the workspace, whether or not there is such a thing.

    Raises BadInput for what is no plain name, and for a name that stands for a link.
    """
    path = folder / name
    if (
        not _is_name(name, longest=LONGEST_FILE_NAME)
        or path.is_symlink()
        or path.parent.resolve() != folder
    ):
        raise BadInput(
            f"there can be no {name[:LONGEST_NAME]!r} here: it is no name, or it is a link"
        )
    return path


def path_in_workspace(space: Workspace, place: str) -> Path:
    """The path of a place that is written relative to the workspace, such as "runs/robot-3".

    Raises BadInput unless every part is a plain name and none stands for a link.
    """
    path = space.root
    for part in place.split("/"):
        path = child_path(path, part)
    return path


def entries(folder: Path) -> Iterator[Path]:
    """What lies in a folder of the workspace: no hidden files, no links, in no order."""
    for path in folder.iterdir():
        if not path.name.startswith(".") and not path.is_symlink():
            yield path


def move_to_free_name(thing: Path, folder: Path, name: str) -> Path:
    """Move a file or folder into a folder, never over anything.

    Where the name is taken it becomes `name-2`, `name-3` and so on, a file's before its ending.
    Returns where it lies now.
    """
    ending = "" if thing.is_dir() else Path(name).suffix
    for stem in numbered_names(name.removesuffix(ending)):
        place = folder / f"{stem}{ending}"
        try:
            _move(thing, place)
        except FileExistsError:
            continue
        return place
    raise AssertionError("numbers do not end")


def display_name(path: Path) -> str:
    """What a person calls a thing: a folder by its name, a file by its name without the ending."""
    return path.name if path.is_dir() else path.stem


def numbered_names(name: str) -> Iterator[str]:
    """The name, then `name-2`, `name-3` and so on."""
    yield name
    for number in count(2):
        yield f"{name}-{number}"


def _move(thing: Path, place: Path) -> None:
    """Rename; FileExistsError where there is something already. A kill leaves the thing whole."""
    if thing.is_dir():
        place.mkdir()
        os.replace(thing, place)  # takes the place of an empty folder
        return
    try:
        os.link(thing, place)
        thing.unlink()
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        place.open("x").close()
        os.replace(thing, place)
