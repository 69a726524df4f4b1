"""Adapters in the names that other tools read."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from studio.adapter import load_adapter
from studio.errors import BadInput
from studio.formats import to_diffusers, to_kohya, to_lycoris
from studio.halves import HALVES
from studio.tensorfile import write_tensors
from ui._screen import remark

__all__ = ["write_as", "write_halves"]

WRITERS = {"kohya": to_kohya, "diffusers": to_diffusers, "lycoris": to_lycoris}
Tool = Literal["kohya", "diffusers", "lycoris"]


def write_as(file: Path, *, to: Tool, family: str | None, out: Path) -> None:
    """Write the adapter `file` in another tool's names; BadInput when `out` is there already.

    family: of the base it was made for, where the file does not tell.
    """
    if out.exists():
        raise BadInput(f"{out} is there already: give another --out.")
    if out.suffix != ".safetensors":
        raise BadInput(f"{out} is no name for an adapter: it ends in .safetensors.")
    adapter = load_adapter(file)
    if family and adapter.family not in ("", family):
        raise BadInput(f"{file} was made for {adapter.family}, not for {family}.")
    tensors, metadata = WRITERS[to](replace(adapter, family=family or adapter.family))
    write_tensors(out, tensors, metadata)
    remark(f"{out}: {len(tensors)} tensors in {to} names")


def write_halves(file: Path, *, to: Tool, family: str | None, out: Path) -> None:
    """Write the content and the style half of a B-LoRA as two files, named OUT-HALF."""
    for half in HALVES:
        whose = file.with_name(f"{file.name}:{half}")
        write_as(whose, to=to, family=family, out=out.with_name(f"{out.stem}-{half}{out.suffix}"))
