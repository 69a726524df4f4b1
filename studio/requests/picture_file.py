"""Open pictures to start from, and write finished pictures with their recipes.

A finished picture's PNG holds two texts: `parameters`, as A1111 writes it and most galleries read
it, and `studio`, a JSON object from which the same picture can be made again bit for bit.
"""

import hashlib
from pathlib import Path

from PIL import Image, PngImagePlugin

from studio.errors import BadInput
from studio.files import atomic_write, file_sha256
from studio.json_value import parse_object
from studio.picture import LARGEST_PICTURE, load_picture, opened_picture

VERSION = 1  # of the JSON in the PNG
TEXTS = ("parameters", "studio")


def open_picture(path: str | Path) -> Image.Image:
    """A picture in RGB, upright, transparency over white. BadInput if unreadable or too large."""
    return load_picture(path, most_pixels=LARGEST_PICTURE)


def picture_sha256(picture: Image.Image | str | Path) -> str:
    """The SHA-256 of a file's bytes, or of the size and RGB pixels of a picture in memory."""
    if isinstance(picture, Image.Image):
        rgb = picture.convert("RGB")
        return hashlib.sha256(f"{rgb.width}x{rgb.height} ".encode() + rgb.tobytes()).hexdigest()
    return file_sha256(picture)


def save_picture(image: Image.Image, path: str | Path) -> Path:
    """Write a rendered picture as a PNG, with the recipe that `compose.render` put in its `info`.

    The file is written whole or not at all. Missing folders are made.
    Raises BadInput when `path` doesn't end in .png or can't be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise BadInput(f"{path}: pictures are saved as .png, which keeps their recipe.")
    texts = PngImagePlugin.PngInfo()
    for name in TEXTS:
        texts.add_text(name, image.info[name])
    with atomic_write(path) as file:
        image.save(file, "PNG", pnginfo=texts)
    return path


def read_recipe(path: str | Path) -> dict[str, object]:
    """The `studio` JSON of a PNG; BadInput when there is none or it is of another version."""
    with opened_picture(path) as picture:
        text = picture.info.get("studio")
    if not isinstance(text, str):
        raise BadInput(f"{path} carries no recipe of Studio's, so it can't be made again.")
    recipe: dict[str, object] = {**parse_object(text, f"The recipe in {path} is damaged: it")}
    if "version" not in recipe:
        raise BadInput(f"The recipe in {path} is damaged: it has no version.")
    if recipe["version"] != VERSION:
        raise BadInput(
            f"The recipe in {path} is of version {recipe['version']}, this Studio reads {VERSION}."
        )
    return recipe
