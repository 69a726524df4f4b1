"""Files are there whole or not at all, and what keeps them from it is said."""

import errno
import os
from collections.abc import Callable
from io import BufferedReader, RawIOBase
from pathlib import Path

import pytest

from studio.adapters.safetensors_header import read_header
from studio.bases.info import read_base_info
from studio.errors import BadInput
from studio.files import (
    atomic_write,
    check_writable,
    copy_file,
    expand_home,
    file_sha256,
    read_text,
    write_file,
)
from studio.requests.picture_file import open_picture
from tests.strangers import soon
from ui.batch.manifest import read_manifest
from ui.batch.wildcards import read_lines


class Broken(RawIOBase):
    """A file of a disk that fails after its first bytes."""

    def __init__(self) -> None:
        self.read_once = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:
        if self.read_once:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.read_once = True
        buffer[:1] = b"a"
        return 1


def test_a_copy_says_which_of_both_files_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(b"a" * 3)
    copy_file(source, copy)
    assert copy.read_bytes() == b"aaa"
    with pytest.raises(BadInput, match=r"source/copy cannot be written"):
        copy_file(copy, source / "copy")
    monkeypatch.setattr("studio.files.open_file", lambda _: BufferedReader(Broken()))
    with pytest.raises(BadInput, match=r"^source cannot be read: Input/output error$"):
        copy_file(source, copy, name="source")
    assert copy.read_bytes() == b"aaa" and sorted(tmp_path.iterdir()) == [copy, source]


def test_a_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "deep" / "file"  # the folder is made
    write_file(place, b"before")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patched, pytest.raises(BadInput, match="No space left"):
            patched.setattr(os, step, full)
            write_file(place, b"after")
        assert place.read_bytes() == b"before"
        assert list(place.parent.iterdir()) == [place]
    write_file(place, b"after", durable=False)
    assert place.read_bytes() == b"after"


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "file") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    write_file(tmp_path / "file", b"before")
    with atomic_write(tmp_path / "file") as file:
        file.write(b"after")
        assert (tmp_path / "file").read_bytes() == b"before"
    assert (tmp_path / "file").read_bytes() == b"after"


def test_a_place_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be written"):
        write_file(tmp_path / "file" / "under", b"")
    with pytest.raises(BadInput, match="cannot be written: Is a directory"):
        write_file(tmp_path, b"")


def test_a_name_too_long_is_said_before_the_work(tmp_path: Path) -> None:
    for length in (200, 240):
        check_writable(tmp_path / ("a" * length))
        write_file(tmp_path / ("a" * length), b"")
    for length in (241, 5000):
        with pytest.raises(BadInput, match="too long a name"):
            check_writable(tmp_path / ("ä" * (length // 2) + "a"))


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may do all")
def test_a_folder_that_may_not_be_changed_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(BadInput, match="Permission denied"):
        write_file(tmp_path / "file", b"")
    tmp_path.chmod(0o700)


def test_the_home_of_nobody_is_a_plain_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert expand_home("~/photos") == Path("/home/ann/photos")
    assert expand_home("~no-such-person/photos") == Path("~no-such-person/photos")
    with pytest.raises(BadInput, match="~no-such-person"):
        read_base_info("~no-such-person")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize(
    ("read", "ending"),
    [
        (read_text, ".txt"),
        (file_sha256, ".txt"),
        (read_header, ".safetensors"),
        (open_picture, ".png"),
        (read_manifest, ".toml"),
        (read_lines, ".txt"),
    ],
)
def test_what_never_ends_is_not_waited_for(
    tmp_path: Path, read: Callable[[Path], object], ending: str
) -> None:
    """A pipe that nobody writes into, and a device of endless zeros behind a link."""
    pipe, zeros = (tmp_path / f"{name}{ending}" for name in ("pipe", "zeros"))
    os.mkfifo(pipe)
    zeros.symlink_to("/dev/zero")
    for path in (pipe, zeros):
        with soon(), pytest.raises(BadInput, match="a pipe or a device"):
            read(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be"])
def test_texts_of_windows_are_read(tmp_path: Path, encoding: str) -> None:
    mark = "\ufeff" if encoding.startswith("utf-16") else ""
    (tmp_path / "a.txt").write_bytes(f"{mark}a café 🤖\r\nblue".encode(encoding))
    assert read_text(tmp_path / "a.txt") == "a café 🤖\nblue"
    (tmp_path / "a.toml").write_bytes(f'{mark}prompt = "a café"\r\nseed = 2\r\n'.encode(encoding))
    (shot,) = read_manifest(tmp_path / "a.toml").shots
    assert (shot.prompt, shot.seed) == ("a café", 2)


@pytest.mark.parametrize(
    "damaged", ["a\r\nBär".encode("latin-1"), "\ufeffa\nb".encode("utf-16-le") + b"\x00"]
)
def test_the_line_that_is_no_text_is_said(tmp_path: Path, damaged: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(damaged)
    with pytest.raises(BadInput, match=r"a\.txt is not UTF-8 text \(line 2\): save it as UTF-8"):
        read_text(tmp_path / "a.txt")
