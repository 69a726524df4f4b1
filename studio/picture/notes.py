"""What a picture file says besides its pixels: which way up it is, and broken notes of a PNG."""

import struct
import zlib
from io import BytesIO
from typing import BinaryIO

from PIL import Image
from PIL.ExifTags import Base as Tag
from PIL.PngImagePlugin import MAX_TEXT_CHUNK

PNG = b"\x89PNG\r\n\x1a\n"
# EXIF's orientations, and what stands such a picture up.
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
# What Pillow raises for EXIF that is damaged, or is none.
DAMAGED_EXIF = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, struct.error)


def is_turned(picture: Image.Image) -> bool:
    """Whether a picture that is not decoded yet has the width and height of its side."""
    if picture.format == "TIFF":  # Pillow has turned its size already
        return False
    return _orientation(picture) in ON_ITS_SIDE


def turned_upright(picture: Image.Image) -> Image.Image:
    """A decoded picture, turned as its EXIF or XMP says.

    Pillow turns a TIFF as it decodes it, and takes its orientation away.
    """
    turn = TURNS.get(_orientation(picture))
    return picture if turn is None else picture.transpose(turn)


def _orientation(picture: Image.Image) -> int:
    """EXIF's number; 1 where there is none, or none that can be read."""
    try:
        found = picture.getexif().get(Tag.Orientation)
    except DAMAGED_EXIF:
        return 1
    return found if isinstance(found, int) else 1


def png_without_broken_notes(file: BinaryIO) -> BytesIO | None:
    """A PNG's copy without the notes that Pillow would refuse it for; None where there are none.

    Such a note has a wrong checksum, or unpacks to more than Pillow's limit, 1 MiB. Notes are all
    chunks whose names start in lower case (PNG specification, section 5.4).
    """
    file.seek(0)
    if file.read(len(PNG)) != PNG:
        return None
    broken = _broken_notes(file)
    if not broken:
        return None
    file.seek(0)
    data, kept = file.read(), 0
    mended = BytesIO()
    for start, end in broken:
        mended.write(data[kept:start])
        kept = end
    mended.write(data[kept:])
    mended.seek(0)
    return mended


def _broken_notes(file: BinaryIO) -> list[tuple[int, int]]:
    """Where each of them starts and ends in the file, which stands at its first chunk."""
    found = []
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        start = file.tell() - 8
        if not name[:1].islower():
            file.seek(length + 4, 1)
        elif not _is_sound(name, file.read(length), file.read(4)):
            found.append((start, file.tell()))
    return found


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
        return False  # Pillow passes over it
    return bool(unpacking.unconsumed_tail)
