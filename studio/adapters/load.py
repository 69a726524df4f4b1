"""Read an adapter's file, in Studio's own format or another program's."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from studio.adapters.adapter import Adapter
from studio.adapters.adapter_header import read_adapter_header
from studio.adapters.blora_blocks import select_half, split_half
from studio.adapters.compatibility import check_contents, check_fits
from studio.adapters.formats.read import read_deltas, read_embeddings
from studio.adapters.tensor_file import read_tensors

if TYPE_CHECKING:  # diffusers takes seconds
    from studio.bases.base import Base


def load_adapter(path: str | Path, *, base: "Base | None" = None) -> Adapter:
    """Read an adapter's file: Studio's own, or one that `studio.adapters.formats` lists.

    path: the file, or a folder that diffusers or peft wrote. ":content" or ":style" behind it
    selects that half of a B-LoRA.
    base: the base that the adapter must fit. A file that states no family gets the base's.
    Raises BadInput where the file is no adapter, is damaged, or does not fit the base.
    """
    file, half = split_half(str(path))
    header = read_adapter_header(Path(file))
    path, contents = header.path, header.contents
    info = replace(header.info, family=header.info.family or (base.family if base else ""))
    if base is not None:  # before any tensor is read
        check_contents(contents, info.family, base, f"the adapter {path}")
    tensors, sha256 = read_tensors(path, header.header)
    adapter = Adapter(
        **vars(info),
        deltas=read_deltas(contents, tensors, path),
        embeddings=read_embeddings(contents, tensors),
        path=path,
        sha256=sha256,
    )
    if half:
        adapter = select_half(adapter, half)
    if base is not None:
        check_fits(adapter, base)
    return adapter
