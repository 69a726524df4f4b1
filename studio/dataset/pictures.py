"""Read folders of pictures into captioned examples, each with its bucket."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from hashlib import sha256
from pathlib import Path

from studio.dataset.buckets import bucket_choices, nearest_bucket
from studio.dataset.captions import Listed, caption_beside, caption_files, read_metadata
from studio.dataset.folders import KOHYA_IMAGES, Part, Sources, list_parts, parse_folders
from studio.dataset.left_out import CAPTIONS, SUB_FOLDERS, Skipped, describe_skipped
from studio.dataset.listing import list_pictures, skipped_captions, skipped_folders
from studio.errors import BadInput, join_errors
from studio.files import file_sha256
from studio.picture import BadPicture, picture_size

# The longer over the shorter side of a picture: a thinner strip, scaled to cover a bucket, would
# take gigabytes.
THINNEST = 32


@dataclass(frozen=True)
class Example:
    """One picture with its caption. Sizes are in pixels.

    width, height: of the picture file, upright.  bucket: (width, height) in the training.
    weight: how often it comes, relative to a picture of weight 1.  sha256: of the file.
    mask: the mask's file, or the picture's own for its alpha channel; None without a mask.
    mask_sha256: of the mask's file.
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
class Pictures:
    """The pictures of all folders, in the order of the folders, then by file name.

    skipped: files and sub-folders that are left out.
    """

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

    def remarks(self) -> list[str]:
        """Sentences: where pictures come from kohya's `img`, and what is left out, by kind."""
        kohya = dict.fromkeys(
            example.path.parent.parent
            for example in self.examples
            if example.path.parent.parent.name == KOHYA_IMAGES
        )
        return [
            *(f"Pictures are taken from the sub-folders of {folder}." for folder in kohya),
            *describe_skipped(self.skipped),
        ]


def read_pictures(
    pictures: Sources, *, trigger: str, size: int, step: int, buckets: bool = True
) -> Pictures:
    """Read the pictures in folders. Each is decoded once, to find damaged ones before training.

    A caption comes from a file (see studio/dataset/captions.py), or else from the words in its
    folder's name (see studio/dataset/folders.py), or else it is the trigger.

    pictures: a folder, or several with weights.
    size: side of a square example in pixels; buckets have about that area.
    step: sides of buckets are multiples of it (`Base.step`).
    buckets: False trains every picture as a square.

    Damaged, oversized or missing pictures, those of formats that are not read, sub-folders with
    pictures, and captions without a picture are listed in `skipped`. Raises BadInput where a folder
    is missing or holds no picture that can be read, where captions cannot be read (it names them
    all), and where size is no multiple of step.
    """
    choices = bucket_choices(size=size, step=step, buckets=buckets)
    examples: list[Example] = []
    skipped: list[Skipped] = []
    refused: list[BadInput] = []
    for folder in parse_folders(pictures):
        parts = list_parts(folder.path)
        read = {part.path for part in parts}
        for part, listed in zip(parts, _listed_captions(parts), strict=True):
            of_part, left_out = _read(part, listed, choices, trigger, refused)
            left_out += skipped_folders(part.path, read | listed.keys())
            if not of_part and (part.words or len(parts) == 1):
                raise BadInput(_no_pictures_message(part.path, left_out))
            weight = Fraction(str(folder.weight)) * part.repeats
            examples += [replace(example, weight=weight) for example in of_part]
            skipped += left_out
    if refused:
        raise join_errors(refused)
    return Pictures(tuple(examples), tuple(skipped))


def with_buckets(pictures: Pictures, *, size: int, step: int, buckets: bool = True) -> Pictures:
    """The same pictures with the buckets that `read_pictures` would give them."""
    choices = bucket_choices(size=size, step=step, buckets=buckets)
    examples = (
        replace(example, bucket=nearest_bucket(choices, example.width, example.height))
        for example in pictures.examples
    )
    return replace(pictures, examples=tuple(examples))


def _listed_captions(parts: Sequence[Part]) -> list[dict[Path, Listed]]:
    """The captions of each part's pictures, from its own metadata and the whole folder's."""
    of_folder = read_metadata(parts[0].path)
    listed = [of_folder]
    for part in parts[1:]:
        inside = {p: of_folder.pop(p) for p in list(of_folder) if part.path in p.parents}
        listed.append(inside | read_metadata(part.path))
    return listed


def _read(
    part: Part,
    listed: Mapping[Path, Listed],
    choices: Sequence[tuple[int, int]],
    trigger: str,
    refused: list[BadInput],
) -> tuple[list[Example], list[Skipped]]:
    """The pictures of one part, with weight 1.

    listed: their captions in metadata. refused: errors of captions are appended to it.
    """
    files, skipped = list_pictures(part.path)
    paths = sorted({*files, *listed} - {left_out.path for left_out in skipped})
    folders = {path.parent for path in paths}
    beside = {folder: caption_files(folder) for folder in folders if folder.is_dir()}
    examples: list[Example] = []
    for path in paths:
        row = listed.get(path)
        measured = _measure(path, row)
        if isinstance(measured, Skipped):
            skipped.append(measured)
            continue
        try:
            text = caption_beside(path, beside[path.parent]) or (row.text if row else "")
        except BadInput as error:
            refused.append(error)
            text = ""
        caption = text or part.words or trigger
        bucket = nearest_bucket(choices, *measured)
        examples.append(Example(path, caption, *measured, bucket, sha256=file_sha256(path)))
    known = [*paths, *(left_out.path for left_out in skipped)]
    return examples, [*skipped, *skipped_captions(part.path, known)]


def _measure(path: Path, row: Listed | None) -> tuple[int, int] | Skipped:
    """Width and height of a picture, or why it is left out."""
    try:
        width, height = picture_size(path, decode=True)
    except BadPicture as error:
        reason = error.reason
        if row and error.kind == "missing":
            reason = f"is named in {row.file} but is not there"
        return Skipped(path, reason, error.kind)
    if is_strip(width, height):
        return Skipped(path, f"is a strip of {width} x {height} pixels: cut it", "too narrow")
    return width, height


def is_strip(width: int, height: int) -> bool:
    """Whether a picture is too narrow to be trained on."""
    return max(width, height) > THINNEST * min(width, height)


def _no_pictures_message(folder: Path, skipped: Sequence[Skipped]) -> str:
    if any(left_out.kind not in (CAPTIONS, SUB_FOLDERS) for left_out in skipped):
        message = f"None of the pictures in {folder} can be read."
    else:
        message = f"There are no pictures in {folder}: put some there, such as JPEG or PNG files."
    return " ".join([message, *describe_skipped(skipped)])
