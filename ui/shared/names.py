"""Short forms on the command line, FILE[:HALF][:STRENGTH] and FOLDER[:WEIGHT], and file names."""

import os
import re
from pathlib import Path

from studio.adapters.blora_blocks import split_half
from studio.dataset.folders import Folder, parse_folders
from studio.errors import BadInput
from studio.requests.shot import LARGEST_STRENGTH


def parse_adapter(text: str) -> tuple[str, float]:
    """File and strength of `robot.safetensors:0.8`; the strength is 1 if none is given.

    Raises BadInput for a strength out of range, or when there is no such file.
    """
    file, strength = split_strength(text)
    check_strength(strength, f"--adapter {text}")
    path = split_half(file)[0]
    if not path or not os.path.exists(path):
        raise BadInput(f"--adapter {text}: there is no file {path}{suffix_hint(path)}.")
    return file, strength


def check_strength(strength: float, where: str) -> None:
    """Raise BadInput for a strength that no shot can have. where: begins the message."""
    if not -LARGEST_STRENGTH <= strength <= LARGEST_STRENGTH:
        most = LARGEST_STRENGTH
        raise BadInput(f"{where}: a strength is a number from -{most} to {most}, such as 0.8")


def suffix_hint(path: str) -> str:
    """A hint for messages on what may follow a file's name, if `path` has something else there."""
    file, _, suffix = path.rpartition(":")
    if not file or not os.path.exists(split_half(file)[0]):
        return ""
    return f"; after a file you can give a half and a strength, as in :style:0.8, but not :{suffix}"


def adapter_name(file: str) -> str:
    """The name of an adapter: `robot.v2:style` of `photos/robot.v2.safetensors:style`."""
    path, half = split_half(file)
    name = path.replace("\\", "/").rpartition("/")[2].removesuffix(".safetensors")
    return f"{name}:{half}" if half else name


def split_strength(text: str) -> tuple[str, float]:
    """File and strength of `robot.safetensors:0.8`, whether or not the file exists.

    Only a number after the last colon is a strength. So the drive of a Windows path and the half of
    a B-LoRA (`robot.safetensors:style:0.8`) stay with the file.
    """
    file, _, last = text.rpartition(":")
    strength = _number(last) if file else None
    return (text, 1.0) if strength is None else (file, strength)


def parse_folder(text: str) -> Folder:
    """Folder and weight of `photos:2`; the weight is 1 if none is given.

    Only a number after the last colon is a weight, unless a folder has the whole text as its name.
    Raises BadInput for a weight out of range.
    """
    path, _, last = text.rpartition(":")
    weight = _number(last) if path and not Path(text).exists() else None
    return parse_folders(text if weight is None else [(path, weight)])[0]


def slug(text: str) -> str:
    """A text as a file name: lower-case words joined by hyphens; may be empty.

    At most 60 characters and 180 bytes, so that there is room for a number and a suffix.
    """
    words = re.sub(r"[^\w]+|_", "-", text.lower()).strip("-")[:60]
    return words.encode()[:180].decode(errors="ignore").strip("-")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
