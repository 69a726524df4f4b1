"""The folders of a training's pictures: one or several, with weights and kohya's sub-folders.

The pictures of a sub-folder `10_sks robot` come ten times in an epoch, and those without a caption
get the caption "sks robot", as in kohya's sd-scripts (library/config_util.py,
`generate_dreambooth_subsets_config_by_subdirs`). Sub-folders with other names, or with no repeats
(`0_sks robot`), are ignored.

A picture comes as often as its folder's weight times its sub-folder's repeats.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from studio.errors import BadInput
from studio.files import expand_home

REPEATS = re.compile(r"(\d+)_(.*\S.*)")
LIGHTEST, HEAVIEST = 0.001, 1000.0
# Names of folders with masks, and endings of such names (`10_sks robot_mask`): see
# studio/dataset/masks.py.
MASKS_BELOW = ("masks", "mask")
MASK_FOLDERS = ("_mask", "_masks")
KOHYA_IMAGES = "img"  # kohya's GUI keeps the sub-folders with repeats here
KOHYA_PRIOR = "reg"  # and the class pictures here


@dataclass(frozen=True)
class Folder:
    """A folder that the user named.

    weight: how often its pictures come, relative to a folder of weight 1. Raises BadInput where it
    is out of range.
    """

    path: Path
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not LIGHTEST <= self.weight <= HEAVIEST:  # NaN fails too
            raise BadInput(
                f"The weight of {self.path} lies between {LIGHTEST:g} and {HEAVIEST:g}; it was "
                f"given as {self.weight:g}."
            )


Sources = str | Path | Sequence[str | Path | Folder | tuple[str | Path, float]]
"""One folder, or several, each alone or with its weight."""


@dataclass(frozen=True)
class Part:
    """One folder, without its sub-folders.

    repeats: how often each picture comes in an epoch.  words: the caption of pictures without one;
    None where the folder's name has none.
    """

    path: Path
    repeats: int = 1
    words: str | None = None


def parse_folders(pictures: Sources) -> tuple[Folder, ...]:
    """The folders that the user named. Does not look at the disk.

    Raises BadInput where there are none, or one is neither a path nor a (path, weight) pair.
    """
    given = [pictures] if isinstance(pictures, str | Path) else list(pictures)
    if not given:
        raise BadInput("No folder of pictures was given: name at least one.")
    return tuple(_folder(item) for item in given)


def _folder(given: object) -> Folder:
    match given:
        case "":  # a variable of the shell that is not set; it would be the current folder
            raise BadInput("a folder of pictures has an empty name: give its path, or . for this")
        case str() | Path():
            return Folder(expand_home(given))
        case Folder():
            return given
        case (str() | Path() as path, int() | float() as weight):
            return Folder(expand_home(path), float(weight))
    raise BadInput(
        f"{given!r} is no folder of pictures: give a path, or a list of paths and of "
        '(path, weight), such as ["photos", ("more", 2)].'
    )


def list_parts(folder: Path) -> list[Part]:
    """The folder itself, then its sub-folders with repeats and those of `img`, by name.

    Raises BadInput where the folder is missing or cannot be read.
    """
    images = folder / KOHYA_IMAGES
    return [Part(folder), *_repeated(folder), *(_repeated(images) if images.is_dir() else ())]


def _repeated(folder: Path) -> list[Part]:
    named = {}
    for path in list_folder(folder):
        form = REPEATS.fullmatch(path.name)
        if form and int(form[1]) and path.is_dir():
            named[path.name] = Part(path, int(form[1]), form[2].strip())
    masks = {name + ending for name in named for ending in MASK_FOLDERS}
    return [named[name] for name in sorted(named) if name not in masks]


def list_folder(folder: Path) -> list[Path]:
    """The entries of a folder. Raises BadInput where it is no folder or cannot be read."""
    if not folder.exists():
        raise BadInput(f"There is no folder {folder}: give a folder of pictures.")
    if not folder.is_dir():
        raise BadInput(f"{folder} is a file: give the folder that the pictures are in.")
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise BadInput(f"The folder {folder} cannot be read: {error.strerror}.") from error
