"""Uploaded pictures: sets to train on, each a folder of pictures and their captions."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from studio.dataset.caption_edits import write_captions
from studio.dataset.captions import caption_beside, caption_files
from studio.dataset.listing import list_pictures
from studio.errors import BadInput
from studio.files import copy_file, file_sha256
from studio.picture import LARGEST_PICTURE, BadPicture, opened_picture, to_rgb, upright
from studio.picture.formats import FORMATS
from studio.workspace.folder import Workspace, child_path, entries, move_to_free_name
from studio.workspace.names import clean_name, numbered_names
from studio.workspace.thumbnails import cached_thumbnail, grey_thumbnail
from studio.workspace.trash import delete

LARGEST_FILE = 200_000_000  # bytes
START_PICTURES = "start pictures"  # the set that keeps init images and their masks


@dataclass(frozen=True)
class Upload:
    """A picture of a set. caption: "" where it has none."""

    name: str
    path: Path
    caption: str


@dataclass(frozen=True)
class UploadSet:
    """A folder of uploads to train on. modified: seconds since 1970."""

    name: str
    path: Path
    modified: float
    pictures: tuple[Upload, ...]


def create_set(space: Workspace, name: str) -> UploadSet:
    """Make an empty set, under another name if that one is taken."""
    with TemporaryDirectory(dir=space.cache) as empty:
        folder = Path(empty) / "set"
        folder.mkdir()
        return get_set(
            space, move_to_free_name(folder, space.uploads, clean_name(name, otherwise="set")).name
        )


def list_sets(space: Workspace) -> list[UploadSet]:
    """All sets, the latest first."""
    sets = [_read(path) for path in entries(space.uploads) if path.is_dir()]
    return sorted(sets, key=lambda uploads: -uploads.modified)


def get_set(space: Workspace, name: str) -> UploadSet:
    """A set by its name; BadInput where there is none."""
    path = child_path(space.uploads, name)
    if not path.is_dir():
        raise BadInput(f"there is no set of pictures {name}")
    return _read(path)


def get_or_create_set(space: Workspace, name: str) -> UploadSet:
    """A set by its name; a new empty one where there is none."""
    exists = child_path(space.uploads, name).is_dir()
    return get_set(space, name) if exists else create_set(space, name)


def keep_start_picture(space: Workspace, file: str | Path) -> Path:
    """Copy a picture into the set START_PICTURES, and return its path there, for recipes to name.

    A picture is copied only once. One that is among the uploads already stays where it is.
    """
    if Path(file).resolve().is_relative_to(space.uploads):
        return Path(file)
    starts, stem = get_or_create_set(space, START_PICTURES), file_sha256(file)[:16]
    kept = next((upload.path for upload in starts.pictures if upload.path.stem == stem), None)
    return kept or add_upload(space, starts.name, file, name=f"{stem}.png").path


def add_upload(space: Workspace, set_name: str, file: str | Path, *, name: str = "") -> Upload:
    """Copy a picture into a set, if all of it can be decoded.

    name: the original name of the file. Raises BadInput for a file that is no picture, is damaged,
    or is too large.
    """
    folder, source = get_set(space, set_name).path, Path(file)
    title = name or source.name
    taken = {path.stem for path in folder.iterdir()}  # a caption belongs to a stem
    if source.is_file() and source.stat().st_size > LARGEST_FILE:
        raise BadInput(f"{title} is larger than {LARGEST_FILE // 10**6} MB: scale it down first")
    stems = numbered_names(clean_name(Path(title).stem, otherwise="picture"))
    stem = next(stem for stem in stems if stem not in taken)
    with TemporaryDirectory(dir=space.cache) as scratch:
        copy = Path(scratch) / "upload"
        copy_file(source, copy, name=title)
        path = move_to_free_name(copy, folder, f"{stem}{_suffix(copy, title)}")
    return Upload(path.name, path, "")


def write_caption(space: Workspace, set_name: str, picture: str, text: str) -> None:
    """Write a picture's caption; an empty text removes it."""
    save_captions(space, set_name, {picture: text})


def save_captions(space: Workspace, set_name: str, captions: Mapping[str, str]) -> None:
    """Write several captions, by the names of their pictures."""
    write_captions({_picture(space, set_name, name): text for name, text in captions.items()})


def delete_upload(space: Workspace, set_name: str, picture: str) -> str:
    """Move a picture of a set to the trash; its caption stays, in case the picture comes back."""
    return delete(space, f"uploads/{set_name}/{_picture(space, set_name, picture).name}")


def delete_set(space: Workspace, set_name: str) -> str:
    """Move a set to the trash; returns the id to `undelete` it by."""
    return delete(space, f"uploads/{get_set(space, set_name).name}")


def upload_thumbnail(space: Workspace, set_name: str, picture: str) -> Path:
    """A small JPEG of a picture of a set, kept in the cache; a grey one where it is damaged."""
    _picture(space, set_name, picture)
    try:
        return cached_thumbnail(space, f"uploads/{set_name}/{picture}")
    except BadPicture:
        return grey_thumbnail(space)


def _picture(space: Workspace, set_name: str, picture: str) -> Path:
    path = child_path(get_set(space, set_name).path, picture)
    if path not in _pictures(path.parent):
        raise BadInput(f"there is no picture {picture} in {set_name}")
    return path


def _read(folder: Path) -> UploadSet:
    captions = caption_files(folder)
    pictures = tuple(
        Upload(path.name, path, _caption(path, captions)) for path in _pictures(folder)
    )
    return UploadSet(folder.name, folder, folder.stat().st_mtime, pictures)


def _pictures(folder: Path) -> list[Path]:
    """The pictures of a folder that a training reads, without links, by name."""
    own = set(entries(folder))
    return [path for path in list_pictures(folder)[0] if path in own]


def _caption(picture: Path, files: Mapping[str, list[Path]]) -> str:
    try:
        return caption_beside(picture, files)
    except BadInput:
        return ""  # a training will refuse the file, and name it


def _suffix(path: Path, title: str) -> str:
    """The suffix for a picture's format. Raises BadInput where it cannot be decoded."""
    with opened_picture(path, name=title, most_pixels=LARGEST_PICTURE) as picture:
        to_rgb(upright(picture))
        kind = "JPEG" if picture.format == "MPO" else str(picture.format)
        return FORMATS[kind][0]
