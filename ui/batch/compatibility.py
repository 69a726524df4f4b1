"""Checks whether shots fit their bases, from headers and configurations alone, without PyTorch.

Checks that need an opened base, such as the shapes of its layers, are in ui/batch/runner.py; they
use the same functions, and also run before the first picture.
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
    """A check of a shot's field.

    run: raises BadInput if it fails. by: other fields that the result depends on; shots with equal
    values are checked once. needed: if it fails, the later checks of that shot are skipped.
    """

    field: str
    run: Callable[[Shot], object]
    by: tuple[str, ...] = ()
    needed: bool = False


def find_incompatible(planned: Sequence[PlannedShot]) -> Iterator[Problem]:
    """A problem, with line and field, for each shot that can't be made on its base."""
    # Cached for this call only: later a base may be downloaded, or an adapter replaced.
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
    """Checks that a shot's base can make its width and height.

    latent_factor: gives the pixels along a latent's side; None if that is not known yet.
    """

    def check(shot: Shot, name: str) -> None:
        side, factor = getattr(shot, name), latent_factor(shot)
        if factor and side and side % factor:
            raise BadInput(f"{side} is not a multiple of {factor}")

    sides = ("width", "height")
    return [Check(name, partial(check, name=name), by=("base",)) for name in sides]


def method_check(adapters: Callable[[Shot], Sequence[Any]]) -> Check:
    """A check that a shot's method accepts its adapters.

    adapters: gives the shot's adapters, with the attributes `deltas` and `embeddings` at least.
    """

    def check(shot: Shot) -> None:
        # Adapters that have only new words are in every mix, and methods never see them.
        mixed: Any = [one for one in adapters(shot) if one.deltas or not one.embeddings]
        compose.method_of(shot).check(mixed)

    return Check("method", check, by=("adapters", "regions"))


def find_problems(planned: Sequence[PlannedShot], checks: Sequence[Check]) -> Iterator[Problem]:
    """The problems that these checks find, each reported once."""
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
