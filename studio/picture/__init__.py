"""Reading picture files of any origin, all by the same rules: docs/datasets.md has them.

The pixels decide: notes in a file that are damaged or too long (EXIF, texts, a colour profile) are
passed over, and the picture is read.
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
