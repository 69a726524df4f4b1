"""A shot resolved for one base: its files are loaded and its size is known."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from studio.errors import BadInput
from studio.files import expand_home
from studio.picture import to_rgb
from studio.requests.adapter_tags import find_adapter, take_adapter_tags
from studio.requests.picture_file import open_picture
from studio.requests.regions import embed_mask
from studio.requests.shot import Shot
from studio.requests.speed import with_speed

if TYPE_CHECKING:
    from studio.adapters.adapter import Adapter
    from studio.bases.base import Base


@dataclass(frozen=True, eq=False)
class ResolvedShot:
    """A shot whose files are loaded, for one base.

    shot: the shot itself, with its prompt's adapter tags, a speed adapter's settings and its
    regions' masks worked in. width, height: pixels. adapters: adapters and strengths. init_image:
    RGB, upright, width x height. mask: the same size, 255 where the init image is drawn anew and 0
    elsewhere. enlarged: width and height of the second pass.
    """

    shot: Shot
    width: int
    height: int
    adapters: "tuple[tuple[Adapter, float], ...]"
    init_image: Image.Image | None
    mask: Image.Image | None = None
    enlarged: tuple[int, int] | None = None

    def with_seed(self, seed: int) -> "ResolvedShot":
        """The same shot with another seed; nothing is loaded again."""
        return replace(self, shot=replace(self.shot, seed=seed))

    def second(self) -> "ResolvedShot":
        """The shot in the size of its second pass, with init image and mask resized to it."""
        assert self.enlarged is not None
        width, height = self.enlarged
        start, mask = _opened(self.shot.init_image), _opened(self.shot.mask)
        return replace(
            self,
            width=width,
            height=height,
            init_image=start and _fitted(start, self.enlarged),
            mask=mask and _binary(mask, self.enlarged),
        )


def resolve(
    shot: Shot | ResolvedShot,
    base: "Base",
    *,
    load: "Callable[[str | Path], Adapter] | None" = None,
) -> ResolvedShot:
    """Check a shot, load its adapters, open its init image and mask, and work out its size.

    A shot that is resolved already is returned unchanged. load: opens an adapter's file, for
    callers that keep adapters in memory; default: `load_adapter`.

    Raises BadInput for a shot that can't be drawn, and for an adapter that doesn't fit the base.
    """
    if isinstance(shot, ResolvedShot):
        return shot
    from studio.adapters.adapter import Adapter  # PyTorch takes seconds
    from studio.adapters.compatibility import check_fits
    from studio.adapters.load import load_adapter

    shot.check()
    shot, changes = with_speed(take_adapter_tags(shot, find_adapter))
    if changes:
        shot.check()
    shot = with_masks(shot)
    adapters = []
    for adapter, strength in shot.adapters:
        if not isinstance(adapter, Adapter):
            adapter = load(adapter) if load else load_adapter(adapter, base=base)
        check_fits(adapter, base)
        adapters.append((adapter, float(strength)))
    start, mask = _opened(shot.init_image), _opened(shot.mask)
    size = _size(shot, base, start)
    return ResolvedShot(
        shot,
        *size,
        tuple(adapters),
        start and _fitted(start, size),
        mask and _binary(mask, size),
        None if shot.second_pass is None else _enlarged(size, shot.second_pass, base.step),
    )


def with_masks(shot: Shot) -> Shot:
    """The shot with its regions' masks as data: URLs. Raises BadInput where one can't be read."""
    if not shot.regions:
        return shot
    return replace(shot, regions=tuple(map(embed_mask, shot.regions)))


def with_size(shot: Shot, base: "Base") -> Shot:
    """The shot with its size on this base, and with the settings of its speed adapter, if any.

    Raises BadInput where the base can't draw that size.
    """
    shot, _ = with_speed(shot)
    start = _opened(shot.init_image) if shot.width is None and shot.height is None else None
    width, height = _size(shot, base, start)
    return replace(shot, width=width, height=height)


def _opened(picture: Image.Image | str | Path | None) -> Image.Image | None:
    """The picture, opened if it is a file. Transparency lies over white."""
    if isinstance(picture, str | Path):
        return open_picture(expand_home(picture))
    if not isinstance(picture, Image.Image | None):
        raise BadInput(f"a picture is a file's name or Pillow's Image, and no {type(picture)}")
    return to_rgb(picture) if picture and picture.has_transparency_data else picture


def _fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _binary(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A mask in a picture's size, 255 or 0. Raises BadInput where it is black everywhere."""
    grey = mask.resize(size, Image.Resampling.LANCZOS).convert("L")
    binary = grey.point([0] * 128 + [255] * 128)
    if binary.getbbox() is None:
        raise BadInput("mask: it is black everywhere: make the part to draw anew white in it.")
    return binary


def _enlarged(size: tuple[int, int], factor: float, step: int) -> tuple[int, int]:
    """Width and height of a second pass. step: they are multiples of this many pixels."""
    width, height = (max(step, round(side * factor / step) * step) for side in size)
    return width, height


def _size(shot: Shot, base: "Base", start: Image.Image | None) -> tuple[int, int]:
    """Width and height in pixels. start: the init image, whose proportions count if none is set."""
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
