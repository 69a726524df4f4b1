"""Whether shots fit their bases, told from files' headers and configurations: no PyTorch here.

What only an opened base can tell (shapes of layers, fingerprints) is looked at in
ui/batch/runner.py, also before the first picture.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

import compose
from studio.adapters.blora_blocks import find_halves, layers_of_half, split_half, trained_blocks
from studio.adapters.describe import find_adapter_file
from studio.adapters.formats.metadata import FAMILIES, read_info
from studio.adapters.formats.survey import survey
from studio.adapters.safetensors_header import read_header
from studio.assets import asset
from studio.bases.architecture import Config, family_of, read_json
from studio.bases.names import BUNDLED_BASES
from studio.errors import BadInput
from studio.requests.shot import Shot
from ui.batch.manifest import PlannedShot
from ui.batch.manifest_lines import Problem

__all__ = ["find_incompatible"]


@dataclass(frozen=True)
class _Base:
    """name: as it is shown. factor: pixels of a latent, along a side."""

    name: str
    family: str
    factor: int


@dataclass(frozen=True)
class _Adapter:
    """What a method may ask of an adapter before pictures are made. deltas: its layers' names."""

    family: str
    deltas: Mapping[str, object]
    embeddings: Mapping[str, object]


def find_incompatible(planned: Sequence[PlannedShot]) -> Iterator[Problem]:
    """What can't be made on its base, each with the line and the field that say so."""
    looked: set[object] = set()
    for one in planned:
        shot = one.shot
        for field, key in (
            ("base", shot.base),
            ("width", (shot.base, shot.width)),
            ("height", (shot.base, shot.height)),
            ("adapters", (shot.base, shot.adapters)),
            ("method", (shot.adapters, type(shot.method), shot.method)),
        ):
            if (field, key) in looked:
                continue
            looked.add((field, key))
            try:
                _CHECKS[field](shot)
            except BadInput as error:
                yield one.problem(field, str(error))
                if field == "base":
                    break


def _check_base(shot: Shot) -> None:
    _base(shot.base)


def _check_width(shot: Shot) -> None:
    _check_side(shot.base, shot.width)


def _check_height(shot: Shot) -> None:
    _check_side(shot.base, shot.height)


def _check_side(source: str, side: int | None) -> None:
    base = _base(source)
    if base and side and side % base.factor:
        raise BadInput(f"{side} is not a multiple of {base.factor}")


def _check_adapters(shot: Shot) -> None:
    base = _base(shot.base)
    for file, _ in shot.adapters:
        family = _adapter(str(file)).family
        if base and family not in ("", base.family):
            raise BadInput(
                f"the adapter {file} was made for {FAMILIES[family]}, and the base {base.name} "
                f"is {FAMILIES[base.family]}: choose another of the two"
            )


def _check_method(shot: Shot) -> None:
    method = shot.method
    if isinstance(method, compose.Method):
        found = [_adapter(str(file)) for file, _ in shot.adapters]
        # Those that are words only are in every mix, and take no part in a method.
        method.check(cast("list", [one for one in found if one.deltas or not one.embeddings]))


_CHECKS = {
    "base": _check_base,
    "width": _check_width,
    "height": _check_height,
    "adapters": _check_adapters,
    "method": _check_method,
}


@lru_cache(maxsize=256)
def _base(source: str) -> _Base | None:
    """A base that is on this machine; None for a hub id, which is known when it is opened."""
    path = asset(source) if source in BUNDLED_BASES else Path(source)
    if not path.exists():
        return None
    family = family_of(path)
    name = source if source in BUNDLED_BASES else path.name
    return _Base(name, family, _factor(path) if path.is_dir() else 8)


def _factor(folder: Path) -> int:
    config: Config = read_json(folder / "vae" / "config.json")
    blocks = config.get("block_out_channels")
    if not isinstance(blocks, list) or not blocks:
        raise BadInput(f"{folder / 'vae' / 'config.json'} names no block_out_channels")
    return 2 ** (len(blocks) - 1)


@lru_cache(maxsize=4096)
def _adapter(text: str) -> _Adapter:
    """An adapter, or the half of it that is named."""
    file, half = split_half(text)
    path = find_adapter_file(Path(file))
    header = read_header(path)
    contents = survey(header, path)
    facts = read_info(header.metadata, path)
    family = facts.family or contents.family
    layers: Mapping[str, object] = contents.layers
    if half:
        trained = trained_blocks(facts.base, family, facts.recipe)
        if half not in find_halves(layers, trained):
            raise BadInput(f"the adapter {path.name} has no {half} half: it is no B-LoRA of both")
        layers = layers_of_half(half, layers, trained)
    return _Adapter(family, layers, contents.embeddings)
