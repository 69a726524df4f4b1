"""Read manifests from the page, which use the names of the library and ids of the history."""

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
MOST_QUEUED = 5000  # shots of a batch: more than the page can show, or a day can draw


def shots_of(space: Workspace, text: str, ending: str = "toml") -> tuple[Shot, ...]:
    """The shots of a manifest, without duplicates, ready for `queue_pictures`.

    The manifest calls adapters by their names in the library (`robot`, `robot:0.8`,
    `blora:style`), and start pictures by their ids in the history. Raises BadInput that names every
    line and field with a mistake. A file outside the workspace is a mistake too.
    """
    if ending not in ENDINGS:
        raise BadInput(f"a manifest's name ends in .{', .'.join(ENDINGS)}, and this is .{ending}")
    known = {base.source for base in list_bases(space)}
    with TemporaryDirectory() as name:  # its path must be short, since messages contain it
        folder = Path(name)
        path = folder / f"manifest.{ending}"
        path.touch()  # takes the name, so that no adapter's link does: the text would go through it
        _offer(space, folder)
        path.write_text(text, encoding="utf-8")
        try:
            only = [space.adapters, space.pictures, space.uploads]
            only += [Path(source).resolve() for source in known if os.path.isabs(source)]
            planned = read_manifest(path, most=MOST_QUEUED, only=only).planned
            if problems := [*_unknown_bases(known, planned)] or [*find_incompatible(planned)]:
                raise join_errors(problems)
        except BadInput as error:
            raise BadInput(str(error).replace(f"{folder}/", "")) from None
        return tuple(dict.fromkeys(_settled(each.shot) for each in planned))


def _offer(space: Workspace, folder: Path) -> None:
    """Link adapters and folders of pictures beside the manifest, by the names that it uses."""
    adapters = list_adapters(space)
    links = [(adapter.name, adapter.path) for adapter in adapters]
    links += [(adapter.path.name, adapter.path) for adapter in adapters]
    links += [(day.name, day) for day in space.pictures.iterdir() if day.is_dir()]
    for name, target in links:
        if not os.path.lexists(folder / name):  # of equal names the first counts
            (folder / name).symlink_to(target)


def _unknown_bases(known: Collection[str], planned: Sequence[PlannedShot]) -> Iterator[Problem]:
    """A problem for each shot whose base is not among the known ones."""
    for each in planned:
        if each.shot.base not in known:
            yield each.problem("base", "add it to the bases in the library first")


def _settled(shot: Shot) -> Shot:
    """The shot with the real paths of its files instead of the links.

    A single adapter is merged: with every other method it would draw the same picture.
    """
    adapters = []
    for file, strength in shot.adapters:
        place, half = split_half(str(file))
        adapters.append((f"{Path(place).resolve()}{':' if half else ''}{half}", strength))
    files = (shot.init_image, shot.mask)
    start, mask = (file and str(Path(str(file)).resolve()) for file in files)
    together = len(adapters) > 1 or shot.regions or isinstance(shot.method, compose.Merge)
    method = shot.method if together and shot.method != compose.Merge() else None
    return replace(shot, adapters=tuple(adapters), method=method, init_image=start, mask=mask)
