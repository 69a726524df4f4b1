"""The art that scenes are made of: emoji designs by several artists, and places.

Both lie in assets/art as sheets of equal tiles, with the name of each tile in a file beside it.
NOTICE names the artists and their licences. A design stands on the bottom edge of its tile.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from studio.assets import asset

ART = asset("art")
TILE, SIDE = 112, 128  # sides in pixels: of a design's tile, and of a place or a scene
# The sets of designs that fit a style. Other styles take any set of ANY_SET.
SETS = {
    "3d render": ("3d",),
    "flat illustration": ("fluent-emoji-flat",),
    "cartoon": ("noto", "noto-v1", "fxemoji"),
}
ANY_SET = ("noto", "fluent-emoji-flat", "noto-v1", "fluent-emoji", "fxemoji")
OPAQUE = 40  # alpha from which a pixel counts as part of a design


@dataclass(frozen=True)
class Art:
    """All tiles, on one device.

    designs: premultiplied RGBA, uint8 [N, 4, 112, 112]. places: RGB, uint8 [M, 3, 128, 128].
    heads: where a hat sits on each design, float [N, 3]: x of its middle, y of its top and its
    width, each in 0..1 of the tile.
    """

    designs: torch.Tensor
    places: torch.Tensor
    heads: torch.Tensor


@functools.cache
def design_rows() -> dict[tuple[str, str], dict[str, int]]:
    """The row of each set's design, by role ("subject", "worn" or "held") and name, then by set."""
    index = np.load(ART / "sprites.npz")
    rows: dict[tuple[str, str], dict[str, int]] = {}
    for row, (role, name, owner) in enumerate(
        zip(index["roles"], index["names"], index["sets"], strict=True)
    ):
        rows.setdefault((str(role), str(name)), {})[str(owner)] = row
    return rows


def choose_design(role: str, name: str, style: str, rng: np.random.Generator) -> int:
    """The row of a random design that fits the style."""
    drawn = design_rows()[role, name]
    fitting = [owner for owner in SETS.get(style, ANY_SET) if owner in drawn]
    fitting = fitting or [owner for owner in ANY_SET if owner in drawn]
    return drawn[fitting[int(rng.integers(len(fitting)))]]


@functools.cache
def place_rows() -> dict[str, np.ndarray]:
    """The rows of each place's variants, by name."""
    names = np.load(ART / "places.npz")["names"]
    return {str(name): np.flatnonzero(names == name) for name in dict.fromkeys(names)}


@functools.cache
def load_art(device: str = "cpu") -> Art:
    """The art of assets/art, with its pixels on `device`."""
    designs = _tiles("sprites", TILE, sum(map(len, design_rows().values())))
    places = _tiles("places", SIDE, sum(map(len, place_rows().values())))
    return Art(
        _channels_first(designs, device),
        _channels_first(places, device),
        torch.from_numpy(np.stack([_head(d[..., 3] > OPAQUE) for d in designs])).to(device),
    )


def _tiles(name: str, side: int, count: int) -> np.ndarray:
    """The tiles of a square sheet: uint8 [count, side, side, channels]."""
    sheet = np.asarray(Image.open(ART / f"{name}.webp"))
    across = sheet.shape[0] // side
    tiles = sheet.reshape(across, side, across, side, -1).swapaxes(1, 2)
    return tiles.reshape(across * across, side, side, -1)[:count]


def _channels_first(tiles: np.ndarray, device: str) -> torch.Tensor:
    return torch.from_numpy(tiles).permute(0, 3, 1, 2).contiguous().to(device)


def _head(opaque: np.ndarray) -> np.ndarray:
    """Where a hat sits on a design: x of its middle, y of its top, its width, in 0..1."""
    top = int(np.flatnonzero(opaque.any(1))[0])
    crown = np.flatnonzero(opaque[top : top + 14].any(0))
    wide = np.flatnonzero(opaque[top : top + 40].any(0))
    width = wide[-1] - wide[0] + 1
    return np.array([(crown[0] + crown[-1]) / 2, top, width], np.float32) / TILE
