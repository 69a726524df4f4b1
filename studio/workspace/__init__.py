"""The workspace: one folder for all that Studio makes, and what the web pages show of it.

    space = open_workspace("~/studio-workspace")
    list_adapters(space, family="sdxl")     # the library; import_, rename_, export_, delete_adapter
    list_pictures(space, limit=60)          # the history, newest first; thumbnail, delete_picture
    new_set(space, "my robot")              # uploads to train on; add_upload, write_caption
    list_bases(space)                       # bases known; add_base, forget_base
    read_log(space, run)                    # a training's plot; list_samples, list_checkpoints
    undelete(space, delete_adapter(space, "robot"))

Everything goes by names, never by paths: what a page sends can reach nothing outside the folder.
Whatever cannot be done raises `studio.BadInput` with a sentence to show. No function here imports
PyTorch but `import_adapter` and `export_adapter`, and none keeps a lock or an open file, so all of
them may be called from any thread. Jobs are in `studio.queue.client`.
"""

from studio.workspace.adapters import (
    AdapterFile,
    Tool,
    adapter_place,
    delete_adapter,
    export_adapter,
    get_adapter,
    import_adapter,
    keep_adapter,
    list_adapters,
    rename_adapter,
)
from studio.workspace.bases import KnownBase, add_base, forget_base, list_bases, note_base
from studio.workspace.database import reading, writing
from studio.workspace.folder import (
    DEFAULT,
    Workspace,
    check_name,
    clean_name,
    inside,
    open_workspace,
    title_of,
    within,
)
from studio.workspace.pictures import (
    PictureFile,
    delete_picture,
    get_picture,
    list_pictures,
    next_picture,
    thumbnail,
)
from studio.workspace.runs import (
    Checkpoint,
    Log,
    Sample,
    get_run,
    list_checkpoints,
    list_samples,
    read_log,
)
from studio.workspace.trash import Deleted, delete, empty_trash, list_trash, undelete
from studio.workspace.uploads import (
    Upload,
    UploadSet,
    add_upload,
    delete_set,
    delete_upload,
    get_set,
    list_sets,
    new_set,
    small_upload,
    write_caption,
)

__all__ = [
    "DEFAULT",
    "AdapterFile",
    "Checkpoint",
    "Deleted",
    "KnownBase",
    "Log",
    "PictureFile",
    "Sample",
    "Tool",
    "Upload",
    "UploadSet",
    "Workspace",
    "adapter_place",
    "add_base",
    "add_upload",
    "check_name",
    "clean_name",
    "delete",
    "delete_adapter",
    "delete_picture",
    "delete_set",
    "delete_upload",
    "empty_trash",
    "export_adapter",
    "forget_base",
    "get_adapter",
    "get_picture",
    "get_run",
    "get_set",
    "import_adapter",
    "inside",
    "keep_adapter",
    "list_adapters",
    "list_bases",
    "list_checkpoints",
    "list_pictures",
    "list_samples",
    "list_sets",
    "list_trash",
    "new_set",
    "next_picture",
    "note_base",
    "open_workspace",
    "read_log",
    "reading",
    "rename_adapter",
    "small_upload",
    "thumbnail",
    "title_of",
    "undelete",
    "within",
    "write_caption",
    "writing",
]
