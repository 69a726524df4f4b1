"""Endpoints for the library: adapters, bases and the trash."""

import dataclasses

from gradio.data_classes import FileData

from studio.adapters.describe import describe
from studio.errors import BadInput
from studio.files import display_name
from studio.workspace import (
    AdapterFile,
    add_base,
    delete_adapter,
    get_adapter,
    label_adapter,
    list_adapters,
    list_bases,
    rename_adapter,
)
from ui.web.api.values import Endpoints, JsonObject, file_data, uploaded_file, without_paths
from ui.web.library.import_export import export_file, import_files, restore


class LibraryEndpoints(Endpoints):
    """The API's endpoints for the library."""

    def list_library(self, family: str = "") -> list[JsonObject]:
        """List the adapters in the library, the latest first.

        Parameters:
            family: only adapters for bases of this family: sd1, sd2 or sdxl (also sketch's)
        """
        return [_facts(adapter) for adapter in list_adapters(self._space, family=family)]

    def describe_adapter(self, name: str) -> JsonObject:
        """Describe an adapter file: kind, base, layers, ranks, trigger words, recipe.

        Parameters:
            name: as in the library
        """
        adapter = get_adapter(self._space, name)
        if adapter.problem:
            return _facts(adapter)
        return _facts(adapter) | without_paths(describe(adapter.path))

    def label_adapter(
        self,
        name: str,
        favourite: bool | None = None,
        notes: str | None = None,
        tags: list[str] | None = None,
        triggers: list[str] | None = None,
    ) -> JsonObject:
        """Change the labels of an adapter in the library; its file stays as it is.

        Labels that are not given stay too.

        Parameters:
            name: as in the library
            favourite: whether it is a favourite
            notes: any text
            tags: such as ["toys", "blue"]
            triggers: trigger words to show in place of the file's
        """
        lists = {"tags": _tuple(tags), "triggers": _tuple(triggers)}
        labels = {"favourite": favourite, "notes": notes, **lists}
        changes = {field: value for field, value in labels.items() if value is not None}
        return _facts(label_adapter(self._space, name, **changes))

    def import_adapter(self, file: FileData) -> JsonObject:
        """Import a .safetensors file of Studio, kohya, diffusers, peft or LyCORIS.

        Parameters:
            file: handle_file("robot.safetensors")
        """
        imported, refused = import_files(self._space, [uploaded_file(self._space, file)])
        if refused:
            raise BadInput(refused[0])
        return _facts(imported[0])

    def export_adapter(self, name: str, to: str = "studio", half: str = "") -> FileData:
        """Export an adapter as a file that another program reads.

        Parameters:
            name: as in the library
            to: studio (also read by diffusers), kohya, diffusers, lycoris or onetrainer
            half: content or style: that half of a B-LoRA alone
        """
        return file_data(export_file(self._space, name, to=to, half=half))

    def rename_adapter(self, name: str, new: str) -> JsonObject:
        """Rename an adapter.

        Parameters:
            name: as in the library
            new: its new name
        """
        return _facts(rename_adapter(self._space, name, new))

    def delete_adapter(self, name: str) -> str:
        """Move an adapter to the trash; returns the id that /undo_delete takes.

        Parameters:
            name: as in the library
        """
        return delete_adapter(self._space, name)

    def undo_delete(self, id: str) -> str:
        """Restore an adapter or a picture from the trash; returns its name.

        Parameters:
            id: the id that deleting it returned
        """
        return display_name(restore(self._space, id))

    def list_bases(self) -> list[JsonObject]:
        """List the bases to choose from. Other endpoints take a base's source."""
        return [dataclasses.asdict(base) for base in list_bases(self._space)]

    def add_base(self, source: str) -> JsonObject:
        """Add a base to choose from.

        Parameters:
            source: a Hugging Face id, or a folder or file on the machine that Studio runs on
        """
        return dataclasses.asdict(add_base(self._space, source))


def _facts(adapter: AdapterFile) -> JsonObject:
    facts = dataclasses.asdict(adapter)
    del facts["path"], facts["preview"]
    lists = {name: list(facts[name]) for name in ("triggers", "halves", "tags")}
    return facts | lists


def _tuple(words: list[str] | None) -> tuple[str, ...] | None:
    return None if words is None else tuple(words)
