"""Adapters in the names that other tools read."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from studio.adapters.adapter import Adapter, load_adapter
from studio.adapters.blora_blocks import HALVES
from studio.adapters.formats import to_diffusers, to_inversions, to_kohya, to_lycoris
from studio.adapters.tensor_file import write_tensors
from studio.errors import BadInput
from ui.shared.names import slug
from ui.shared.terminal import remark

__all__ = ["write_as", "write_halves"]

WRITERS = {"kohya": to_kohya, "diffusers": to_diffusers, "lycoris": to_lycoris}
Written = tuple[dict[str, Tensor], dict[str, str]]
Tool = Literal["kohya", "diffusers", "lycoris", "embedding"]


def write_as(file: Path, *, to: Tool, family: str | None, out: Path) -> None:
    """Write the adapter `file` in another tool's names; BadInput when `out` is there already.

    to: "embedding" writes its learned words alone, as textual inversion; where there are several,
    the files are called OUT-WORD. family: of the base it was made for, where the file does not
    tell.
    """
    if out.suffix != ".safetensors":
        raise BadInput(f"{out} is no name for an adapter: it ends in .safetensors.")
    adapter = load_adapter(file)
    if family and adapter.family not in ("", family):
        raise BadInput(f"{file} was made for {adapter.family}, not for {family}.")
    files = _files(replace(adapter, family=family or adapter.family), to=to, out=out)
    for path in files:
        if path.exists():
            raise BadInput(f"{path} is there already: give another --out.")
    for path, (tensors, metadata) in files.items():
        write_tensors(path, tensors, metadata)
        remark(f"{path}: {len(tensors)} tensors in {to} names")


def _files(adapter: Adapter, *, to: Tool, out: Path) -> Mapping[Path, Written]:
    if to != "embedding":
        return {out: WRITERS[to](adapter)}
    alone = to_inversions(adapter)
    if len(alone) == 1:
        return {out: next(iter(alone.values()))}
    return {
        out.with_name(f"{out.stem}-{slug(token)}{out.suffix}"): one for token, one in alone.items()
    }


def write_halves(file: Path, *, to: Tool, family: str | None, out: Path) -> None:
    """Write the content and the style half of a B-LoRA as two files, named OUT-HALF."""
    for half in HALVES:
        whose = file.with_name(f"{file.name}:{half}")
        write_as(whose, to=to, family=family, out=out.with_name(f"{out.stem}-{half}{out.suffix}"))
