"""Masks: the weight of each pixel in the loss, from white (learned) to black (ignored).

A mask is the picture's alpha channel, or a separate file. For a picture `photos/red.jpg`, the mask
is the first of these files that exists, with the suffix of any picture format:

    photos/red.mask.png         beside it
    photos/red-masklabel.png    beside it, as OneTrainer names it
    photos/masks/red.png        in a folder below, `masks` or `mask`
    photos_mask/red.png         in a folder beside its own, `photos_mask` or `photos_masks`, as
                                kohya's documentation names a `conditioning_data_dir`
    masks/red.png               in a folder `masks` or `mask` beside its own

The weight is the mask's brightness, as in OneTrainer (kohya takes the red channel, which is the
same for grey masks). Transparent parts are black. The mask is scaled and cropped with its picture,
then averaged over the pixels of each latent, as in kohya ("area").
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from glob import escape
from os.path import abspath
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from studio.dataset.buckets import scaled_size
from studio.dataset.folders import MASK_FOLDERS, MASKS_BELOW
from studio.dataset.listing import MASKS
from studio.dataset.pictures import Example, Pictures
from studio.errors import MOST_SAID, BadInput, join_errors
from studio.files import file_sha256
from studio.picture import opened_picture, to_rgb, upright
from studio.picture.formats import ENDINGS

Masked = Literal["alpha", "files"]


def with_masks(pictures: Pictures, masked: Masked) -> Pictures:
    """The pictures, each with its mask. masked: "alpha" for the alpha channel, or "files".

    Raises BadInput that names every picture whose mask is missing, cannot be read, belongs to
    another picture too, has another aspect ratio than its picture, or is black everywhere.
    """
    examples: list[Example] = []
    missing: list[Path] = []
    refused: list[BadInput] = []
    taken: dict[Path, Path] = {}
    for example in pictures.examples:
        file = example.path if masked == "alpha" else find_mask_file(example.path)
        if file is None:
            missing.append(example.path)
            continue
        try:
            examples.append(_with_mask(example, file, taken))
        except BadInput as error:
            refused.append(error)
    if missing:
        refused.append(BadInput(_missing(missing)))
    if refused:
        raise join_errors(refused)
    return replace(pictures, examples=tuple(examples))


def _with_mask(example: Example, file: Path, taken: dict[Path, Path]) -> Example:
    """The example with its mask, checked. taken: the picture of each mask so far, by file."""
    if (other := taken.setdefault(file, example.path)) != example.path:
        raise BadInput(f"{other} and {example.path} share the mask {file}: give each its own.")
    masked_example = replace(example, mask=file)
    _check(masked_example)
    sha256 = example.sha256 if file == example.path else file_sha256(file)
    return replace(masked_example, mask_sha256=sha256)


def find_mask_file(picture: Path) -> Path | None:
    """The file with a picture's mask; None where there is none."""
    return next(_candidates(picture), None)


def _candidates(picture: Path) -> Iterator[Path]:
    folder = picture.parent
    stems = [(folder, picture.stem + ending) for ending in MASKS]
    stems += [(folder / name, picture.stem) for name in MASKS_BELOW]
    own = Path(abspath(folder))  # a full path, since "." has no name
    beside = (*(own.name + end for end in MASK_FOLDERS), *MASKS_BELOW)
    stems += [(own.parent / name, picture.stem) for name in beside]
    for place, stem in stems:
        for path in sorted(place.glob(f"{escape(stem)}.*")):
            if path.suffix.lower() in ENDINGS and path.stem == stem and path.is_file():
                yield path


def _missing(pictures: Sequence[Path]) -> str:
    picture, *others = pictures
    names = [path.name for path in others[:MOST_SAID]]
    if more := len(others) - len(names):
        names.append(f"{more} more")
    also = f" (so too {', '.join(names)})" if names else ""
    beside = picture.with_name(f"{picture.stem}{MASKS[0]}.png")
    below = picture.parent / MASKS_BELOW[0] / f"{picture.stem}.png"
    return (
        f"{picture} has no mask{also}: put one at {beside.name} or "
        f"{below.relative_to(picture.parent)} beside it, white where the picture is to be learned, "
        "or train without masks."
    )


def _check(example: Example) -> None:
    mask = load_mask(example)
    # Rounding may lose half a pixel where mask or picture is a scaled copy of the other.
    difference = abs(mask.width * example.height - mask.height * example.width)
    if difference > max(mask.width, example.width):
        raise BadInput(
            f"The mask {example.mask} is {mask.width} x {mask.height}, but {example.path.name} is "
            f"{example.width} x {example.height}: give it the same ratio of sides."
        )
    if mask.getextrema()[1] == 0:
        of = "alpha channel" if example.mask == example.path else "mask"
        raise BadInput(
            f"The {of} {example.mask} is black all over, so that nothing of {example.path.name} "
            "would be learned: make the part to learn white, or leave the picture out."
        )


def load_mask(example: Example) -> Image.Image:
    """A picture's mask in the size of its file: one channel of eight bits."""
    assert example.mask
    with opened_picture(example.mask, name=f"The mask {example.mask}") as opened:
        mask = upright(opened)
    if example.mask == example.path:
        if not mask.has_transparency_data:
            raise BadInput(
                f"{example.path} has no alpha channel, from which masks were asked for: save it "
                "with transparency, or give masks as files."
            )
        return mask.convert("RGBA").getchannel("A")
    mask.info.pop("icc_profile", None)  # its numbers are weights, not colours
    return to_rgb(mask, background="black").convert("L")


def latent_mask(
    mask: Image.Image, example: Example, *, corner: tuple[int, int], flip: bool, cell: int
) -> Tensor:
    """The weight of each latent in the loss, for a crop of `crop_to_bucket`.

    mask: from `load_mask`.  corner: (top, left) of the crop, from `crop_to_bucket`.  flip: whether
    the picture was mirrored.  cell: pixels per latent, along a side.

    Returns [H / cell, W / cell] float32 in 0 .. 1. Raises BadInput where all of it is 0.
    """
    if flip:
        mask = ImageOps.mirror(mask)
    (width, height), (top, left) = example.bucket, corner
    scaled = scaled_size((example.width, example.height), example.bucket)
    mask = mask.resize(scaled, Image.Resampling.BOX)
    cut = np.array(mask.crop((left, top, left + width, top + height)), dtype=np.float32) / 255
    if not cut.any():
        raise BadInput(
            f"The mask {example.mask} is black where {example.path.name} is cut to {width} x "
            f"{height}: take fewer crops, keep aspect ratios (buckets), or crop the picture."
        )
    cells = torch.from_numpy(cut).view(height // cell, cell, width // cell, cell)
    return cells.mean(dim=(1, 3))
