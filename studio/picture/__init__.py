"""Read picture files of any origin by the same rules, which are in docs/datasets.md.

Only the pixels matter: a file's metadata (EXIF, texts, a colour profile) is ignored where it is
damaged or too long, and the picture is read.
"""

from studio.picture.colours import to_rgb
from studio.picture.opening import (
    LARGEST_PICTURE,
    BadPicture,
    load_picture,
    opened_picture,
    picture_size,
    upright,
)

__all__ = [
    "LARGEST_PICTURE",
    "BadPicture",
    "load_picture",
    "opened_picture",
    "picture_size",
    "to_rgb",
    "upright",
]
