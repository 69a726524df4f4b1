"""Opening picture files of any origin; whatever is wrong with one becomes a BadInput."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError

from studio.errors import PICTURE_ERRORS, BadInput

LARGEST_PICTURE = 64_000_000  # pixels of a picture to start from, or of an upload


@contextmanager
def opened_picture(
    file: str | Path | BinaryIO,
    *,
    name: str = "",
    formats: tuple[str, ...] | None = None,
    most_pixels: int | None = None,
) -> Iterator[Image.Image]:
    """Open a picture file; within the block, it may be decoded.

    name: what messages call it, instead of its path.  formats: those to read, as Pillow names them.
    most_pixels: those of a larger picture are not decoded; Pillow's own limit holds too.

    Raises BadInput where there is no such picture, and where it is too large, damaged, or none.
    """
    name = name or str(file)
    try:
        with warnings.catch_warnings():
            # Pillow warns at its limit, and refuses at twice that. Ours is lower and decides.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(file, formats=formats)
        with opened as picture:
            if most_pixels and picture.width * picture.height > most_pixels:
                raise BadInput(
                    f"{name} is {picture.width} x {picture.height} pixels; at most "
                    f"{most_pixels:,} are read. Scale it down first."
                )
            yield picture
    except BadInput:
        raise
    except FileNotFoundError:
        raise BadInput(f"There is no picture at {file}.") from None
    except Image.DecompressionBombError:
        raise BadInput(f"{name} has too many pixels to open. Scale it down first.") from None
    except UnidentifiedImageError:
        raise BadInput(f"{name} can't be read as a picture: its format is not known.") from None
    except PICTURE_ERRORS as error:
        raise BadInput(f"{name} can't be read as a picture: {error}.") from error


def load_picture(path: str | Path, *, most_pixels: int | None = None) -> Image.Image:
    """A picture as RGB, upright, over white. Raises BadInput as `opened_picture`."""
    with opened_picture(path, most_pixels=most_pixels) as picture:
        return to_rgb(ImageOps.exif_transpose(picture))


def to_rgb(picture: Image.Image) -> Image.Image:
    """Any mode to RGB: transparency over white, sixteen bits of grey to eight."""
    if picture.mode.startswith("I"):
        import numpy as np  # which the command line does without

        grey = np.asarray(picture, dtype=np.float32) / 257
        return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return picture.convert("RGB")
