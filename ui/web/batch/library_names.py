"""Manifests that come from a page: files in them are called as in the library and the history."""

import os
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from studio.adapters.blora_blocks import split_half
from studio.errors import BadInput
from studio.requests.shot import Shot
from studio.workspace import Workspace, list_adapters, list_bases
from ui.batch.compatibility import find_incompatible
from ui.batch.manifest import PlannedShot, read_manifest
from ui.batch.manifest_lines import Problem, join_problems

ENDINGS = ("toml", "jsonl", "csv")
MOST_QUEUED = 5000  # shots of a batch; more than a page can show and a day can make


def shots_of(space: Workspace, text: str, ending: str = "toml") -> tuple[Shot, ...]:
    """The shots of a manifest, all different, ready for `queue_pictures`.

    Adapters are called by their names in the library (`robot`, `robot:0.8`, `blora:style`),
    pictures to start from by their ids in the history. Raises BadInput naming every line and field
    amiss, and for files outside the workspace.
    """
    if ending not in ENDINGS:
        raise BadInput(f"a manifest's name ends in .{', .'.join(ENDINGS)}, and this is .{ending}")
    _refuse_reading(text, ending)
    with TemporaryDirectory() as name:  # a short one, since sentences quote what lies there
        folder = Path(name)
        path = folder / f"manifest.{ending}"
        path.touch()  # before any adapter of this name, which is another's file
        _offer(space, folder)
        path.write_text(text, encoding="utf-8")
        try:
            planned = read_manifest(path, most=MOST_QUEUED).planned
            if problems := [*_outside(space, planned)] or [*find_incompatible(planned)]:
                raise join_problems(problems)
        except BadInput as error:
            raise BadInput(str(error).replace(f"{folder}/", "")) from None
        return tuple(dict.fromkeys(_settled(one.shot) for one in planned))


def _refuse_reading(text: str, ending: str) -> None:
    """BadInput for a manifest that would have other files read into its prompts."""
    try:
        found = tomllib.loads(text) if ending == "toml" else {}
    except (tomllib.TOMLDecodeError, RecursionError):
        return  # the reader says so with its line
    shots = found.get("shots", [])
    tables = [found, *(one for one in shots if isinstance(one, dict))]
    if any("prompt_file" in one for one in tables):
        raise BadInput("prompt_file: write the prompts here, as a list under prompts")
    if isinstance(found.get("wildcards"), str):
        raise BadInput("wildcards: write the lists here, under [wildcards]")


def _offer(space: Workspace, folder: Path) -> None:
    """Let the names of the library and the history be found beside the manifest."""
    adapters = list_adapters(space)
    places = [(one.name, one.path) for one in adapters]
    places += [(one.path.name, one.path) for one in adapters]
    places += [(day.name, day) for day in space.pictures.iterdir() if day.is_dir()]
    for name, place in places:
        if not os.path.lexists(folder / name):  # the first of a name has it
            (folder / name).symlink_to(place)


def _outside(space: Workspace, planned: Sequence[PlannedShot]) -> Iterator[Problem]:
    """What a manifest names that lies elsewhere."""
    known = {base.source for base in list_bases(space)}
    for one in planned:
        shot = one.shot
        files = [Path(split_half(str(file))[0]).resolve() for file, _ in shot.adapters]
        if not all(file.is_relative_to(space.adapters) for file in files):
            yield one.problem("adapters", "call adapters by their names in the library")
        start = shot.init_image
        if start is not None and not Path(str(start)).resolve().is_relative_to(space.pictures):
            yield one.problem("init_image", "call a picture by its id in the history")
        if Path(shot.base).exists() and shot.base not in known:
            yield one.problem("base", "add it to the bases in the library first")


def _settled(shot: Shot) -> Shot:
    """The shot with its files where they really lie."""
    adapters = []
    for file, strength in shot.adapters:
        place, half = split_half(str(file))
        adapters.append((f"{Path(place).resolve()}{':' if half else ''}{half}", strength))
    start = shot.init_image and str(Path(str(shot.init_image)).resolve())
    return replace(shot, adapters=tuple(adapters), init_image=start)
