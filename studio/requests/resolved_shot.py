"""A shot on one base: the files that it names are loaded, and its size is known."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from studio.errors import BadInput
from studio.requests.adapter_tags import find_adapter, take_adapter_tags
from studio.requests.picture_file import open_picture
from studio.requests.shot import Shot

if TYPE_CHECKING:
    from studio.adapters.adapter import Adapter
    from studio.bases.base import Base


@dataclass(frozen=True, eq=False)
class ResolvedShot:
    """What a shot is on one base.

    shot: as it was asked for. width, height: pixels. adapters: with their strengths. init_image:
    RGB and upright, in its own size.
    """

    shot: Shot
    width: int
    height: int
    adapters: "tuple[tuple[Adapter, float], ...]"
    init_image: Image.Image | None

    def with_seed(self, seed: int) -> "ResolvedShot":
        """The same shot from other noise; nothing is loaded again."""
        return replace(self, shot=replace(self.shot, seed=seed))


def resolve(
    shot: Shot | ResolvedShot,
    base: "Base",
    *,
    load: "Callable[[str | Path], Adapter] | None" = None,
) -> ResolvedShot:
    """Check a shot, load its adapters, open its picture to start from and work out its size.

    A shot that is resolved already is returned as it is. load: opens an adapter's file, for callers
    that keep adapters; `load_adapter` if not given.

    Raises BadInput for a shot that can't be made, and for an adapter that doesn't fit the base.
    """
    if isinstance(shot, ResolvedShot):
        return shot
    from studio.adapters.adapter import Adapter  # PyTorch takes seconds
    from studio.adapters.compatibility import check_fits
    from studio.adapters.load import load_adapter

    shot.check()
    shot = take_adapter_tags(shot, find_adapter)
    adapters = []
    for adapter, strength in shot.adapters:
        if not isinstance(adapter, Adapter):
            adapter = load(adapter) if load else load_adapter(adapter, base=base)
        check_fits(adapter, base)
        adapters.append((adapter, float(strength)))
    start = _opened(shot)
    width, height = _size(shot, base, start)
    return ResolvedShot(shot, width, height, tuple(adapters), start)


def with_size(shot: Shot, base: "Base") -> Shot:
    """The shot with the size that it has on this base; BadInput where it can't have that size."""
    start = _opened(shot) if shot.width is None and shot.height is None else None
    width, height = _size(shot, base, start)
    return replace(shot, width=width, height=height)


def _opened(shot: Shot) -> Image.Image | None:
    start = shot.init_image
    return open_picture(start) if isinstance(start, str | Path) else start


def _size(shot: Shot, base: "Base", start: Image.Image | None) -> tuple[int, int]:
    """Width and height in pixels. start: the picture to start from, which gives its proportions."""
    width, height = shot.width or base.size, shot.height or base.size
    if start is not None and shot.width is None and shot.height is None:
        shrink = base.size / math.sqrt(start.width * start.height)
        width, height = (
            max(base.step, round(side * shrink / base.step) * base.step) for side in start.size
        )
    for field, side in (("width", width), ("height", height)):
        if side % base.latent_factor:
            raise BadInput(f"{field}: {side} is not a multiple of {base.latent_factor}.")
    return width, height
