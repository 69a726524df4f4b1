"""Sets of training pictures: from dropped files, from the examples, and those made before."""

from collections.abc import Sequence
from pathlib import Path

from studio.assets import asset
from studio.errors import BadInput
from studio.workspace import (
    Workspace,
    add_upload,
    clean_name,
    create_set,
    list_sets,
    write_caption,
)

EXAMPLES = {  # folders and their trigger words
    "robot": "sks robot",
    "octopus": "sks octopus",
    "glass": "glass style",
    "ink": "ink style",
}


def set_choices(space: Workspace) -> list[tuple[str, str]]:
    """Label and name of every set, and of a new one."""
    counts = {one.name: len(one.pictures) for one in list_sets(space)}
    choices = [(f"{name} · {n} picture{'s' if n != 1 else ''}", name) for name, n in counts.items()]
    return [*choices, ("A new set", "")]


def add_files(
    space: Workspace, name: str, files: Sequence[str | Path], *, new_name: str
) -> tuple[str, list[str]]:
    """Add files to a set, or to a new one if the name is empty.

    A text file is the caption of the picture of the same name. new_name: for a new set. Returns
    the set's name, and a sentence for each file that was left out.
    """
    paths = [Path(file) for file in files]
    captions = {path.stem: path for path in paths if path.suffix.lower() == ".txt"}
    added, left_out = {}, []
    for path in paths:
        if path.suffix.lower() == ".txt":
            continue
        try:
            name = name or create_set(space, clean_name(new_name, otherwise="pictures")).name
            added[path.stem] = add_upload(space, name, path).name
        except BadInput as error:
            left_out.append(str(error))
    for stem, path in captions.items():
        if stem in added:
            text = path.read_text(encoding="utf-8", errors="replace")
            write_caption(space, name, added[stem], text)
        else:
            left_out.append(f"{path.name} belongs to no picture: add the picture of that name too")
    return name, left_out


def add_example(space: Workspace, example: str) -> str:
    """The name of a set that holds an example's pictures; it is created if there is none."""
    folder = asset(f"examples/{example}")
    files = [path for path in sorted(folder.glob("*")) if path.suffix in (".png", ".txt")]
    if not files:
        raise BadInput(
            f"the example pictures {folder} are missing: `python -m studio.sketch.examples` "
            "draws them"
        )
    pictures = {path.name for path in files if path.suffix == ".png"}
    for one in list_sets(space):
        if one.name == example and {picture.name for picture in one.pictures} == pictures:
            return example
    return add_files(space, "", files, new_name=example)[0]
