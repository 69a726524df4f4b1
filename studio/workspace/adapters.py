"""The library: a flat folder of adapter files, described from their headers alone.

The database caches each description until the file changes, so that a library of hundreds is
listed in milliseconds.
"""

import filecmp
import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from studio.adapters.adapter_header import find_adapter_file
from studio.adapters.blora_blocks import HALVES
from studio.adapters.component_folders import component_files
from studio.adapters.describe import describe
from studio.adapters.formats.metadata import read_info
from studio.adapters.formats.names import PEFT_CONFIG, PEFT_PREFIX
from studio.adapters.safetensors_header import read_header
from studio.errors import BadInput
from studio.files import atomic_write, copy_file, display_name
from studio.json_value import JSON
from studio.workspace.database import read_database, write_database
from studio.workspace.folder import (
    Workspace,
    child_path,
    entries,
    move_to_free_name,
)
from studio.workspace.labels import Label, drop_labels, move_label, read_labels, write_label
from studio.workspace.names import check_name, clean_name, numbered_names
from studio.workspace.thumbnails import cached_thumbnail
from studio.workspace.trash import delete

SUFFIX = ".safetensors"
# Entries of `describe` that are fields of `AdapterFile`.
DESCRIBED = ("kind", "family", "base", "triggers", "halves", "parameters")
Tool = Literal["studio", "kohya", "diffusers", "lycoris", "onetrainer"]


_Row = tuple[str, int, int, str]  # a row of the table `headers`


@dataclass(frozen=True)
class AdapterFile:
    """An adapter of the library. Its name identifies it everywhere.

    kind, family, base, triggers: as in studio.Adapter. halves: "content" and "style" of a B-LoRA,
    which a mix takes as `NAME:content`. modified: seconds since 1970. preview: a small PNG.
    problem: why it cannot be used, as a sentence; "" where it can. favourite, notes, tags: from its
    Label. A label's trigger words and cover replace the file's `triggers` and `preview`.
    """

    name: str
    path: Path
    bytes: int
    modified: float
    kind: str = ""
    family: str = ""
    base: str = ""
    triggers: tuple[str, ...] = ()
    halves: tuple[str, ...] = ()
    parameters: int = 0
    steps: int | None = None
    preview: Path | None = None
    problem: str = ""
    favourite: bool = False
    notes: str = ""
    tags: tuple[str, ...] = ()


def list_adapters(space: Workspace, *, family: str = "") -> list[AdapterFile]:
    """The library, the latest first. family: only adapters for bases of that family.

    Adapters that state no family are taken to fit all. Damaged files are listed with their problem.
    """
    with read_database(space) as db:
        cached = {row["name"]: row for row in db.execute("SELECT * FROM headers")}
    files = [path for path in entries(space.adapters) if path.suffix == SUFFIX and path.is_file()]
    read: list[_Row] = []
    adapters: list[AdapterFile] = []
    for path in files:
        with suppress(FileNotFoundError):  # deleted since it was listed
            adapters.append(_describe(space, path, cached.get(path.stem), read))
    _cache(space, read)
    gone = set(cached) - {path.stem for path in files}
    if gone:
        with write_database(space, durable=False) as db:
            db.executemany("DELETE FROM headers WHERE name = ?", [(name,) for name in gone])
    labels = read_labels(space)
    adapters = [_labelled(space, a, labels.get(label_place(a.name))) for a in adapters]
    fitting = [adapter for adapter in adapters if not family or adapter.family in ("", family)]
    return sorted(fitting, key=lambda adapter: (-adapter.modified, adapter.name))


def get_adapter(space: Workspace, name: str) -> AdapterFile:
    """One adapter by its name; BadInput where there is none."""
    path = _path(space, name)
    with read_database(space) as db:
        cached = db.execute("SELECT * FROM headers WHERE name = ?", (name,)).fetchone()
    read: list[_Row] = []
    adapter = _describe(space, path, cached, read)
    _cache(space, read)
    return _labelled(space, adapter, read_labels(space).get(label_place(name)))


def label_place(name: str) -> str:
    """The place of an adapter of the library, as `write_label` takes it."""
    return f"adapters/{name}{SUFFIX}"


def is_relabelled(space: Workspace, name: str) -> bool:
    """Whether the user gave an adapter other trigger words than those in its file."""
    return read_labels(space).get(label_place(name), Label()).triggers is not None


def label_adapter(space: Workspace, name: str, **changes: Any) -> AdapterFile:
    """Change fields of an adapter's Label, such as `notes`. BadInput for an unknown adapter."""
    _path(space, name)
    write_label(space, label_place(name), **changes)
    return get_adapter(space, name)


def adapter_path(space: Workspace, name: str) -> str:
    """The path that `load_adapter` takes, for `NAME`, `NAME:content` or `NAME:style`."""
    plain, colon, half = name.partition(":")
    if colon and half not in HALVES:
        raise BadInput(
            f"{name}: after a name you can give a half ({' or '.join(HALVES)}) and a strength, a "
            f"number, as in :style:0.8, but not :{half}"
        )
    return f"{_path(space, plain)}{colon}{half}"


def import_adapter(space: Workspace, file: str | Path, *, name: str = "") -> AdapterFile:
    """Copy a file from elsewhere into the library, after reading all of it.

    file: a .safetensors file of Studio, kohya, diffusers, peft or LyCORIS, or a folder that
    diffusers or peft wrote. name: default: the file's. A file that is imported twice is stored
    once. Imports PyTorch.

    Raises BadInput for whatever `studio.load_adapter` refuses; then nothing is stored.
    """
    from studio.adapters.load import load_adapter  # PyTorch takes seconds

    source = Path(file)
    title = _without_suffix(name or display_name(source))
    wanted = check_name(title) if name else clean_name(title, otherwise="adapter")
    # The copy is checked and stored, so that a change of the original in between is harmless.
    with TemporaryDirectory(dir=space.cache) as folder:
        copy = _copy(find_adapter_file(source), Path(folder))
        try:
            adapter = load_adapter(copy)
        except BadInput as error:
            # The copy is deleted, so the message names the original.
            text = str(error).replace(str(copy), source.name).replace(f"{folder}{os.sep}", "")
            raise BadInput(text) from error
        # Make one file of several, or of one whose alpha is in peft's configuration.
        if copy.is_dir() or any(PEFT_PREFIX in key for key in read_header(copy).shapes):
            copy = adapter.save(Path(folder) / f"whole{SUFFIX}")
        return add_adapter(space, copy, name=wanted)


def add_adapter(space: Workspace, file: Path, *, name: str) -> AdapterFile:
    """Copy an adapter's checked file into the library, without overwriting another.

    Where the name is taken it becomes `name-2` and so on, unless the file there is the same.
    """
    name = _without_suffix(name)
    for stem in numbered_names(check_name(name)):
        path = space.adapters / f"{stem}{SUFFIX}"
        if not path.exists():
            break
        if filecmp.cmp(path, file, shallow=False):
            return get_adapter(space, stem)
    with TemporaryDirectory(dir=space.cache) as folder:
        path = move_to_free_name(_copy(file, Path(folder)), space.adapters, f"{name}{SUFFIX}")
    drop_labels(space, [label_place(path.stem)])  # the label of a deleted adapter of this name
    return get_adapter(space, path.stem)


def rename_adapter(space: Workspace, name: str, new: str) -> AdapterFile:
    """Rename an adapter. Raises BadInput where the new name is taken or not permitted.

    new: with or without the file's suffix.
    """
    path, new = _path(space, name), _without_suffix(new)
    if child_path(space.adapters, f"{check_name(new)}{SUFFIX}").exists():
        raise BadInput(f"there is an adapter {new} already: choose another name")
    moved = move_to_free_name(path, space.adapters, f"{new}{SUFFIX}").stem
    move_label(space, label_place(name), label_place(moved))
    return get_adapter(space, moved)


def delete_adapter(space: Workspace, name: str) -> str:
    """Move an adapter to the trash; returns the id to `undelete` it by."""
    return delete(space, f"adapters/{_path(space, name).name}")


def export_adapter(space: Workspace, name: str, *, to: Tool, half: str = "") -> Path:
    """An adapter's file for another program, to be downloaded; "studio" is Studio's own format.

    half: "content" or "style", for that half of a B-LoRA alone. The file is in the workspace's
    cache until the next export of this name. Imports PyTorch. Raises BadInput where that program's
    files cannot hold the adapter.
    """
    path = _path(space, name)
    if to == "studio" and not half and not is_relabelled(space, name):
        return path
    from studio.adapters.formats.convert import CONVERTERS
    from studio.adapters.load import load_adapter  # PyTorch takes seconds
    from studio.adapters.tensor_file import write_tensors

    adapter = load_adapter(adapter_path(space, f"{name}:{half}" if half else name))
    if is_relabelled(space, name):
        adapter = replace(adapter, triggers=get_adapter(space, name).triggers)
    file = space.cache / "exports" / f"{'-'.join(filter(None, (name, half, to)))}{SUFFIX}"
    if to == "studio":
        return adapter.save(file)
    write_tensors(file, *CONVERTERS[to](adapter))
    return file


def _path(space: Workspace, name: str) -> Path:
    path = child_path(space.adapters, f"{check_name(name)}{SUFFIX}")
    if not path.is_file():
        raise BadInput(f"there is no adapter {name} in the library")
    return path


def _without_suffix(name: str) -> str:
    """A name without .safetensors; `robot.v2` stays."""
    return name[: -len(SUFFIX)] if name.lower().endswith(SUFFIX) else name


def _copy(file: Path, folder: Path) -> Path:
    """Copy an adapter's file or folder of components, with peft's configuration beside it."""
    for component, part in component_files(file).items():
        (folder / file.name / component).mkdir(parents=True)
        _copy(part, folder / file.name / component)
    if file.is_dir():
        return folder / file.name
    config = file.with_name(PEFT_CONFIG)
    for source in (file, config) if config.is_file() else (file,):
        copy_file(source, folder / source.name)
    return folder / file.name


def _describe(
    space: Workspace, path: Path, cached: sqlite3.Row | None, read: list[_Row]
) -> AdapterFile:
    """The adapter of a file: from the cache or, if the file is new or changed, from its header.

    read: a row for the cache is appended to it if the header was read.
    """
    state = path.stat()
    if cached:
        before = _adapter_file(space, path, state, json.loads(cached["told"]))
        unchanged = (cached["modified"], cached["bytes"]) == (state.st_mtime_ns, state.st_size)
        if unchanged and (before.preview is None or before.preview.exists()):
            return before
        if before.preview:
            before.preview.unlink(missing_ok=True)
    facts = _read_facts(space, path, state)
    read.append((path.stem, state.st_mtime_ns, state.st_size, json.dumps(facts)))
    return _adapter_file(space, path, state, facts)


def _cache(space: Workspace, read: Sequence[_Row]) -> None:
    """Put headers into the cache, in one transaction, because each takes time."""
    if read:
        with write_database(space, durable=False) as db:
            db.executemany("INSERT OR REPLACE INTO headers VALUES (?, ?, ?, ?)", read)


def _read_facts(space: Workspace, path: Path, state: os.stat_result) -> dict[str, JSON]:
    """The fields of an `AdapterFile` that come from its header, as JSON for the cache.

    Also writes the preview into the cache; "preview" is the name of that file.
    """
    try:
        check_name(path.stem)
        description = describe(path)
        picture = read_info(read_header(path).metadata, path).preview
    except BadInput as error:
        return {"problem": str(error)}
    facts = {name: description[name] for name in DESCRIBED}
    recipe = description["recipe"]
    steps = recipe.get("steps") if isinstance(recipe, dict) else None
    facts["steps"] = steps if isinstance(steps, int) else None
    if picture:
        preview = _previews(space) / f"{path.stem}-{state.st_mtime_ns}.png"
        facts["preview"] = preview.name
        with atomic_write(preview) as file:
            picture.save(file, "PNG")
    return facts


def _adapter_file(
    space: Workspace, path: Path, state: os.stat_result, facts: Mapping[str, Any]
) -> AdapterFile:
    """The adapter of a file. facts: from `_read_facts`."""
    values: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in facts.items()
    }
    if values.get("preview"):
        values["preview"] = _previews(space) / values["preview"]
    return AdapterFile(path.stem, path, state.st_size, state.st_mtime, **values)


def _labelled(space: Workspace, adapter: AdapterFile, label: Label | None) -> AdapterFile:
    """The adapter with the fields of its label."""
    if label is None:
        return adapter
    triggers = adapter.triggers if label.triggers is None else label.triggers
    cover = _cover(space, label.cover) if label.cover else None
    return replace(
        adapter,
        triggers=triggers,
        preview=cover or adapter.preview,
        favourite=label.favourite,
        notes=label.notes,
        tags=label.tags,
    )


def _cover(space: Workspace, place: str) -> Path | None:
    """A thumbnail of a cover; None where the picture is gone or damaged."""
    try:
        return cached_thumbnail(space, place)
    except BadInput:
        return None


def _previews(space: Workspace) -> Path:
    return space.cache / "previews"
