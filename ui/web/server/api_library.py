"""What programs do with the library."""

import dataclasses
from collections.abc import Callable

from gradio.data_classes import FileData

from studio.adapters.describe import describe
from studio.errors import BadInput
from studio.workspace import (
    AdapterFile,
    Workspace,
    add_base,
    delete_adapter,
    display_name,
    get_adapter,
    list_adapters,
    list_bases,
    rename_adapter,
)
from ui.web.library.import_export import bring_back, give, take_in
from ui.web.server.api_calls import Facts, sent, unlinked, uploaded

__all__ = ["library_calls"]


def library_calls(space: Workspace) -> list[Callable]:
    """Them."""

    def list_library(family: str = "") -> list[Facts]:
        """The adapters in the library, the latest first.

        Parameters:
            family: only what fits bases of this family: sd1, sd2 or sdxl (sketch is of sdxl's)
        """
        return [_adapter(one) for one in list_adapters(space, family=family)]

    def describe_adapter(name: str) -> Facts:
        """All that an adapter's file tells: kind, base, layers, ranks, trigger words, recipe.

        Parameters:
            name: as in the library
        """
        found = get_adapter(space, name)
        return _adapter(found) | ({} if found.problem else unlinked(describe(found.path)))

    def import_adapter(file: FileData) -> Facts:
        """Take a .safetensors file of Studio, kohya, diffusers, peft or LyCORIS into the library.

        Parameters:
            file: handle_file("robot.safetensors")
        """
        taken, refused = take_in(space, [uploaded(space, file)])
        if refused:
            raise BadInput(refused[0])
        return _adapter(taken[0])

    def export_adapter(name: str, to: str = "studio", half: str = "") -> FileData:
        """An adapter as a file that another program reads.

        Parameters:
            name: as in the library
            to: studio (also read by diffusers), kohya, diffusers or lycoris
            half: content or style, for that part of a B-LoRA alone
        """
        return sent(give(space, name, to=to, half=half))

    def rename_adapter_(name: str, new: str) -> Facts:
        """Call an adapter otherwise.

        Parameters:
            name: as in the library
            new: what to call it
        """
        return _adapter(rename_adapter(space, name, new))

    def delete_adapter_(name: str) -> str:
        """Move an adapter to the trash; answers with what /undo_delete takes.

        Parameters:
            name: as in the library
        """
        return delete_adapter(space, name)

    def undo_delete(id: str) -> str:
        """Bring back an adapter or a picture from the trash; answers with its name.

        Parameters:
            id: what deleting it answered
        """
        return display_name(bring_back(space, id))

    def list_bases_() -> list[Facts]:
        """The bases to choose from, by source."""
        return [dataclasses.asdict(one) for one in list_bases(space)]

    def add_base_(source: str) -> Facts:
        """Add a base to choose from.

        Parameters:
            source: a Hugging Face id, or a folder or file on the machine that Studio runs on
        """
        return dataclasses.asdict(add_base(space, source))

    calls = (rename_adapter_, delete_adapter_, list_bases_, add_base_)
    for call in calls:
        call.__name__ = call.__name__.rstrip("_")
    found = [list_library, describe_adapter, import_adapter, export_adapter, undo_delete]
    return [*found, *calls]


def _adapter(found: AdapterFile) -> Facts:
    facts = dataclasses.asdict(found)
    del facts["path"], facts["preview"]
    return facts | {"triggers": list(found.triggers), "halves": list(found.halves)}
