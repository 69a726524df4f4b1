"""The history of drawn pictures: numbered PNGs with their recipes, in a folder for each day."""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from studio.errors import BadInput
from studio.workspace.folder import Workspace, child_path, entries
from studio.workspace.labels import drop_labels
from studio.workspace.names import clean_name
from studio.workspace.thumbnails import cached_thumbnail
from studio.workspace.trash import delete

DAY = re.compile(r"\d{4}-\d\d-\d\d")
NUMBERED = re.compile(r"(\d{5,})[ -].*\.png|(\d{5,})\.png")
WORDS = 40  # characters of the prompt in a file's name


@dataclass(frozen=True)
class PictureFile:
    """A picture in the history. id: such as "2026-11-21/00007-a red robot.png"."""

    id: str
    path: Path
    created: float
    """seconds since 1970"""


def list_pictures(
    space: Workspace, *, limit: int = 60, before: str | None = None
) -> list[PictureFile]:
    """The history, newest first. limit, before: at most so many pictures older than this id."""
    return [
        PictureFile(id, path, path.stat().st_mtime)
        for id, path in islice(_newest(space, before), limit)
    ]


def get_picture(space: Workspace, id: str) -> PictureFile:
    """A picture by its id; BadInput where there is none. `read_recipe` reads its recipe."""
    day, _, name = id.partition("/")
    if DAY.fullmatch(day):
        path = child_path(child_path(space.pictures, day), name)
        if NUMBERED.fullmatch(name) and path.is_file():
            return PictureFile(id, path, path.stat().st_mtime)
    raise BadInput(f"there is no picture {id}")


def next_picture_path(space: Workspace, prompt: str) -> Path:
    """The path for the next picture, in today's folder, numbered after all that are there."""
    folder = space.pictures / time.strftime("%Y-%m-%d")
    folder.mkdir(exist_ok=True)
    last = max((_number(path.name) for path in entries(folder)), default=0)
    words = clean_name(prompt.replace(".", " ")[:WORDS], otherwise="picture")
    path = folder / f"{last + 1:05d}-{words}.png"
    drop_labels(space, [f"pictures/{folder.name}/{path.name}"])  # a deleted picture's label
    return path


def delete_picture(space: Workspace, id: str) -> str:
    """Move a picture to the trash; returns the id to `undelete` it by."""
    return delete(space, f"pictures/{get_picture(space, id).id}")


def thumbnail(space: Workspace, id: str) -> Path:
    """A small JPEG of a picture, kept in the cache. Raises BadInput for a damaged picture."""
    return cached_thumbnail(space, f"pictures/{get_picture(space, id).id}")


def _newest(space: Workspace, before: str | None) -> Iterator[tuple[str, Path]]:
    """Ids and paths of all pictures, newest first; before: only those older than this id."""
    last = _order(before) if before else None
    days = sorted((d for d in entries(space.pictures) if DAY.fullmatch(d.name)), reverse=True)
    for day in days:
        if last and day.name > last[0]:
            continue
        pictures = {f"{day.name}/{path.name}": path for path in entries(day) if _number(path.name)}
        for id in sorted(pictures, key=_order, reverse=True):
            if not last or _order(id) < last:
                yield id, pictures[id]


def _order(id: str) -> tuple[str, int, str]:
    day, _, name = id.partition("/")
    return day, _number(name), name


def _number(name: str) -> int:
    """The number in a picture's name; 0 where it has none."""
    matched = NUMBERED.fullmatch(name)
    return int(matched[1] or matched[2]) if matched else 0
