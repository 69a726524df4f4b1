"""The crop preview: which part of each picture of a set a training will see."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from PIL import Image

from studio.dataset.pictures import bucket_sizes, nearest_bucket, scaled_size
from studio.errors import PICTURE_ERRORS
from studio.workspace import UploadSet
from ui.web.frontend import template

ORIENTATION = 0x0112  # EXIF tag
QUARTER_TURNS = (5, 6, 7, 8)  # its values for pictures that lie on their side


@dataclass(frozen=True)
class Crop:
    """The part of a picture that is kept; left, top, width and height are shares of its sides.

    enlarged: the picture is smaller than its bucket.
    """

    name: str
    bucket: tuple[int, int]
    left: float
    top: float
    width: float
    height: float
    enlarged: bool


def crops_of(pictures: UploadSet, *, size: int, step: int, buckets: bool = True) -> list[Crop]:
    """The center crop of each picture, as a training at this size makes it; sorted by bucket."""
    choices = bucket_sizes(size, step) if buckets else [(size, size)]
    crops = [
        _crop(picture.name, sides, nearest_bucket(choices, *sides))
        for picture in pictures.pictures
        if (sides := _visible_size(picture.path))
    ]
    return sorted(crops, key=lambda crop: (crop.bucket != (size, size), crop.bucket, crop.name))


def crop_preview(crops: Sequence[Crop], thumbnails: dict[str, Path]) -> str:
    """As HTML, a row for each bucket. thumbnails: by the pictures' names."""
    buckets = [(bucket, list(row)) for bucket, row in groupby(crops, lambda crop: crop.bucket)]
    return template("train/crops.html").render(buckets=buckets, thumbnails=thumbnails)


def _visible_size(path: Path) -> tuple[int, int] | None:
    """Width and height after the EXIF rotation; only the file's header is read."""
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            rotated = picture.getexif().get(ORIENTATION) in QUARTER_TURNS
    except PICTURE_ERRORS:
        return None
    return (height, width) if rotated else (width, height)


def _crop(name: str, source: tuple[int, int], bucket: tuple[int, int]) -> Crop:
    scaled = scaled_size(source, bucket)
    left, top = ((s - b) // 2 / s for s, b in zip(scaled, bucket, strict=True))
    width, height = bucket[0] / scaled[0], bucket[1] / scaled[1]
    enlarged = source[0] < bucket[0] or source[1] < bucket[1]
    return Crop(name, bucket, left, top, width, height, enlarged)
