"""Finds adapters that were trained with a clip skip other than that of the picture."""

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
    """The adapters trained with another clip skip than this one: (name, its clip skip) of each.

    family: the base's family; SDXL's usual clip skip is 2.
    """
    usual = 2 if family == "sdxl" else 1
    for name, info in adapters:
        trained = trained_clip_skip(info) or usual
        if trained != (clip_skip or usual):
            yield name, trained


def clip_skip_hint(shot: Shot, family: str) -> tuple[str, int | None]:
    """A sentence on the first adapter that was trained with another clip skip, and that clip skip.

    "" and None where there is none. The shot's adapters are files; raises BadInput for a file that
    is no adapter.
    """
    files = (str(file) for file, strength in shot.adapters if strength)
    named = ((adapter_name(file), _info(split_half(file)[0])) for file in files)
    for name, trained in trained_otherwise(named, shot.clip_skip, family=family):
        return f"{name} was trained with clip skip {trained}", trained
    return "", None


def _info(file: str) -> AdapterInfo:
    path = find_adapter_file(Path(file))
    if path.is_dir():  # peft's folders, one for each component, don't record it
        return AdapterInfo()
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _read(path: Path, changed: int) -> AdapterInfo:
    """The metadata of a file. changed: its modification time, so that each version is read once."""
    return read_info(read_header(path).metadata, path)
