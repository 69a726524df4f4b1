"""Writing files atomically, and their SHA-256."""

import codecs
import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from studio.errors import BadInput

LARGEST_TEXT = 64 * 2**20  # bytes of captions, prompts and tables
BLOCK = 2**20  # bytes that are copied at a time
LONGEST_NAME = 240  # bytes of a file name; systems allow 255, and `atomic_write` adds 15
PART = re.compile(r"\.(.+)\.[0-9a-f]{8}\.part")


class NotText(BadInput):
    """A file is neither UTF-8 nor marked UTF-16. before: its text up to the first mistake."""

    def __init__(self, path: Path, before: str) -> None:
        line = before.count("\n") + 1
        super().__init__(f"{path} is not UTF-8 text (line {line}): save it as UTF-8.")
        self.before = before


@contextmanager
def atomic_write(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; when the block succeeds, it replaces `path`.

    A reader never sees half a file, and a full disk leaves the old file. Missing folders are made.
    durable: wait until the file is on the disk, so that a power cut leaves the old or the new file.
    Raises BadInput where the file cannot be written.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("xb") as file:
                yield file
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror or error}") from error


def write_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file with `atomic_write`."""
    with atomic_write(path, durable=durable) as file:
        file.write(data)


def copy_file(source: Path, copy: Path, *, name: str = "") -> None:
    """Copy a file's bytes with `atomic_write`. name: what a BadInput calls the source."""
    with atomic_write(copy) as new:
        new.writelines(_blocks(source, name))


def _blocks(path: Path, name: str) -> Iterator[bytes]:
    with opened_file(path, name=name) as file:
        while block := file.read(BLOCK):
            yield block


def expand_home(path: str | Path) -> Path:
    """The path with ~ or ~user as the home folder; unchanged where there is no such user."""
    return Path(os.path.expanduser(path))


def is_there(path: Path) -> bool:
    """Whether the file or folder exists; False too for a path that the system does not allow."""
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or with a NUL in it
        return False


def file_version(path: Path) -> tuple[int, int] | None:
    """When the file was changed (ns) and its size (bytes): equal pairs mean an unchanged file.

    None where there is no file.
    """
    state = path.stat() if path.exists() else None
    return (state.st_mtime_ns, state.st_size) if state else None


def display_name(path: Path) -> str:
    """The name to show: that of a folder, or that of a file without its suffix."""
    return path.name if path.is_dir() else path.stem


def remove_partial_files(folder: Path, abandoned: Callable[[str], bool]) -> None:
    """Remove the temporary files that killed processes left in `atomic_write`.

    abandoned: whether no process is writing the file of a given name now.
    """
    for name in os.listdir(folder):
        if (part := PART.fullmatch(name)) and abandoned(part[1]):
            (folder / name).unlink(missing_ok=True)


def open_file(path: str | Path) -> BufferedReader:
    """Open a file to read. Raises OSError, also for a pipe or a device: those may never end."""
    # Without it, opening a pipe waits until somebody writes into it.
    no_wait = getattr(os, "O_NONBLOCK", 0)
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | no_wait))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is a pipe or a device, and no file", str(path))
    return file


@contextmanager
def opened_file(path: str | Path, *, name: str = "") -> Iterator[BufferedReader]:
    """Open a file to read. Raises BadInput where opening or reading it fails.

    name: what the message calls the file.
    """
    try:
        with open_file(path) as file:
            yield file
    except OSError as error:
        raise BadInput(f"{name or path} cannot be read: {error.strerror or error}") from error


def read_bytes(path: Path, *, most: int = LARGEST_TEXT) -> bytes:
    """A file's bytes. Raises OSError as `open_file` does, and BadInput for more than `most`."""
    with open_file(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise BadInput(f"{path} is larger than {most >> 20} MB, which is too large for a text")
        return file.read()


def read_text(path: Path) -> str:
    """A text file in UTF-8, or in UTF-16 with a byte order mark, as PowerShell writes it.

    The mark is left out, and line ends become those of Unix. Raises NotText for other encodings,
    and BadInput where the file cannot be read.
    """
    try:
        raw = read_bytes(path)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from error
    marked = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if marked else "utf-8-sig"
    try:
        return _unix_lines(raw.decode(encoding))
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode(encoding, errors="ignore")
        raise NotText(path, _unix_lines(before)) from error


def _unix_lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def file_sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal; BadInput where it cannot be read."""
    with opened_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_writable(file: Path) -> None:
    """Raise BadInput unless the file can be written. Its folder may be missing."""
    if len(os.fsencode(file.name)) > LONGEST_NAME:
        raise BadInput(f"{file.name} is too long a name for a file: give a shorter one")
    if file.is_dir():
        raise BadInput(f"{file} is a folder: give the name of a file")
    _check_may_write(file, file.absolute().parents)


def check_folder_writable(folder: Path) -> None:
    """Raise BadInput unless files can be written into the folder. It may be missing."""
    _check_may_write(folder, (folder.absolute(), *folder.absolute().parents))


def _check_may_write(place: Path, folders: Sequence[Path]) -> None:
    """folders: the place's folder and those above it, the nearest first."""
    above = next(path for path in folders if path.exists())
    if not above.is_dir():
        raise BadInput(f"{place} cannot be written, since {above} is a file")
    if not os.access(above, os.W_OK | os.X_OK):
        raise BadInput(f"{place} cannot be written: you may not write into {above}")


def check_new_adapter(file: Path) -> None:
    """Raise BadInput unless an adapter can be written to the file, which must not exist yet."""
    if file.suffix != ".safetensors":
        raise BadInput(f"{file} is no name for an adapter: it must end in .safetensors")
    if os.path.lexists(file):
        raise BadInput(f"{file} already exists: give another --out")
    check_writable(file)
