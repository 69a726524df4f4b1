"""List the files of a folder: which are pictures, and which are left out."""

import os
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path

from studio.dataset.captions import caption_files
from studio.dataset.folders import KOHYA_PRIOR, MASK_FOLDERS, MASKS_BELOW, list_folder
from studio.dataset.left_out import CAPTIONS, SUB_FOLDERS, Skipped
from studio.files import open_file
from studio.picture.formats import ENDINGS, starts_like_picture

MASKS = (".mask", "-masklabel")  # a mask's name is its picture's stem, one of these, and a suffix
# Formats that are not read, by suffix: a camera's raw file starts like a TIFF.
UNREAD = {
    "camera raw": (".arw .cr2 .cr3 .dng .nef .nrw .orf .pef .raf .rw2 .srw", "develop it to"),
    "video": (".avi .m4v .mkv .mov .mp4 .mpeg .mpg .webm .wmv", "save frames of it as"),
    "PSD": (".psb .psd", "save it as"),
    "SVG": (".svg .svgz", "save it as"),
    "PDF": (".ai .eps .pdf", "save it as"),
    "TGA": (".tga", "save it as"),
    "HDR": (".exr .hdr", "save it as"),
    "icon": (".ico .icns", "save it as"),
}
KINDS = {ending: kind for kind, (endings, _) in UNREAD.items() for ending in endings.split()}
SYSTEM_FILES = ("thumbs.db", "desktop.ini")  # ignored, as hidden files are
MOST_COUNTED = 1000  # pictures of a sub-folder that are counted
MOST_LOOKED_AT = 100_000  # files that are looked at: the folder may be somebody's whole disk


def list_pictures(folder: Path) -> tuple[list[Path], list[Skipped]]:
    """The picture files of a folder, and those of formats that are not read.

    Hidden files, masks and other files are in neither list. Pictures are recognised by their
    suffix, or else by their first bytes. Raises BadInput where there is no such folder.
    """
    files = [path for path in list_folder(folder) if not path.name.startswith(".")]
    pictures, unread = [], []
    for path in sorted(path for path in files if path.is_file()):
        if other := of_unread_format(path):
            unread.append(other)
        elif is_picture(path):
            pictures.append(path)
    masks = {path.stem + ending for path in pictures for ending in MASKS}
    return [path for path in pictures if path.stem not in masks], unread


def is_of_system(name: str) -> bool:
    """Whether a file is hidden, or one that an operating system leaves in folders."""
    return name.startswith(".") or name.lower() in SYSTEM_FILES


def of_unread_format(path: Path) -> Skipped | None:
    """Why a file is left out because of its suffix; None where the suffix is not in UNREAD."""
    kind = KINDS.get(path.suffix.lower())
    return Skipped(path, f"is not read: {UNREAD[kind][1]} JPEG or PNG", kind) if kind else None


def is_picture(path: Path) -> bool:
    """Whether a file is a picture, by its suffix or else by its first bytes."""
    if path.suffix.lower() in ENDINGS:
        return True
    try:
        with open_file(path) as file:
            return starts_like_picture(file.read(32))
    except OSError:
        return False


def skipped_folders(folder: Path, read: Collection[Path]) -> list[Skipped]:
    """The sub-folders with pictures that are not read.

    read: the folders, and the pictures in sub-folders, that are read.
    """
    skipped = []
    for path in sorted(path for path in list_folder(folder) if path.is_dir()):
        if path not in read and not _is_other(path) and (count := _count_pictures(path, read)):
            reason = f"holds {count} and is not looked into: give it as a folder of its own"
            if path.name == KOHYA_PRIOR:
                reason = f"holds {count} of a class, which are learned as --prior-pictures only"
            skipped.append(Skipped(path, reason, SUB_FOLDERS, count))
    return skipped


def _is_other(folder: Path) -> bool:
    """Whether a folder is hidden, or a folder of masks."""
    name = folder.name
    return name.startswith(".") or name in MASKS_BELOW or name.endswith(MASK_FOLDERS)


def skipped_captions(folder: Path, pictures: Collection[Path]) -> list[Skipped]:
    """The caption files that belong to no picture.

    pictures: all pictures of the folder, including those that are left out.
    """
    owners = {name for path in pictures for name in (path.stem, path.name)}
    return [
        Skipped(path, "belongs to no picture", CAPTIONS)
        for name, paths in caption_files(folder).items()
        if name not in owners
        for path in paths
    ]


def _count_pictures(folder: Path, read: Collection[Path]) -> int:
    """How many pictures are in a folder and below it, by suffix; MOST_COUNTED at most."""
    files = islice(_files_below(folder, read), MOST_LOOKED_AT)
    pictures = (path for path in files if path.suffix.lower() in ENDINGS | KINDS.keys())
    return sum(1 for _ in islice(pictures, MOST_COUNTED))


def _files_below(folder: Path, read: Collection[Path]) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        paths = (Path(place, name) for name in folders)
        folders[:] = [path.name for path in paths if path not in read and not _is_other(path)]
        for path in (Path(place, name) for name in files if not name.startswith(".")):
            if path not in read:
                yield path
