"""The bases that a workspace offers: the bundled ones, and those that were used before."""

import time
from dataclasses import dataclass

from studio.assets import asset
from studio.bases.architecture import family_of
from studio.bases.names import BUNDLED_BASES, HUB_ID
from studio.errors import BadInput
from studio.files import display_name, expand_home, is_there
from studio.workspace.database import read_database, write_database
from studio.workspace.folder import Workspace


@dataclass(frozen=True)
class KnownBase:
    """A base to offer. source: for `load_base`. family: "" until the base is opened."""

    source: str
    name: str
    family: str


def list_bases(space: Workspace) -> list[KnownBase]:
    """The bundled bases, then the others, the last used first."""
    bundled = [
        KnownBase(name, name, family_of(asset(name)))
        for name in BUNDLED_BASES
        if (asset(name) / "model_index.json").is_file()
    ]
    with read_database(space) as db:
        rows = db.execute("SELECT source, name, family FROM bases ORDER BY used DESC").fetchall()
    return bundled + [KnownBase(**row) for row in rows]


def base_family(space: Workspace, source: str) -> str:
    """The family of a base in the list; "" where it is not known yet."""
    return next((base.family for base in list_bases(space) if base.source == source), "")


def add_base(space: Workspace, source: str) -> KnownBase:
    """Remember a base: a diffusers folder, a .safetensors checkpoint or a Hugging Face id.

    Raises BadInput for a folder or file that is no base of a known family. An id is not checked:
    the first job that uses it downloads the base.
    """
    from studio.bases.resolve import find_source

    if source in BUNDLED_BASES:
        raise BadInput(f"{source} is among the bases already")
    if HUB_ID.fullmatch(source) and not is_there(expand_home(source)):
        return remember_base(space, source, name=source, family="")
    path = find_source(source, half=False).resolve()
    return remember_base(space, str(path), name=display_name(path), family=family_of(path))


def remember_base(space: Workspace, source: str, *, name: str, family: str) -> KnownBase:
    """Store that a base was used, and its family."""
    if source not in BUNDLED_BASES:
        with write_database(space) as db:
            row = (source, name, family, time.time())
            db.execute("INSERT OR REPLACE INTO bases VALUES (?, ?, ?, ?)", row)
    return KnownBase(source, name, family)


def forget_base(space: Workspace, source: str) -> None:
    """Remove a base from the list; its files stay."""
    with write_database(space) as db:
        if db.execute("DELETE FROM bases WHERE source = ?", (source,)).rowcount == 0:
            raise BadInput(f"{source} is not among the bases")
