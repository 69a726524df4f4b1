"""How the pictures of a set will be cut for a training, drawn over their thumbnails."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path

from PIL import Image

from studio.dataset.pictures import bucket_sizes, nearest_bucket, scaled_size
from studio.errors import PICTURE_ERRORS
from studio.workspace import UploadSet
from ui.web.server.downloads import file_url

__all__ = ["Cut", "cuts", "cuts_of"]

LYING = (5, 6, 7, 8)  # EXIF orientations of pictures that are turned by a quarter
ORIENTATION = 0x0112


@dataclass(frozen=True)
class Cut:
    """A picture and what is kept of it. kept: left, top, width and height, as shares of it.

    small: less than its bucket, so that it is scaled up.
    """

    name: str
    bucket: tuple[int, int]
    kept: tuple[float, float, float, float]
    small: bool


def cuts_of(pictures: UploadSet, *, size: int, step: int, buckets: bool = True) -> list[Cut]:
    """How each picture is cut in the middle, as a training at this size would; by bucket."""
    choices = bucket_sizes(size, step) if buckets else [(size, size)]
    found = []
    for picture in pictures.pictures:
        if source := _measured(picture.path):
            found.append(_cut(picture.name, source, nearest_bucket(choices, *source)))
    return sorted(found, key=lambda one: (-(one.bucket == (size, size)), one.bucket, one.name))


def cuts(found: Sequence[Cut], small: dict[str, Path]) -> str:
    """As HTML, a row for each bucket. small: the thumbnails by the pictures' names."""
    rows = []
    for bucket, row in groupby(found, lambda one: one.bucket):
        members = list(row)
        said = f"{bucket[0]} x {bucket[1]} · {_count(len(members))}"
        if enlarged := sum(one.small for one in members):
            said += f", {enlarged} enlarged"
        figures = "".join(_figure(one, small[one.name]) for one in members)
        rows.append(f'<h4 class="quiet">{said}</h4><div class="studio-cuts">{figures}</div>')
    return "".join(rows)


def _measured(path: Path) -> tuple[int, int] | None:
    """Width and height as it is seen; only its header is read."""
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            lies = picture.getexif().get(ORIENTATION) in LYING
    except PICTURE_ERRORS:
        return None
    return (height, width) if lies else (width, height)


def _cut(name: str, source: tuple[int, int], bucket: tuple[int, int]) -> Cut:
    scaled = scaled_size(source, bucket)
    left, top = ((s - b) // 2 / s for s, b in zip(scaled, bucket, strict=True))
    kept = (left, top, bucket[0] / scaled[0], bucket[1] / scaled[1])
    return Cut(name, bucket, kept, small=source[0] < bucket[0] or source[1] < bucket[1])


def _figure(cut: Cut, small: Path) -> str:
    left, top, width, height = (100 * share for share in cut.kept)
    box = f"left:{left:.2f}%;top:{top:.2f}%;width:{width:.2f}%;height:{height:.2f}%"
    return (
        f'<span title="{escape(cut.name)}"><img src="{file_url(small)}" '
        f'alt="{escape(cut.name)}" loading="lazy"><i style="{box}"></i></span>'
    )


def _count(pictures: int) -> str:
    return "1 picture" if pictures == 1 else f"{pictures} pictures"
