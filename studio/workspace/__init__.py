# ruff: noqa: F401  other packages import these names from here
"""The workspace: one folder for everything that Studio makes. The web page shows it.

    space = open_workspace("~/studio-workspace")
    list_adapters(space, family="sdxl")     # the library; import_, rename_, export_, delete_adapter
    list_pictures(space, limit=60)          # the history, newest first; thumbnail, delete_picture
    create_set(space, "my robot")           # uploads to train on; add_upload, write_caption
    list_bases(space)                       # bases known; add_base, forget_base
    read_log(space, run)                    # a training's plot; list_samples, list_checkpoints
    undelete(space, delete_adapter(space, "robot"))

Functions take names, never paths, so a request of a page cannot reach anything outside the folder.
Whatever is impossible raises `studio.BadInput` with a sentence for the user. Only `import_adapter`
and `export_adapter` import PyTorch. None keeps a lock or an open file, so any thread may call them.
Jobs are in `studio.queue.client`.
"""

from studio.workspace.adapters import (
    AdapterFile,
    Tool,
    adapter_path,
    add_adapter,
    delete_adapter,
    export_adapter,
    get_adapter,
    import_adapter,
    is_relabelled,
    label_adapter,
    list_adapters,
    rename_adapter,
)
from studio.workspace.bases import (
    KnownBase,
    add_base,
    base_family,
    forget_base,
    list_bases,
    remember_base,
)
from studio.workspace.database import read_database, write_database
from studio.workspace.folder import Workspace, child_path, path_in_workspace
from studio.workspace.labels import read_labels, write_label
from studio.workspace.names import check_name, clean_name
from studio.workspace.opening import DEFAULT_FOLDER, open_workspace
from studio.workspace.pictures import (
    PictureFile,
    delete_picture,
    get_picture,
    list_pictures,
    next_picture_path,
    thumbnail,
)
from studio.workspace.runs import (
    Sample,
    get_run,
    list_checkpoints,
    list_samples,
    read_log,
)
from studio.workspace.trash import Deleted, delete, empty_trash, list_trash, undelete
from studio.workspace.uploads import (
    UploadSet,
    add_upload,
    create_set,
    delete_set,
    delete_upload,
    get_or_create_set,
    get_set,
    keep_start_picture,
    list_sets,
    save_captions,
    upload_thumbnail,
    write_caption,
)
