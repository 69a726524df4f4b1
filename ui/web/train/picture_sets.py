"""Sets of pictures to train on: of what was dropped, of the examples, of what was there before."""

from collections.abc import Sequence
from pathlib import Path

from studio.assets import asset
from studio.errors import BadInput
from studio.workspace import (
    UploadSet,
    Workspace,
    add_upload,
    clean_name,
    create_set,
    list_sets,
    write_caption,
)

__all__ = ["EXAMPLES", "choices", "take", "take_examples"]

EXAMPLES = {"robot": "sks robot", "ink": "ink style"}  # folders, with what they are to be called


def choices(space: Workspace) -> list[tuple[str, str]]:
    """What there is to choose from: the label and the name of every set, and a new one."""
    found = [(f"{one.name} · {_count(one)}", one.name) for one in list_sets(space)]
    return [*found, ("A new set", "")]


def take(
    space: Workspace, name: str, files: Sequence[str | Path], *, otherwise: str
) -> tuple[str, list[str]]:
    """Put files into a set, or into a new one where the name is empty.

    Text files are captions of the pictures of the same name. otherwise: what to call a new set.
    Returns the set's name and why files were left out, a sentence each.
    """
    paths = [Path(file) for file in files]
    captions = {path.stem: path for path in paths if path.suffix.lower() == ".txt"}
    added, left_out = {}, []
    for path in paths:
        if path.suffix.lower() == ".txt":
            continue
        try:
            name = name or create_set(space, clean_name(otherwise, otherwise="pictures")).name
            added[path.stem] = add_upload(space, name, path).name
        except BadInput as error:
            left_out.append(str(error))
    for stem, path in captions.items():
        if stem not in added:
            left_out.append(f"{path.name} is no picture, and none of that name came with it")
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        write_caption(space, name, added[stem], text)
    return name, left_out


def take_examples(space: Workspace, example: str) -> str:
    """The name of a set that holds an example's pictures, made where there is none."""
    folder = asset(f"examples/{example}")
    wanted = [path for path in sorted(folder.glob("*")) if path.suffix in (".png", ".txt")]
    if not wanted:
        raise BadInput(
            f"the example pictures {folder} are not there: `python -m studio.sketch.examples` "
            "draws them"
        )
    pictures = {path.name for path in wanted if path.suffix == ".png"}
    for one in list_sets(space):
        if one.name == example and {picture.name for picture in one.pictures} == pictures:
            return example
    return take(space, "", wanted, otherwise=example)[0]


def _count(one: UploadSet) -> str:
    return "1 picture" if len(one.pictures) == 1 else f"{len(one.pictures)} pictures"
