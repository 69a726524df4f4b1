"""Checks whether shots fit their bases. Reads headers and configurations only: no PyTorch here.

What only an opened base can tell, such as the shapes of its layers, ui/batch/runner.py checks with
the same functions, also before the first picture.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import compose
from studio.adapters.adapter_header import outline_adapter
from studio.adapters.formats.metadata import FAMILIES, AdapterOutline
from studio.bases.info import BaseInfo, read_base_info
from studio.errors import BadInput
from studio.requests.shot import Shot
from ui.batch.manifest import PlannedShot
from ui.batch.manifest_lines import Problem


@dataclass(frozen=True)
class Check:
    """A check of a field. run: raises BadInput. by: the other fields that this depends on.

    Shots with the same values of these are checked once. needed: where it fails, the checks that
    follow make no sense.
    """

    field: str
    run: Callable[[Shot], object]
    by: tuple[str, ...] = ()
    needed: bool = False


def find_incompatible(planned: Sequence[PlannedShot]) -> Iterator[Problem]:
    """What can't be made on its base, each with the line and the field that say so."""
    # For this call alone: a base may be downloaded before the next one, and an adapter replaced.
    base_info, outline = cache(read_base_info), cache(outline_adapter)

    def latent_factor(shot: Shot) -> int | None:
        base = base_info(shot.base)  # None for one that is not downloaded yet
        return base and base.latent_factor

    def adapters(shot: Shot) -> list[AdapterOutline]:
        return [outline(str(file)) for file, _ in shot.adapters]

    checks = [
        Check("base", lambda shot: base_info(shot.base), needed=True),
        *size_checks(latent_factor),
        method_check(adapters),
        Check(
            "adapters",
            lambda shot: _check_families(shot, base_info(shot.base), adapters(shot)),
            by=("base",),
        ),
    ]
    return find_problems(planned, checks)


def size_checks(latent_factor: Callable[[Shot], int | None]) -> list[Check]:
    """Whether the base of a shot can make its size.

    latent_factor: pixels of a latent along a side; None where it is not known yet.
    """

    def check(shot: Shot, name: str) -> None:
        side, factor = getattr(shot, name), latent_factor(shot)
        if factor and side and side % factor:
            raise BadInput(f"{side} is not a multiple of {factor}")

    sides = ("width", "height")
    return [Check(name, partial(check, name=name), by=("base",)) for name in sides]


def method_check(adapters: Callable[[Shot], Sequence[Any]]) -> Check:
    """Whether the method of a shot takes its adapters.

    adapters: what a method may ask before a picture is made: `deltas` and `embeddings` of each.
    """

    def check(shot: Shot) -> None:
        # Adapters of words only are in every mix, and take no part in a method.
        mixed: Any = [one for one in adapters(shot) if one.deltas or not one.embeddings]
        compose.method_of(shot).check(mixed)

    return Check("method", check, by=("adapters", "regions"))


def find_problems(planned: Sequence[PlannedShot], checks: Sequence[Check]) -> Iterator[Problem]:
    """The problems that these checks find, each once."""
    passed: dict[object, bool] = {}
    for one in planned:
        for check in checks:
            key = check.field, *(getattr(one.shot, name) for name in (check.field, *check.by))
            if key not in passed:
                try:
                    check.run(one.shot)
                    passed[key] = True
                except BadInput as error:
                    passed[key] = False
                    yield one.problem(check.field, str(error))
            if check.needed and not passed[key]:
                break


def _check_families(shot: Shot, base: BaseInfo | None, adapters: Sequence[AdapterOutline]) -> None:
    for (file, _), adapter in zip(shot.adapters, adapters, strict=True):
        if base and adapter.family not in ("", base.family):
            raise BadInput(
                f"the adapter {file} was made for {FAMILIES[adapter.family]}, and the base "
                f"{base.name} is {FAMILIES[base.family]}: choose another adapter or base"
            )
