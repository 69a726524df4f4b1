"""Names: an adapter in a mix, FILE[:HALF][:STRENGTH], a folder of pictures, FOLDER[:WEIGHT], and
files after what they hold."""

import math
import os
import re
from pathlib import Path

from studio.adapters.blora_blocks import split_half
from studio.dataset.folders import Folder
from studio.errors import BadInput

__all__ = ["adapter_and_strength", "adapter_name", "file_and_strength", "folder_and_weight", "slug"]


def adapter_and_strength(text: str) -> tuple[str, float]:
    """`robot.safetensors:0.8` is the file and 0.8; without a strength it is 1.

    Raises BadInput when the strength is no finite number, or when there is nothing of that name.
    """
    file, strength = file_and_strength(text)
    if not math.isfinite(strength):
        raise BadInput(f"--adapter {text}: a strength is a finite number, such as 0.8.")
    there = split_half(file)[0]
    if not there or not os.path.exists(there):
        nearest, _, behind = there.rpartition(":")
        hint = ""
        if nearest and os.path.exists(split_half(nearest)[0]):
            hint = f"; behind a file stand a half and a strength, as in :style:0.8, not :{behind}"
        raise BadInput(f"--adapter {text}: there is no {there}{hint}.")
    return file, strength


def adapter_name(file: str) -> str:
    """What `photos/robot.v2.safetensors:style` is called, here `robot.v2:style`."""
    path, half = split_half(file)
    name = path.replace("\\", "/").rpartition("/")[2].removesuffix(".safetensors")
    return f"{name}:{half}" if half else name


def file_and_strength(text: str) -> tuple[str, float]:
    """`robot.safetensors:0.8` taken apart, whatever is there.

    Only a number behind the last colon is a strength, so a Windows drive, or the half of a B-LoRA
    (`robot.safetensors:style:0.8`), stays with the file; `studio.load_adapter` knows halves.
    """
    file, colon, last = text.rpartition(":")
    strength = _number(last) if colon and file else None
    return (text, 1.0) if strength is None else (file, strength)


def folder_and_weight(text: str) -> Folder:
    """`photos:2` is the folder photos and its weight 2; without a weight it is 1.

    Only a number behind the last colon is a weight, and not where a folder of the whole name is
    there. Raises BadInput for a weight out of range.
    """
    path, colon, last = text.rpartition(":")
    weight = _number(last) if colon and path and not Path(text).exists() else None
    return Folder(Path(text)) if weight is None else Folder(Path(path), weight)


def slug(text: str) -> str:
    """A text as a file name: lower case words with hyphens, at most 60 letters; may be empty."""
    return re.sub(r"[^\w]+|_", "-", text.lower()).strip("-")[:60].strip("-")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
