"""A picture file's metadata: its orientation, and damaged chunks of a PNG."""

import struct
import zlib
from io import BytesIO
from typing import BinaryIO

from PIL import Image
from PIL.ExifTags import Base as Tag
from PIL.PngImagePlugin import MAX_TEXT_CHUNK

PNG = b"\x89PNG\r\n\x1a\n"
# How to turn a picture upright, by EXIF's orientation.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ON_ITS_SIDE = (5, 6, 7, 8)
# What Pillow raises for damaged EXIF.
DAMAGED_EXIF = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, struct.error)


def is_turned(picture: Image.Image) -> bool:
    """Whether a picture that is not decoded yet lies on its side: width and height are swapped."""
    if picture.format == "TIFF":  # Pillow has swapped them already
        return False
    return _orientation(picture) in ON_ITS_SIDE


def turned_upright(picture: Image.Image) -> Image.Image:
    """A decoded picture, turned as its EXIF or XMP says.

    Pillow itself turns a TIFF in decoding, and removes the orientation.
    """
    turn = TURNS.get(_orientation(picture))
    return picture if turn is None else picture.transpose(turn)


def _orientation(picture: Image.Image) -> int:
    """EXIF's orientation; 1 (upright) where it is missing or cannot be read."""
    try:
        orientation = picture.getexif().get(Tag.Orientation)
    except DAMAGED_EXIF:
        return 1
    return orientation if isinstance(orientation, int) else 1


def png_without_broken_notes(file: BinaryIO) -> BytesIO | None:
    """A copy of a PNG without the notes that make Pillow refuse it; None where there are none.

    Notes are the ancillary chunks, whose names start in lower case (PNG specification, section
    5.4). Pillow refuses those with a wrong checksum, and those that unpack to more than 1 MiB.
    """
    file.seek(0)
    if file.read(len(PNG)) != PNG:
        return None
    broken = _broken_notes(file)
    if not broken:
        return None
    file.seek(0)
    data, done = file.read(), 0
    mended = BytesIO()
    for start, end in broken:
        mended.write(data[done:start])
        done = end
    mended.write(data[done:])
    mended.seek(0)
    return mended


def _broken_notes(file: BinaryIO) -> list[tuple[int, int]]:
    """Where each broken note starts and ends. The file's position is at its first chunk."""
    broken = []
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        start = file.tell() - 8
        if not name[:1].islower():
            file.seek(length + 4, 1)
        elif not _is_sound(name, file.read(length), file.read(4)):
            broken.append((start, file.tell()))
    return broken


def _is_sound(name: bytes, body: bytes, checksum: bytes) -> bool:
    if struct.pack(">I", zlib.crc32(name + body)) != checksum:
        return False
    _, _, rest = body.partition(b"\0")
    if name in (b"zTXt", b"iCCP"):
        return rest[:1] == b"\0" and not _is_too_long(rest[1:])
    if name == b"iTXt" and rest[:2] == b"\1\0":
        return not _is_too_long(rest[2:].split(b"\0", 2)[-1])
    return True


def _is_too_long(packed: bytes) -> bool:
    unpacking = zlib.decompressobj()
    try:
        unpacking.decompress(packed, MAX_TEXT_CHUNK)
    except zlib.error:
        return False  # Pillow ignores it
    return bool(unpacking.unconsumed_tail)
