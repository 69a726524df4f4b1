"""What people note of their adapters and pictures; the files themselves stay as they are.

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
    """triggers: in place of those in the file, None for those. cover: a picture's place, or ""."""

    favourite: bool = False
    notes: str = ""
    tags: tuple[str, ...] = ()
    triggers: tuple[str, ...] | None = None
    cover: str = ""


def read_labels(space: Workspace) -> dict[str, Label]:
    """All labels, by the place of what they are of, relative to the workspace."""
    with read_database(space) as db:
        rows = db.execute("SELECT place, told FROM labels").fetchall()
    return {row["place"]: _label(json.loads(row["told"])) for row in rows}


def write_label(space: Workspace, place: str, **changes: Any) -> Label:
    """Change fields of a Label; those that are not named stay. Returns the label."""
    with write_database(space) as db:
        row = db.execute("SELECT told FROM labels WHERE place = ?", (place,)).fetchone()
        label = replace(_label(json.loads(row["told"])) if row else Label(), **changes)
        told = json.dumps(asdict(label))
        db.execute("INSERT OR REPLACE INTO labels VALUES (?, ?)", (place, told))
    return label


def move_label(space: Workspace, place: str, new: str) -> None:
    """Let a label follow what was renamed; none of another that had the new name before stays."""
    with write_database(space) as db:
        db.execute("DELETE FROM labels WHERE place = ?", (new,))
        db.execute("UPDATE labels SET place = ? WHERE place = ?", (new, place))


def drop_labels(space: Workspace, places: Sequence[str]) -> None:
    """Forget labels, such as those of files whose names were given to others."""
    with write_database(space) as db:
        db.executemany("DELETE FROM labels WHERE place = ?", [(place,) for place in places])


def _label(told: dict[str, Any]) -> Label:
    known = {name: value for name, value in told.items() if name in Label.__dataclass_fields__}
    lists = {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
    return Label(**{**known, **lists})
