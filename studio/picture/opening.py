"""Open picture files of any origin; whatever is wrong with one becomes a BadPicture."""

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

LARGEST_PICTURE = 64_000_000  # pixels of an init image, or of an upload
LARGEST_READ = 89_478_485  # pixels; from here on Pillow warns of decompression bombs
# What Pillow's decoders raise for a damaged file; the last two come from AVIF and QOI.
DAMAGED = (OSError, EOFError, SyntaxError, ValueError, struct.error, RuntimeError, IndexError)


class BadPicture(BadInput):
    """A picture that cannot be read.

    reason: why, as the end of a sentence that starts with the file's name.  kind: under which such
    pictures are counted, such as "damaged" or "HEIC".
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
    """Open a picture file. Decode it within the block.

    name: what messages call it; default: its path.  formats: those to read, by Pillow's names;
    default: all that Studio reads.  most_pixels: larger pictures are refused.

    Raises BadPicture, also inside the block, where the picture is missing, too large or damaged,
    where the file is no picture, and where its format needs a plug-in that is not installed.
    """
    name = name or str(file)
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures, which have a limit here, and of damaged metadata.
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
    """A picture in sRGB of eight bits, upright, transparency over a colour.

    background: that colour, as Pillow's ImageColor reads it. Raises as `opened_picture` does.
    """
    with opened_picture(path, most_pixels=most_pixels) as picture:
        return to_rgb(upright(picture), background=background)


def picture_size(path: str | Path, *, decode: bool = False) -> tuple[int, int]:
    """Width and height of a picture, upright, from its header.

    decode: also decode it as `load_picture` does, to find damage; a JPEG at an eighth of its size.
    Raises as `opened_picture` does.
    """
    with opened_picture(path) as picture:
        width, height = picture.size
        turned = is_turned(picture)
        if decode:
            picture.draft("RGB", (64, 64))
            to_rgb(upright(picture))
    return (height, width) if turned else (width, height)


def upright(picture: Image.Image) -> Image.Image:
    """The picture, decoded and turned as its file says."""
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
    """Why Pillow does not recognise a file as a picture."""
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
