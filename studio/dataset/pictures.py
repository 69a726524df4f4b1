"""Folders of pictures -> captioned examples, each with the shape it is trained at."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from studio.dataset.folders import Part, Sources, list_folder, list_parts, parse_folders
from studio.errors import PICTURE_ERRORS, BadInput
from studio.files import file_sha256, read_text
from studio.json_value import parse_object

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SUFFIXES = {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
LONGEST = 2.0  # of a bucket's sides, longer over shorter; longer pictures lose their ends
THINNEST = 32  # longer over shorter side: scaled to cover a bucket, a strip is many gigabytes
CAPTIONS = (".txt", ".caption")
MASKS = (".mask", "-masklabel")  # behind a picture's name, before the suffix: its mask


@dataclass(frozen=True)
class Example:
    """One picture with its caption. Sizes in pixels.

    width, height: of the source, after its EXIF orientation.  bucket: (width, height) trained at.
    weight: how often it is drawn, relative to a picture of weight 1.  sha256: of the file.
    mask: the mask's file, which is the picture's own for its alpha channel; None without a mask.
    mask_sha256: of that file.
    """

    path: Path
    caption: str
    width: int
    height: int
    bucket: tuple[int, int]
    weight: Fraction = Fraction(1)
    sha256: str = ""
    mask: Path | None = None
    mask_sha256: str = ""


@dataclass(frozen=True)
class Skipped:
    """A picture that is left out, and why, as the end of a sentence."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Pictures:
    """The pictures of all folders, in the order of the folders, then by file name."""

    examples: tuple[Example, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    @property
    def sha256(self) -> str:
        """One SHA-256 for pictures, their captions, buckets, weights and masks."""
        lines = []
        for example in self.examples:
            line = f"{example.path.name} {example.sha256} {example.bucket} {example.caption}"
            line += f" x {example.weight}" if example.weight != 1 else ""
            lines.append(line + (f" mask {example.mask_sha256}" if example.mask else ""))
        return sha256("\n".join(lines).encode()).hexdigest()


def read_pictures(
    pictures: Sources, *, trigger: str, size: int, step: int, buckets: bool = True
) -> Pictures:
    """Read the pictures in folders. Each is decoded once, to find damaged ones before training.

    A caption is the text of the .txt or .caption file beside the picture, else `text` in
    metadata.jsonl, else the words in its folder's name (see studio/dataset/folders.py), else the
    trigger.

    pictures: a folder, or several with weights.
    size: side of a square example in pixels; buckets have about that area.
    step: sides of buckets are multiples of it (`Base.step`).
    buckets: False trains every picture as a square.

    Damaged, oversized or absent pictures are skipped and named. Raises BadInput where a folder
    is missing or holds no picture that can be read, where a caption cannot be, and where size is
    no multiple of step.
    """
    choices = _bucket_choices(size=size, step=step, buckets=buckets)
    examples: list[Example] = []
    skipped: list[Skipped] = []
    for folder in parse_folders(pictures):
        parts = list_parts(folder.path)
        for part, captions in zip(parts, _captions_of(parts), strict=True):
            found, left_out = _read(part, captions, choices, trigger)
            if not found and (part.words or len(parts) == 1):
                raise BadInput(_no_pictures_message(part.path, left_out))
            weight = Fraction(str(folder.weight)) * part.repeats
            examples += [replace(example, weight=weight) for example in found]
            skipped += left_out
    return Pictures(tuple(examples), tuple(skipped))


def with_buckets(pictures: Pictures, *, size: int, step: int, buckets: bool = True) -> Pictures:
    """The same pictures with the buckets that `read_pictures` would give them."""
    choices = _bucket_choices(size=size, step=step, buckets=buckets)
    examples = (
        replace(one, bucket=nearest_bucket(choices, one.width, one.height))
        for one in pictures.examples
    )
    return replace(pictures, examples=tuple(examples))


def _bucket_choices(*, size: int, step: int, buckets: bool) -> list[tuple[int, int]]:
    if size < step or size % step:
        raise BadInput(f"The size is {size}, but this base needs a multiple of {step}.")
    return bucket_sizes(size, step) if buckets else [(size, size)]


def _captions_of(parts: Sequence[Part]) -> list[dict[Path, str]]:
    """For each part, the captions in its metadata.jsonl and in that of the whole folder."""
    whole = _metadata(parts[0].path)
    found = [whole]
    for part in parts[1:]:
        listed = {path: whole.pop(path) for path in list(whole) if part.path in path.parents}
        found.append(listed | _metadata(part.path))
    return found


def _read(
    part: Part, captions: Mapping[Path, str], choices: Sequence[tuple[int, int]], trigger: str
) -> tuple[list[Example], list[Skipped]]:
    """The pictures of one part, of weight 1."""
    found: list[Example] = []
    skipped: list[Skipped] = []
    for path in sorted({*_listed(part.path), *captions}):
        measured = _measure(path)
        if isinstance(measured, Skipped):
            skipped.append(measured)
            continue
        caption = _caption(path) or captions.get(path) or part.words or trigger
        bucket = nearest_bucket(choices, *measured)
        found.append(Example(path, caption, *measured, bucket, sha256=file_sha256(path)))
    return found, skipped


def _listed(folder: Path) -> list[Path]:
    """The picture files of a folder, without hidden files and masks."""
    found = [
        path
        for path in list_folder(folder)
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    masks = {path.stem + ending for path in found for ending in MASKS}
    return [path for path in found if path.stem not in masks]


def _no_pictures_message(folder: Path, skipped: Sequence[Skipped]) -> str:
    if not skipped:
        kinds = ", ".join(sorted(suffix.removeprefix(".") for suffix in SUFFIXES))
        return f"There are no pictures in {folder}: put some there ({kinds})."
    reasons = "; ".join(f"{one.path.name} {one.reason}" for one in skipped[:3])
    more = f"; and {len(skipped) - 3} more" if len(skipped) > 3 else ""
    return f"None of the pictures in {folder} can be read: {reasons}{more}."


def _metadata(folder: Path) -> dict[Path, str]:
    """Captions of a Hugging Face `imagefolder`: metadata.jsonl with file_name and text."""
    path = folder / "metadata.jsonl"
    if not path.is_file():
        return {}
    captions: dict[Path, str] = {}
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        row = parse_object(line, f"{path}, line {number},")
        name, text = row.get("file_name"), row.get("text")
        if not isinstance(name, str) or not isinstance(text, str):
            raise BadInput(f"{path}, line {number}, lacks a file_name or a text.")
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise BadInput(f"{path}, line {number}, names {name!r}, which is not in the folder.")
        captions[folder / name] = " ".join(text.split())
    return captions


def _caption(path: Path) -> str:
    """The text of the file beside a picture, or nothing."""
    for suffix in CAPTIONS:
        beside = path.with_suffix(suffix)
        if beside.is_file() and (text := " ".join(read_text(beside).split())):
            return text
    return ""


def _measure(path: Path) -> tuple[int, int] | Skipped:
    """Width and height of a picture that decodes to its end, or why it is left out."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                width, height = picture.size
                turned = picture.getexif().get(0x0112) in (5, 6, 7, 8)  # EXIF: lies on its side
                picture.draft("RGB", (64, 64))  # a JPEG decodes to its end at an eighth the size
                picture.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return Skipped(path, f"is too large to open safely (over {_limit()} megapixels)")
    except FileNotFoundError:
        return Skipped(path, "is named in metadata.jsonl but is not there")
    except PICTURE_ERRORS as error:
        return Skipped(path, f"is damaged or no picture ({error})")
    if max(width, height) > THINNEST * min(width, height):
        return Skipped(path, f"is a strip of {width} x {height} pixels: cut it")
    return (height, width) if turned else (width, height)


def _limit() -> int:
    return (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000


def bucket_sizes(size: int, step: int) -> list[tuple[int, int]]:
    """The buckets: (width, height) in multiples of `step`, as large as size x size allows.

    From 1:LONGEST to LONGEST:1, narrow to wide; the square is always among them.
    """
    found = {(size, size)}
    for width in range(step, size + 1, step):
        height = size * size // width // step * step
        if height <= LONGEST * width:
            found |= {(width, height), (height, width)}
    return sorted(found)


def nearest_bucket(choices: Sequence[tuple[int, int]], width: int, height: int) -> tuple[int, int]:
    """The bucket whose ratio of sides is nearest, by factor."""
    ratio = np.log(width / height)
    return min(choices, key=lambda one: abs(np.log(one[0] / one[1]) - ratio))


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
    SDXL is told.
    """
    import torch  # which a page that shows the buckets does without

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
    """Width and height of a source scaled to cover a bucket; its ratio is kept."""
    scale = max(bucket[0] / source[0], bucket[1] / source[1])
    width, height = (max(b, round(s * scale)) for s, b in zip(source, bucket, strict=True))
    return width, height


def _offset(slack: int, generator: "torch.Generator | None") -> int:
    if generator is None:
        return slack // 2
    import torch

    return int(torch.randint(slack + 1, (1,), generator=generator))
