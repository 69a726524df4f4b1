"""Adapters in the names that other tools read."""

from pathlib import Path
from typing import Literal

from studio.adapter import load_adapter
from studio.errors import BadInput
from studio.formats import to_diffusers, to_kohya, to_lycoris
from studio.tensorfile import write_tensors
from ui._screen import remark

__all__ = ["write_as"]

WRITERS = {"kohya": to_kohya, "diffusers": to_diffusers, "lycoris": to_lycoris}


def write_as(file: Path, *, to: Literal["kohya", "diffusers", "lycoris"], out: Path) -> None:
    """Write the adapter `file` in another tool's names; BadInput when `out` is there already."""
    if out.exists():
        raise BadInput(f"{out} is there already: give another --out.")
    if out.suffix != ".safetensors":
        raise BadInput(f"{out} is no name for an adapter: it ends in .safetensors.")
    tensors, metadata = WRITERS[to](load_adapter(file))
    write_tensors(out, tensors, metadata)
    remark(f"{out}: {len(tensors)} tensors in {to} names")
