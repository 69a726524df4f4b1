"""Checks whether shots fit their bases. Reads headers and configurations only: no PyTorch here.

What only an opened base can tell, such as the shapes of its layers, ui/batch/runner.py checks with
the same functions, also before the first picture.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import compose
from studio.adapters.adapter_header import outline_adapter
from studio.adapters.formats.metadata import FAMILIES, AdapterOutline
from studio.assets import asset
from studio.bases.architecture import Config, family_of, read_json
from studio.bases.names import BUNDLED_BASES
from studio.errors import BadInput
from studio.requests.shot import Shot
from ui.batch.manifest import PlannedShot
from ui.batch.manifest_lines import Problem


@dataclass(frozen=True)
class _Base:
    """name: as it is shown. factor: pixels of a latent, along a side."""

    name: str
    family: str
    factor: int


@dataclass(frozen=True)
class Check:
    """A check of a field. key: shots of equal keys are checked once. run: raises BadInput.

    needed: where it fails, the checks that follow make no sense.
    """

    field: str
    key: Callable[[Shot], object]
    run: Callable[[Shot], object]
    needed: bool = False


def find_incompatible(planned: Sequence[PlannedShot]) -> Iterator[Problem]:
    """What can't be made on its base, each with the line and the field that say so."""
    checks = [
        Check("base", lambda shot: shot.base, lambda shot: _base(shot.base), needed=True),
        *size_checks(_latent_factor),
        method_check(_adapters),
        Check("adapters", lambda shot: (shot.base, shot.adapters), _check_families),
    ]
    return find_problems(planned, checks)


def size_checks(latent_factor: Callable[[Shot], int | None]) -> list[Check]:
    """Whether the base of a shot can make its size.

    latent_factor: pixels of a latent along a side; None where it is not known yet.
    """
    return [
        Check(
            "width",
            lambda shot: (shot.base, shot.width),
            lambda shot: _check_side(shot.width, latent_factor(shot)),
        ),
        Check(
            "height",
            lambda shot: (shot.base, shot.height),
            lambda shot: _check_side(shot.height, latent_factor(shot)),
        ),
    ]


def method_check(adapters: Callable[[Shot], Sequence[object]]) -> Check:
    """Whether the method of a shot takes its adapters.

    adapters: what a method may ask before a picture is made: `deltas` and `embeddings` of each.
    """
    return Check(
        "method",
        lambda shot: (shot.adapters, type(shot.method), shot.method, shot.regions),
        lambda shot: _check_method(shot, adapters(shot)),
    )


def find_problems(planned: Sequence[PlannedShot], checks: Sequence[Check]) -> Iterator[Problem]:
    """The problems that these checks find, each once."""
    passed: dict[object, bool] = {}
    for one in planned:
        for check in checks:
            key = check.field, check.key(one.shot)
            if key not in passed:
                try:
                    check.run(one.shot)
                    passed[key] = True
                except BadInput as error:
                    passed[key] = False
                    yield one.problem(check.field, str(error))
            if check.needed and not passed[key]:
                break


def _latent_factor(shot: Shot) -> int | None:
    base = _base(shot.base)
    return base and base.factor


def _check_side(side: int | None, factor: int | None) -> None:
    if factor and side and side % factor:
        raise BadInput(f"{side} is not a multiple of {factor}")


def _adapters(shot: Shot) -> list[AdapterOutline]:
    return [_outline(str(file)) for file, _ in shot.adapters]


_outline = lru_cache(maxsize=4096)(outline_adapter)


def _check_families(shot: Shot) -> None:
    base = _base(shot.base)
    for (file, _), adapter in zip(shot.adapters, _adapters(shot), strict=True):
        if base and adapter.family not in ("", base.family):
            raise BadInput(
                f"the adapter {file} was made for {FAMILIES[adapter.family]}, and the base "
                f"{base.name} is {FAMILIES[base.family]}: choose another of the two"
            )


def _check_method(shot: Shot, adapters: Sequence[Any]) -> None:
    # Adapters of words only are in every mix, and take no part in a method.
    compose.method_of(shot).check([one for one in adapters if one.deltas or not one.embeddings])


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
