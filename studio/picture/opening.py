"""Opening picture files of any origin; whatever is wrong with one becomes a BadPicture."""

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from studio.errors import BadInput
from studio.files import open_file
from studio.picture.colours import WidePixels, to_rgb
from studio.picture.formats import load_plug_in, readable_formats, starts_like_picture
from studio.picture.notes import is_turned, png_without_broken_notes, turned_upright

LARGEST_PICTURE = 64_000_000  # pixels of a picture to start from, or of an upload
LARGEST_READ = 89_478_485  # pixels: where Pillow begins to warn of decompression bombs
# What Pillow's decoders raise for a damaged file; the last two are AVIF's and QOI's.
DAMAGED = (OSError, EOFError, SyntaxError, ValueError, struct.error, RuntimeError, IndexError)


class BadPicture(BadInput):
    """A picture that cannot be read.

    reason: why, as the end of a sentence that starts with the file's name.  kind: what such
    pictures are counted as, such as "damaged" or "HEIC".
    """

    def __init__(self, message: str, *, reason: str, kind: str) -> None:
        super().__init__(message)
        self.reason, self.kind = reason, kind


@contextmanager
def opened_picture(
    file: str | Path | BinaryIO,
    *,
    name: str = "",
    formats: tuple[str, ...] | None = None,
    most_pixels: int = LARGEST_READ,
) -> Iterator[Image.Image]:
    """Open a picture file; within the block, it may be decoded.

    name: what messages call it, instead of its path.  formats: those to read, as Pillow names
    them; None for every one that Studio reads.  most_pixels: a larger picture is not decoded.

    Raises BadPicture where there is no such picture, and where it is too large, damaged, none, or
    of a format whose plug-in is not installed.
    """
    name = name or str(file)
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures, which the limit decides on, and of damaged notes.
            warnings.simplefilter("ignore")
            with _open(file, name, formats) as picture:
                if picture.width * picture.height > most_pixels:
                    size = f"{picture.width} x {picture.height} pixels; "
                    raise _too_large(name, size, most_pixels)
                yield picture
    except BadInput:
        raise
    except FileNotFoundError:
        raise BadPicture(
            f"There is no picture at {file}.", reason="is not there", kind="missing"
        ) from None
    except Image.DecompressionBombError:
        raise _too_large(name, "", most_pixels) from None
    except UnidentifiedImageError:
        raise _damaged(name, _unidentified(file)) from None
    except WidePixels as error:
        raise _damaged(name, str(error), kind="32-bit") from error
    except DAMAGED as error:
        raise _damaged(name, str(error) or type(error).__name__) from error


def load_picture(
    path: str | Path, *, background: str = "white", most_pixels: int = LARGEST_READ
) -> Image.Image:
    """A picture as sRGB of eight bits, upright, over a colour. Raises as `opened_picture`.

    background: the colour behind its transparent parts, as Pillow's ImageColor reads it.
    """
    with opened_picture(path, most_pixels=most_pixels) as picture:
        return to_rgb(upright(picture), background=background)


def picture_size(path: str | Path, *, decode: bool = False) -> tuple[int, int]:
    """Width and height of a picture when it stands upright, from its header.

    decode: do what `load_picture` does too, a JPEG at an eighth of its size, to find damage.
    Raises as `opened_picture`.
    """
    with opened_picture(path) as picture:
        width, height = picture.size
        turned = is_turned(picture)
        if decode:
            picture.draft("RGB", (64, 64))
            to_rgb(upright(picture))
    return (height, width) if turned else (width, height)


def upright(picture: Image.Image) -> Image.Image:
    """The decoded picture, turned as its file says."""
    picture.load()
    return turned_upright(picture)


def _open(file: str | Path | BinaryIO, name: str, formats: tuple[str, ...] | None) -> Image.Image:
    if isinstance(file, str | Path):
        with open_file(file) as opened:
            head = opened.read(32)
            mended = png_without_broken_notes(opened)
    else:
        head, mended = file.read(32), png_without_broken_notes(file)
        file.seek(0)
    if missing := load_plug_in(head):
        reason = f"is a {missing.kind} picture: run `{missing.install}` to read it, or save it as "
        reason += "JPEG or PNG"
        raise BadPicture(f"{name} {reason}.", reason=reason, kind=missing.kind)
    return Image.open(mended or file, formats=formats or readable_formats())


def _unidentified(file: str | Path | BinaryIO) -> str:
    """Why Pillow sees no picture in a file."""
    if isinstance(file, str | Path):
        with open_file(file) as opened:
            head = opened.read(32)
    else:
        file.seek(0)
        head = file.read(32)
    if not head:
        return "it is empty"
    return "it is damaged" if starts_like_picture(head) else "its format is not known"


def _damaged(name: str, why: str, kind: str = "damaged") -> BadPicture:
    reason = f"can't be read as a picture: {why}".rstrip(".")
    return BadPicture(f"{name} {reason}.", reason=reason, kind=kind)


def _too_large(name: str, size: str, most: int) -> BadPicture:
    reason = f"is too large to open safely: {size}at most {most:,} are read. Scale it down first"
    return BadPicture(f"{name} {reason}.", reason=reason, kind="too large")
