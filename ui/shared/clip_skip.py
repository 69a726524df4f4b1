"""Adapters of a mix that were trained with another clip skip than the picture is drawn with."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from studio.adapters.adapter_header import find_adapter_file
from studio.adapters.blora_blocks import split_half
from studio.adapters.formats.metadata import AdapterInfo, read_info, trained_clip_skip
from studio.adapters.safetensors_header import read_header
from studio.requests.shot import Shot
from ui.shared.names import adapter_name


def trained_otherwise(
    adapters: Iterable[tuple[str, AdapterInfo]], clip_skip: int | None, *, family: str
) -> Iterator[tuple[str, int]]:
    """Names of adapters with the clip skip that they were trained with, where it is not this one.

    family: of the base; SDXL's own clip skip is 2.
    """
    usual = 2 if family == "sdxl" else 1
    for name, info in adapters:
        trained = trained_clip_skip(info) or usual
        if trained != (clip_skip or usual):
            yield name, trained


def clip_skip_hint(shot: Shot, family: str) -> tuple[str, int | None]:
    """A sentence on the shot's first such adapter, and its clip skip; "" and None for none.

    The adapters are files. Raises BadInput for one that is none.
    """
    files = (str(file) for file, strength in shot.adapters if strength)
    named = ((adapter_name(file), _info(split_half(file)[0])) for file in files)
    for name, trained in trained_otherwise(named, shot.clip_skip, family=family):
        return f"{name} was trained with clip skip {trained}", trained
    return "", None


def _info(file: str) -> AdapterInfo:
    path = find_adapter_file(Path(file))
    if path.is_dir():  # with a folder for each component
        return AdapterInfo()
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _read(path: Path, changed: int) -> AdapterInfo:
    """Reads each version of a file once."""
    return read_info(read_header(path).metadata, path)
