"""Aspect ratio buckets: the shapes in which pictures are trained, and the crops that fit them.

The method is NovelAI's, as in kohya's sd-scripts.
"""

from collections.abc import Sequence
from math import log
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from studio.errors import BadInput

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LONGEST = 2.0  # the longer side of a bucket over the shorter; longer pictures lose their ends


def bucket_choices(*, size: int, step: int, buckets: bool) -> list[tuple[int, int]]:
    """The shapes (width, height) to choose from: the buckets, or the square alone.

    size: side of the square.  step: sides are multiples of it. Raises BadInput as `check_size`.
    """
    check_size(size, step)
    return bucket_sizes(size, step) if buckets else [(size, size)]


def check_size(size: int, step: int) -> None:
    """Raise BadInput where a side of this size is no multiple of `step`, that of a base."""
    if size < step or size % step:
        raise BadInput(f"size: {size} is not a multiple of {step}, which this base needs")


def bucket_sizes(size: int, step: int) -> list[tuple[int, int]]:
    """The buckets (width, height) in multiples of `step`, with an area of at most size x size.

    From 1:LONGEST to LONGEST:1, narrow to wide; the square is always among them.
    """
    sizes = {(size, size)}
    for width in range(step, size + 1, step):
        height = size * size // width // step * step
        if height <= LONGEST * width:
            sizes |= {(width, height), (height, width)}
    return sorted(sizes)


def nearest_bucket(choices: Sequence[tuple[int, int]], width: int, height: int) -> tuple[int, int]:
    """The bucket whose aspect ratio differs by the smallest factor."""
    ratio = log(width / height)
    return min(choices, key=lambda bucket: abs(log(bucket[0] / bucket[1]) - ratio))


def crop_to_bucket(
    picture: Image.Image,
    bucket: tuple[int, int],
    *,
    flip: bool = False,
    generator: "torch.Generator | None" = None,
) -> "tuple[Tensor, tuple[int, int]]":
    """A decoded picture, scaled to cover a bucket (width, height) and cropped to it.

    flip: mirror it first, left to right.  generator: crop at random; None crops the middle.

    Returns [3, H, W] float32 in -1 .. 1, and (top, left) of the crop in the scaled picture, which
    is an input of SDXL.
    """
    import numpy as np  # late, with PyTorch: the web page needs neither to show the buckets
    import torch

    if flip:
        picture = ImageOps.mirror(picture)
    width, height = bucket
    scaled = scaled_size(picture.size, bucket)
    picture = picture.resize(scaled, Image.Resampling.LANCZOS)
    top = _offset(scaled[1] - height, generator)
    left = _offset(scaled[0] - width, generator)
    cut = picture.crop((left, top, left + width, top + height))
    values = torch.from_numpy(np.array(cut, dtype=np.float32))
    return (values / 127.5 - 1).permute(2, 0, 1).contiguous(), (top, left)


def scaled_size(source: tuple[int, int], bucket: tuple[int, int]) -> tuple[int, int]:
    """Width and height of a source scaled to cover a bucket, with its aspect ratio."""
    scale = max(bucket[0] / source[0], bucket[1] / source[1])
    width, height = (max(b, round(s * scale)) for s, b in zip(source, bucket, strict=True))
    return width, height


def _offset(slack: int, generator: "torch.Generator | None") -> int:
    if generator is None:
        return slack // 2
    import torch

    return int(torch.randint(slack + 1, (1,), generator=generator))
