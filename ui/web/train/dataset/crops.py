"""The crop preview: which part of each picture of a set a training will see."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from studio.dataset.buckets import bucket_choices, nearest_bucket, scaled_size
from studio.dataset.pictures import is_strip
from studio.picture import BadPicture, picture_size
from studio.workspace import UploadSet
from ui.web.frontend import template


@dataclass(frozen=True)
class Crop:
    """The part of a picture that a training sees.

    bucket: width and height in pixels. left, top, width, height: shares of the picture's sides.
    enlarged: whether the picture is smaller than its bucket.
    """

    name: str
    bucket: tuple[int, int]
    left: float
    top: float
    width: float
    height: float
    enlarged: bool


def crops_of(pictures: UploadSet, *, size: int, step: int, buckets: bool = True) -> list[Crop]:
    """The center crop of each picture that a training at this size takes; sorted by bucket."""
    choices = bucket_choices(size=size, step=step, buckets=buckets)
    crops = [
        _crop(picture.name, sides, nearest_bucket(choices, *sides))
        for picture in pictures.pictures
        if (sides := _visible_size(picture.path)) and not is_strip(*sides)
    ]
    return sorted(crops, key=lambda crop: (crop.bucket != (size, size), crop.bucket, crop.name))


def crop_preview(crops: Sequence[Crop], thumbnails: dict[str, Path]) -> str:
    """The crops as HTML, a row for each bucket. thumbnails: by the pictures' names."""
    buckets = [(bucket, list(row)) for bucket, row in groupby(crops, lambda crop: crop.bucket)]
    return template("train/crops.html").render(buckets=buckets, thumbnails=thumbnails)


def _visible_size(path: Path) -> tuple[int, int] | None:
    try:
        return picture_size(path)
    except BadPicture:
        return None


def _crop(name: str, source: tuple[int, int], bucket: tuple[int, int]) -> Crop:
    scaled = scaled_size(source, bucket)
    left, top = ((s - b) // 2 / s for s, b in zip(scaled, bucket, strict=True))
    width, height = bucket[0] / scaled[0], bucket[1] / scaled[1]
    enlarged = source[0] < bucket[0] or source[1] < bucket[1]
    return Crop(name, bucket, left, top, width, height, enlarged)
