"""Manifests that come from a page: files in them are called as in the library and the history."""

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import compose
from studio.adapters.blora_blocks import split_half
from studio.errors import BadInput, join_errors
from studio.requests.shot import Shot
from studio.workspace import Workspace, list_adapters, list_bases
from ui.batch.compatibility import find_incompatible
from ui.batch.manifest import PlannedShot, read_manifest
from ui.batch.manifest_lines import Problem

ENDINGS = ("toml", "jsonl", "csv")
MOST_QUEUED = 5000  # shots of a batch; more than a page can show and a day can make


def shots_of(space: Workspace, text: str, ending: str = "toml") -> tuple[Shot, ...]:
    """The shots of a manifest, all different, ready for `queue_pictures`.

    Adapters are called by their names in the library (`robot`, `robot:0.8`, `blora:style`),
    pictures to start from by their ids in the history. Raises BadInput that names every line and
    field with a mistake, also for files outside the workspace.
    """
    if ending not in ENDINGS:
        raise BadInput(f"a manifest's name ends in .{', .'.join(ENDINGS)}, and this is .{ending}")
    known = {base.source for base in list_bases(space)}
    with TemporaryDirectory() as name:  # a short one, since sentences quote what lies there
        folder = Path(name)
        path = folder / f"manifest.{ending}"
        path.touch()  # before any adapter of this name, which is another's file
        _offer(space, folder)
        path.write_text(text, encoding="utf-8")
        try:
            only = [space.adapters, space.pictures, space.uploads]
            only += [Path(one).resolve() for one in known if os.path.isabs(one)]
            planned = read_manifest(path, most=MOST_QUEUED, only=only).planned
            if problems := [*_unknown_bases(known, planned)] or [*find_incompatible(planned)]:
                raise join_errors(problems)
        except BadInput as error:
            raise BadInput(str(error).replace(f"{folder}/", "")) from None
        return tuple(dict.fromkeys(_settled(one.shot) for one in planned))


def _offer(space: Workspace, folder: Path) -> None:
    """Let the names of the library and the history be found beside the manifest."""
    adapters = list_adapters(space)
    places = [(one.name, one.path) for one in adapters]
    places += [(one.path.name, one.path) for one in adapters]
    places += [(day.name, day) for day in space.pictures.iterdir() if day.is_dir()]
    for name, place in places:
        if not os.path.lexists(folder / name):  # the first of a name has it
            (folder / name).symlink_to(place)


def _unknown_bases(known: Collection[str], planned: Sequence[PlannedShot]) -> Iterator[Problem]:
    """Bases that the library does not list."""
    for one in planned:
        if one.shot.base not in known:
            yield one.problem("base", "add it to the bases in the library first")


def _settled(shot: Shot) -> Shot:
    """The shot with its files where they really lie.

    Under every method one adapter alone draws the picture that a merge draws, so it is merged.
    """
    adapters = []
    for file, strength in shot.adapters:
        place, half = split_half(str(file))
        adapters.append((f"{Path(place).resolve()}{':' if half else ''}{half}", strength))
    start, mask = (one and str(Path(str(one)).resolve()) for one in (shot.init_image, shot.mask))
    together = len(adapters) > 1 or shot.regions or isinstance(shot.method, compose.Merge)
    method = shot.method if together and shot.method != compose.Merge() else None
    return replace(shot, adapters=tuple(adapters), method=method, init_image=start, mask=mask)
