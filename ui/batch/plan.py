"""Plans a batch: the shots of a manifest, and a file name for each.

Imports no PyTorch, so that mistakes that show without opening a base are reported at once.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from studio.errors import BadInput, join_errors
from studio.files import check_folder_writable
from ui.batch.compatibility import find_incompatible
from ui.batch.folder_record import Record, file_name
from ui.batch.manifest import Manifest, PlannedShot, read_manifest


@dataclass(frozen=True)
class Plan:
    """The pictures of a batch. names: a file name for each shot; no two shots are the same."""

    manifest: Manifest
    out: Path
    planned: tuple[PlannedShot, ...]
    names: tuple[str, ...]

    def of_base(self, source: str) -> list[int]:
        """The places of the shots on a base."""
        return [at for at, one in enumerate(self.planned) if one.shot.base == source]

    @property
    def sources(self) -> list[str]:
        return list(dict.fromkeys(one.shot.base for one in self.planned))

    def missing(self) -> list[int]:
        """The places of the shots whose pictures don't exist yet."""
        # The folder is listed once, as on a network disk every look-up takes time.
        existing = set(os.listdir(self.out)) if self.out.is_dir() else set()
        return [at for at, name in enumerate(self.names) if name not in existing]


def plan_batch(path: Path, out: Path | None, *, resume: bool) -> Plan:
    """Read a manifest and name its pictures' files.

    Raises BadInput for a manifest with mistakes, and for a folder that holds a batch already.
    """
    manifest = read_manifest(path)
    if problems := list(find_incompatible(manifest.planned)):
        raise join_errors(problems)
    folder = out or Path("outputs") / path.stem
    check_folder_writable(folder)
    if Record(folder).there and not resume:
        raise BadInput(f"{folder} holds a batch: go on with it by --resume, or give another --out.")
    unique: dict[str, PlannedShot] = {}
    for one in manifest.planned:
        unique.setdefault(file_name(one.shot, path.parent), one)
    return Plan(manifest, folder, tuple(unique.values()), tuple(unique))
