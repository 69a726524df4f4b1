"""Adapters into the library and out of it, and what was deleted back, for page and programs."""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast, get_args

from studio.errors import BadInput
from studio.queue.client import restore_job
from studio.workspace import (
    AdapterFile,
    Tool,
    Workspace,
    export_adapter,
    import_adapter,
    list_trash,
    undelete,
)
from ui.web.server.adapter_process import apart
from ui.web.server.downloads import link_download

__all__ = ["bring_back", "give", "take_in"]

TOOLS: tuple[str, ...] = get_args(Tool)
SETTINGS = "adapter_config.json"  # peft's, which belongs to the file beside it


def take_in(space: Workspace, files: Sequence[Path]) -> tuple[list[AdapterFile], list[str]]:
    """Take files that were uploaded into the library; what was taken, and why others were not.

    A peft adapter_config.json among them belongs to the one other file. Takes seconds.
    """
    others = [file for file in files if file.name != SETTINGS]
    if len(files) > len(others) and len(others) != 1:
        return [], [f"{SETTINGS} belongs to one adapter: import the two together, without others"]
    with TemporaryDirectory(prefix="import-", dir=space.cache) as folder:
        if len(files) > len(others):
            for file in files:
                shutil.copyfile(file, Path(folder, file.name))
            others = [Path(folder, file.name) for file in others]
        found = apart(_import, space, others) if others else []
    taken = [one for one in found if isinstance(one, AdapterFile)]
    return taken, [one for one in found if isinstance(one, str)]


def give(space: Workspace, name: str, *, to: str, half: str = "") -> Path:
    """An adapter as another program reads it, as a file to take away. Takes seconds.

    to: studio, kohya, diffusers or lycoris. half: content or style, of a B-LoRA.
    """
    if to not in TOOLS:
        raise BadInput(f"there is no format {to!r}: choose from {', '.join(TOOLS)}")
    tool = cast(Tool, to)
    if tool == "studio" and not half:
        file = export_adapter(space, name, to=tool)
    else:
        file = apart(export_adapter, space, name, to=tool, half=half)  # PyTorch
    return link_download(space, file.name, file)


def bring_back(space: Workspace, id: str) -> Path:
    """Put something deleted back where it lay, a training with its job; returns where it lies."""
    for one in list_trash(space):
        kind, _, name = one.place.partition("/")
        number = name.rpartition("-")[2]
        if one.id == id and kind == "runs" and number.isdecimal():
            with suppress(BadInput):  # the folder alone was deleted
                return space.runs / restore_job(space, int(number)).run
    return undelete(space, id)


def _import(space: Workspace, files: Sequence[Path]) -> list[AdapterFile | str]:
    """Each file's adapter, or why it is none."""
    found: list[AdapterFile | str] = []
    for file in files:
        try:
            found.append(import_adapter(space, file))
        except BadInput as error:
            found.append(f"{file.name}: {str(error).replace(str(file), file.name)}")
    return found
