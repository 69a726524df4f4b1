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


_Row = tuple[str, int, int, str]  # of the table `headers`


@dataclass(frozen=True)
class AdapterFile:
    """What the library shows of an adapter; its name is what everything else calls it by.

    kind, family, base, triggers: as in studio.Adapter. halves: "content" and "style" of a B-LoRA,
    which a mix takes as `NAME:content`. modified: seconds since 1970. preview: a small PNG.
    problem: why it cannot be used, as a sentence; "" for what can. favourite, notes, tags: what
    people note of it; their trigger words and their cover stand here in place of the file's.
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
    """The library, the latest first. family: only what fits bases of that family.

    Files of other programs that do not tell their family fit all. Damaged files are listed with
    their problem.
    """
    with read_database(space) as db:
        cached = {row["name"]: row for row in db.execute("SELECT * FROM headers")}
    files = [path for path in entries(space.adapters) if path.suffix == SUFFIX and path.is_file()]
    read: list[_Row] = []
    found: list[AdapterFile] = []
    for path in files:
        with suppress(FileNotFoundError):  # deleted since it was listed
            found.append(_describe(space, path, cached.get(path.stem), read))
    _remember(space, read)
    gone = set(cached) - {path.stem for path in files}
    if gone:
        with write_database(space, durable=False) as db:
            db.executemany("DELETE FROM headers WHERE name = ?", [(name,) for name in gone])
    labels = read_labels(space)
    found = [_labelled(space, one, labels.get(label_place(one.name))) for one in found]
    fitting = [one for one in found if not family or one.family in ("", family)]
    return sorted(fitting, key=lambda one: (-one.modified, one.name))


def get_adapter(space: Workspace, name: str) -> AdapterFile:
    """One adapter by its name; BadInput where there is none."""
    path = _path(space, name)
    with read_database(space) as db:
        cached = db.execute("SELECT * FROM headers WHERE name = ?", (name,)).fetchone()
    read: list[_Row] = []
    found = _describe(space, path, cached, read)
    _remember(space, read)
    return _labelled(space, found, read_labels(space).get(label_place(name)))


def label_place(name: str) -> str:
    """What `write_label` calls an adapter of the library."""
    return f"adapters/{name}{SUFFIX}"


def is_relabelled(space: Workspace, name: str) -> bool:
    """Whether an adapter has other trigger words than its file says."""
    return read_labels(space).get(label_place(name), Label()).triggers is not None


def label_adapter(space: Workspace, name: str, **changes: Any) -> AdapterFile:
    """Change fields of an adapter's Label, such as its notes; BadInput where there is none."""
    _path(space, name)
    write_label(space, label_place(name), **changes)
    return get_adapter(space, name)


def adapter_path(space: Workspace, name: str) -> str:
    """What `load_adapter` opens: the file of `NAME`, or of `NAME:content` and `NAME:style`."""
    plain, colon, half = name.partition(":")
    if colon and half not in HALVES:
        raise BadInput(
            f"{name}: after a name you can give a half ({' or '.join(HALVES)}) and a strength, a "
            f"number, as in :style:0.8, but not :{half}"
        )
    return f"{_path(space, plain)}{colon}{half}"


def import_adapter(space: Workspace, file: str | Path, *, name: str = "") -> AdapterFile:
    """Copy a file from elsewhere into the library, once all of it could be read.

    file: a .safetensors file of Studio, kohya, diffusers, peft or LyCORIS, or a folder that
    diffusers or peft wrote. name: as the file is called where it is not given. The same file
    imported twice is there once. Imports PyTorch.

    Raises BadInput for whatever `studio.load_adapter` refuses; nothing is then stored.
    """
    from studio.adapters.load import load_adapter  # PyTorch takes seconds

    source = Path(file)
    title = _without_suffix(name or display_name(source))
    wanted = check_name(title) if name else clean_name(title, otherwise="adapter")
    # The copy is checked and stored, so that a change of the original in between does no harm.
    with TemporaryDirectory(dir=space.cache) as folder:
        copy = _copy(find_adapter_file(source), Path(folder))
        try:
            adapter = load_adapter(copy)
        except BadInput as error:
            # The copy is gone when the message is read.
            text = str(error).replace(str(copy), source.name).replace(f"{folder}{os.sep}", "")
            raise BadInput(text) from error
        # Its alpha is in another file, or it is several files.
        if copy.is_dir() or any(PEFT_PREFIX in key for key in read_header(copy).shapes):
            copy = adapter.save(Path(folder) / f"whole{SUFFIX}")
        return add_adapter(space, copy, name=wanted)


def add_adapter(space: Workspace, file: Path, *, name: str) -> AdapterFile:
    """Copy an adapter's checked file into the library, without overwriting another.

    Where the name is taken it becomes `name-2` and so on, unless that file is the same.
    """
    name = _without_suffix(name)
    for stem in numbered_names(check_name(name)):
        place = space.adapters / f"{stem}{SUFFIX}"
        if not place.exists():
            break
        if filecmp.cmp(place, file, shallow=False):
            return get_adapter(space, stem)
    with TemporaryDirectory(dir=space.cache) as folder:
        place = move_to_free_name(_copy(file, Path(folder)), space.adapters, f"{name}{SUFFIX}")
    drop_labels(space, [label_place(place.stem)])  # of another of this name, which was deleted
    return get_adapter(space, place.stem)


def rename_adapter(space: Workspace, name: str, new: str) -> AdapterFile:
    """Rename an adapter; BadInput where the new name is taken or not permitted.

    new: with or without the ending of the file.
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
    """An adapter's file as another program reads it, to be downloaded; "studio" is the file itself.

    half: "content" or "style", for that part of a B-LoRA alone. Lies in the workspace's cache
    until the next export of this name. Imports PyTorch. Raises BadInput for what that program's
    files cannot hold.
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
    place = space.cache / "exports" / f"{'-'.join(filter(None, (name, half, to)))}{SUFFIX}"
    if to == "studio":
        return adapter.save(place)
    write_tensors(place, *CONVERTERS[to](adapter))
    return place


def _path(space: Workspace, name: str) -> Path:
    path = child_path(space.adapters, f"{check_name(name)}{SUFFIX}")
    if not path.is_file():
        raise BadInput(f"there is no adapter {name} in the library")
    return path


def _without_suffix(name: str) -> str:
    """A name without the file's suffix; `robot.v2` has none."""
    return name[: -len(SUFFIX)] if name.lower().endswith(SUFFIX) else name


def _copy(file: Path, folder: Path) -> Path:
    """Copy an adapter's file, with the settings that peft writes beside it.

    Or the files of all its components.
    """
    for component, part in component_files(file).items():
        (folder / file.name / component).mkdir(parents=True)
        _copy(part, folder / file.name / component)
    if file.is_dir():
        return folder / file.name
    settings = file.with_name(PEFT_CONFIG)
    for one in (file, settings) if settings.is_file() else (file,):
        copy_file(one, folder / one.name)
    return folder / file.name


def _describe(
    space: Workspace, path: Path, cached: sqlite3.Row | None, read: list[_Row]
) -> AdapterFile:
    """The adapter of a file: from the cache or, if the file is new or changed, from its header.

    read: gets what the cache is to remember of it then.
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


def _remember(space: Workspace, read: Sequence[_Row]) -> None:
    """Put headers into the cache, in one transaction: each waits for the disk."""
    if read:
        with write_database(space, durable=False) as db:
            db.executemany("INSERT OR REPLACE INTO headers VALUES (?, ?, ?, ?)", read)


def _read_facts(space: Workspace, path: Path, state: os.stat_result) -> dict[str, JSON]:
    """The fields of an `AdapterFile` that come from its header, as JSON for the cache.

    Writes the preview into the cache too; `preview` is the name of its file.
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
    """The adapter of a file with these facts, as `_read_facts` returns them."""
    values: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in facts.items()
    }
    if values.get("preview"):
        values["preview"] = _previews(space) / values["preview"]
    return AdapterFile(path.stem, path, state.st_size, state.st_mtime, **values)


def _labelled(space: Workspace, adapter: AdapterFile, label: Label | None) -> AdapterFile:
    """The adapter with what people note of it."""
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
