"""A region of a shot: a part of the picture, with a prompt and adapters of its own.

A region is written as AREA or AREA@ADAPTERS; ": PROMPT" may follow either:

    0,0,0.5,1: a sks robot         the left half; the first region has the first adapter
    0.5,0,1,1@2,3: a sks octopus   the right half, with the second and the third adapter
    hat.png: a crown               where that picture is white

    found@2: a sks octopus         where the UNet attends to the second adapter's trigger words
    found a cat@: a cat            where it attends to these words of the shot's prompt; no adapter

An area is one of three. A box is x0,y0,x1,y1 in shares of the picture's width and height, from its
top left corner, so that it holds for every size. A mask is a picture that is white inside the area.
The third is found while the picture is drawn, see compose/engine/regions/finding.py. In a resolved
shot a mask is not a file but a data: URL with the picture itself, small and in black and white, so
that a recipe needs no other file to make its picture again.
"""

import base64
import binascii
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from studio.errors import BadInput
from studio.picture import BadPicture, opened_picture
from studio.requests.picture_file import open_picture
from studio.requests.validation import in_words

DATA = "data:image/png;base64,"
LONGEST_SIDE = 128  # pixels of a mask kept in a recipe: as many as SDXL's latents have
MOST_DATA = 64 * 1024  # characters of a mask's data: URL
TEXT = re.compile(
    r"(?P<area>data:image/png;base64,[\w+/=]*|(?:[A-Za-z]:(?=[\\/]))?[^:@]+)"
    r"(?:@(?P<adapters>[^:]*))?(?::(?P<prompt>.*))?",
    re.DOTALL,
)
FOUND = "found"
FOUND_AREA = re.compile(r"found(?P<words>\s[^.]*)?", re.DOTALL)  # a file's name has a dot
EXAMPLE = '"0,0,0.5,1: a red robot"'


@dataclass(frozen=True)
class Region:
    """A part of a picture. box: x0, y0, x1, y1 in shares of the picture. mask: a file or data: URL.

    Without box and mask, the area is found by the attention to `words` of the shot's prompt, or,
    where `words` is empty, to the trigger words of the region's adapters.
    prompt: None is the shot's prompt. adapters: their positions in the shot, from 1. None is the
    adapter that has the region's own position, if there is one; () is no adapter.
    """

    box: tuple[float, float, float, float] | None = None
    mask: str | None = None
    prompt: str | None = None
    adapters: tuple[int, ...] | None = None
    words: str = ""

    @property
    def found(self) -> bool:
        return self.box is None and self.mask is None


def read_region(text: str) -> Region:
    """The region that a text describes. Raises BadInput for another text. Opens no mask."""
    parts = TEXT.fullmatch(text.strip())
    if parts is None:
        raise BadInput(f"{in_words(text)} names no part of the picture; write it as {EXAMPLE}")
    area, prompt = parts["area"].strip(), parts["prompt"]
    box, found = _box(area), FOUND_AREA.fullmatch(area)
    return Region(
        box=box,
        mask=None if box or found else area,
        prompt=prompt.strip() if prompt and prompt.strip() else None,
        adapters=None if parts["adapters"] is None else _positions(parts["adapters"]),
        words=" ".join((found["words"] or "").split()) if found else "",
    )


def region_text(region: Region) -> str:
    """The text that `read_region` reads as this region."""
    area = region.mask or f"{FOUND} {region.words}".strip()
    if region.box:
        area = ",".join(f"{share:g}" for share in region.box)
    adapters = "" if region.adapters is None else f"@{','.join(map(str, region.adapters))}"
    return f"{area}{adapters}" + (f": {region.prompt}" if region.prompt else "")


def bounding_box(region: Region) -> tuple[float, float, float, float]:
    """The box around a region, in shares of the picture."""
    if region.box is not None:
        return region.box
    assert region.mask is not None
    mask = open_mask(region.mask)
    x0, y0, x1, y1 = mask.getbbox() or (0, 0, *mask.size)
    return x0 / mask.width, y0 / mask.height, x1 / mask.width, y1 / mask.height


def embed_mask(text: str, find: Callable[[str], str | Path] = Path) -> str:
    """A region's text with a data: URL in place of the file of its mask, if it names one.

    find: returns the path of a file. Raises BadInput where the mask is missing or all black.
    """
    region = read_region(text)
    if region.mask is None or region.mask.startswith(DATA):
        return text
    address = mask_address(open_picture(find(region.mask)))
    return region_text(Region(None, address, region.prompt, region.adapters))


def mask_address(picture: Image.Image) -> str:
    """A mask as a data: URL, in black and white. Raises BadInput where it is black everywhere."""
    grey = picture.convert("L")
    grey.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    binary = grey.point([0] * 128 + [255] * 128).convert("1")
    if binary.getbbox() is None:
        raise BadInput("the mask of a region is black everywhere: make the region white in it")
    written = io.BytesIO()
    binary.save(written, "PNG", optimize=True)
    return DATA + base64.b64encode(written.getvalue()).decode()


def open_mask(address: str) -> Image.Image:
    """The mask in a data: URL, in greyscale. Raises BadInput where it cannot be read."""
    larger = BadInput(f"the mask of a region is larger than {LONGEST_SIDE} pixels")
    if len(address) > MOST_DATA:
        raise larger
    try:
        file = io.BytesIO(base64.b64decode(address.removeprefix(DATA), validate=True))
        with opened_picture(file, name="the mask", formats=("PNG",)) as picture:
            if max(picture.size) > LONGEST_SIDE:
                raise larger
            return picture.convert("L")
    except (binascii.Error, BadPicture) as error:
        raise BadInput("the mask of a region is no picture") from error


def region_problems(regions: Sequence[str]) -> str | None:
    """What is wrong with the first bad one of these regions' texts; None where all are good."""
    for text in regions:
        try:
            region = read_region(text)
            if region.mask is not None and region.mask.startswith(DATA):
                open_mask(region.mask)
        except BadInput as error:
            return f"regions: {error}"
    return None


def _box(area: str) -> tuple[float, float, float, float] | None:
    """The box, or None for another kind of area. Raises BadInput for numbers that are no box."""
    try:
        numbers = [float(number) for number in area.split(",")]
    except ValueError:
        return None
    if len(numbers) != 4:
        raise BadInput(f"{in_words(area)} is no box: give x0,y0,x1,y1, such as {EXAMPLE}")
    x0, y0, x1, y1 = numbers
    if max(numbers) > 1:
        raise BadInput(
            f"the box {in_words(area)} does not lie inside the picture: give shares of its width "
            "and height, from 0 to 1, not pixels"
        )
    if not (0 <= x0 < x1 and 0 <= y0 < y1):
        raise BadInput(
            f"the box {in_words(area)} is empty: x0,y0 is its top left corner, x1,y1 the other"
        )
    return x0, y0, x1, y1


def _positions(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(",") if number.strip())
    except ValueError:
        quoted = in_words(f"@{text}")
        raise BadInput(f"{quoted} names no adapters: give their numbers, such as @1,3") from None
