"""Fill sets of training pictures with dropped files or examples, and list them."""

from collections.abc import Sequence
from pathlib import Path, PurePath

from studio.assets import asset
from studio.dataset.captions import ENDINGS, METADATA_FILES, metadata_captions
from studio.dataset.listing import is_of_system, of_unread_format
from studio.errors import BadInput
from studio.files import read_text
from studio.workspace import Workspace, add_upload, clean_name, create_set, list_sets, write_caption

EXAMPLES = {  # folders and their trigger words
    "robot": "sks robot",
    "octopus": "sks octopus",
    "glass": "glass style",
    "ink": "ink style",
}


def set_choices(space: Workspace) -> list[tuple[str, str]]:
    """The label and name of every set, and "" for a new set."""
    counts = {each.name: len(each.pictures) for each in list_sets(space)}
    choices = [(f"{name} · {n} picture{'s' if n != 1 else ''}", name) for name, n in counts.items()]
    return [*choices, ("A new set", "")]


def add_files(
    space: Workspace, name: str, files: Sequence[str | Path], *, new_name: str
) -> tuple[str, list[str]]:
    """Add files to a set, or to a new one if the name is empty.

    Captions are read as in a folder of pictures: see studio/dataset/captions.py. new_name: the
    name of a new set. Returns the set's name, and a sentence for each file that was left out.
    """
    paths = [path for path in map(Path, files) if not is_of_system(path.name)]
    texts = {path.stem: path for path in paths if path.suffix.lower() in ENDINGS}
    tables = [path for path in paths if path.name in METADATA_FILES]
    added, left_out = {}, []
    for path in paths:
        if path in tables or path.suffix.lower() in ENDINGS:
            continue
        if other := of_unread_format(path):
            left_out.append(f"{path.name} {other.reason}")
            continue
        try:
            name = name or create_set(space, clean_name(new_name, otherwise="pictures")).name
            added[path.name] = add_upload(space, name, path).name
        except BadInput as error:
            left_out.append(str(error))
    listed, problems = _listed_captions(tables)
    for picture, name_in_set in added.items():
        file = texts.pop(picture, None) or texts.pop(Path(picture).stem, None)
        try:
            text = read_text(file) if file else listed.get(picture, "")
        except BadInput as error:
            problems.append(str(error))
        else:
            if text:
                write_caption(space, name, name_in_set, text)
    dropped = {path.name for path in paths}
    for picture in sorted(listed.keys() - dropped if added else ()):
        problems.append(f"{picture} is named in the metadata but is not there: add it too")
    alone = "belongs to no picture: add the picture of that name too"
    return name, [*left_out, *problems, *(f"{path.name} {alone}" for path in texts.values())]


def _listed_captions(tables: Sequence[Path]) -> tuple[dict[str, str], list[str]]:
    """The captions in metadata files by file name of the picture, and problems with the files."""
    captions, problems = {}, []
    for path in tables:
        try:
            listed = metadata_captions(path).items()
            captions |= {PurePath(picture).name: text for picture, text in listed}
        except BadInput as error:
            problems.append(str(error))
    return captions, problems


def add_example(space: Workspace, example: str) -> str:
    """Make a set of an example's pictures unless there is one; returns its name."""
    folder = asset(f"examples/{example}")
    files = [path for path in sorted(folder.glob("*")) if path.suffix in (".png", ".txt")]
    if not files:
        raise BadInput(
            f"the example pictures {folder} are missing: `python -m studio.sketch.examples` "
            "draws them"
        )
    pictures = {path.name for path in files if path.suffix == ".png"}
    for each in list_sets(space):
        if each.name == example and {picture.name for picture in each.pictures} == pictures:
            return example
    return add_files(space, "", files, new_name=example)[0]
