"""Import and export adapters, and restore deleted things, for the page and the API."""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast, get_args

from studio.adapters.formats.names import PEFT_CONFIG
from studio.errors import BadInput
from studio.queue.client import restore_job
from studio.workspace import (
    AdapterFile,
    Tool,
    Workspace,
    export_adapter,
    import_adapter,
    is_relabelled,
    list_trash,
    undelete,
)
from ui.web.server.downloads import link_download
from ui.web.server.torch_process import run_in_process

TOOLS: tuple[str, ...] = get_args(Tool)


def import_files(space: Workspace, files: Sequence[Path]) -> tuple[list[AdapterFile], list[str]]:
    """Import uploaded files into the library. Takes seconds.

    An adapter_config.json of peft must come with exactly one other file, to which it belongs.
    Returns the adapters, and a sentence for each file that was refused.
    """
    adapters = [file for file in files if file.name != PEFT_CONFIG]
    with_config = len(files) > len(adapters)
    if with_config and len(adapters) != 1:
        return [], [f"{PEFT_CONFIG} belongs to one adapter: import these two files by themselves"]
    with TemporaryDirectory(prefix="import-", dir=space.cache) as folder:
        if with_config:
            for file in files:
                shutil.copyfile(file, Path(folder, file.name))
            adapters = [Path(folder, adapters[0].name)]
        results = run_in_process(_import_each, space, adapters) if adapters else []
    imported = [result for result in results if isinstance(result, AdapterFile)]
    return imported, [result for result in results if isinstance(result, str)]


def export_file(space: Workspace, name: str, *, to: str, half: str = "") -> Path:
    """Write an adapter as another program reads it; returns the path of the download.

    to: one of TOOLS. half: content or style of a B-LoRA, "" for all of it. Takes seconds. Raises
    BadInput where there is no such format, adapter or half.
    """
    if to not in TOOLS:
        raise BadInput(f"there is no format {to!r}: choose from {', '.join(TOOLS)}")
    tool = cast(Tool, to)
    if tool == "studio" and not half and not is_relabelled(space, name):
        file = export_adapter(space, name, to=tool)
    else:
        file = run_in_process(export_adapter, space, name, to=tool, half=half)  # needs PyTorch
    return link_download(space, file.name, file)


def restore(space: Workspace, id: str) -> Path:
    """Restore something from the trash; returns its path. A training's job is restored too."""
    for deleted in list_trash(space):
        place, _, name = deleted.place.partition("/")
        number = name.rpartition("-")[2]
        if deleted.id == id and place == "runs" and number.isdecimal():
            with suppress(BadInput):  # the job was not removed, only its folder was deleted
                return space.runs / restore_job(space, int(number)).run
    return undelete(space, id)


def _import_each(space: Workspace, files: Sequence[Path]) -> list[AdapterFile | str]:
    """Import each file: the adapter, or the reason why the file is refused."""
    results: list[AdapterFile | str] = []
    for file in files:
        try:
            results.append(import_adapter(space, file))
        except BadInput as error:
            told = str(error).replace(str(file), file.name)
            results.append(told if file.name in told else f"{file.name}: {told}")
    return results
