"""Open a workspace, or make one."""

from pathlib import Path

from studio.errors import BadInput
from studio.files import expand_home
from studio.workspace.database import create_database
from studio.workspace.folder import DATABASE, FOLDERS, Workspace

# Not ~/studio, where a clone of this program may lie.
DEFAULT_FOLDER = Path("~/studio-workspace")


def open_workspace(folder: str | Path = DEFAULT_FOLDER) -> Workspace:
    """The workspace in this folder, which is made if it is missing.

    Raises BadInput where the folder holds other files, so that those are never served or deleted;
    where it cannot be written; and for a workspace of a newer Studio.
    """
    try:
        root = expand_home(folder).resolve()
        if root.exists() and not root.is_dir():
            raise BadInput(f"{root} is a file: a workspace is a folder")
        if root.is_dir() and not (root / DATABASE).is_file() and any(root.iterdir()):
            raise BadInput(
                f"{root} holds other things: a workspace needs an empty folder, or a new one"
            )
        root.mkdir(parents=True, exist_ok=True)
        space = Workspace(root)
        create_database(space.database)  # first, since it marks the folder as a workspace
        for name in FOLDERS:
            (root / name).mkdir(exist_ok=True)
            if (root / name).resolve() != root / name:
                raise BadInput(f"{root / name} leads out of the workspace: put a folder there")
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadInput(f"{folder} cannot be a workspace: {reason}") from error
    return space
