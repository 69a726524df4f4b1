"""Labels: users' notes on their adapters and pictures. The files themselves do not change.

write_label(space, "adapters/robot.safetensors", favourite=True, tags=("toys",))
read_labels(space)["adapters/robot.safetensors"].tags
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from studio.workspace.database import read_database, write_database
from studio.workspace.folder import Workspace


@dataclass(frozen=True)
class Label:
    """A user's notes on a file.

    triggers: words that replace those in the file; None keeps the file's. cover: the place of a
    picture, or "".
    """

    favourite: bool = False
    notes: str = ""
    tags: tuple[str, ...] = ()
    triggers: tuple[str, ...] | None = None
    cover: str = ""


def read_labels(space: Workspace) -> dict[str, Label]:
    """All labels, by the place of their file: its path relative to the workspace."""
    with read_database(space) as db:
        rows = db.execute("SELECT place, told FROM labels").fetchall()
    return {row["place"]: _label(json.loads(row["told"])) for row in rows}


def write_label(space: Workspace, place: str, **changes: Any) -> Label:
    """Change fields of a Label; the others stay. Returns the label."""
    with write_database(space) as db:
        row = db.execute("SELECT told FROM labels WHERE place = ?", (place,)).fetchone()
        label = replace(_label(json.loads(row["told"])) if row else Label(), **changes)
        stored = json.dumps(asdict(label))
        db.execute("INSERT OR REPLACE INTO labels VALUES (?, ?)", (place, stored))
    return label


def move_label(space: Workspace, place: str, new: str) -> None:
    """Move a label with its renamed file. An older label at the new place is removed."""
    with write_database(space) as db:
        db.execute("DELETE FROM labels WHERE place = ?", (new,))
        db.execute("UPDATE labels SET place = ? WHERE place = ?", (new, place))


def drop_labels(space: Workspace, places: Sequence[str]) -> None:
    """Delete labels, such as those of deleted files whose names are used again."""
    with write_database(space) as db:
        db.executemany("DELETE FROM labels WHERE place = ?", [(place,) for place in places])


def _label(stored: dict[str, Any]) -> Label:
    known = {name: value for name, value in stored.items() if name in Label.__dataclass_fields__}
    lists = {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
    return Label(**{**known, **lists})
