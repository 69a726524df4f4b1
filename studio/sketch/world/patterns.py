"""Textures that the styles share, drawn once and cached: noise, hatching, dots, glass panes."""

from functools import cache

import numpy as np
from PIL import Image

from studio.sketch.world.brush import FINE

VARIANTS = 12  # of each random texture


@cache
def _clouds(size: int, cells: int, variant: int) -> np.ndarray:
    """Smooth noise, float32 [size, size, 1] 0..1, with about ``cells`` bumps across."""
    rng = np.random.default_rng([size, cells, variant])
    coarse = Image.fromarray(rng.random((cells, cells)).astype(np.float32))
    noise = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
    return ((noise - noise.min()) / np.ptp(noise))[..., None]


def noise(rng: np.random.Generator, *, size: int, cells: int) -> np.ndarray:
    return _clouds(size, cells, int(rng.integers(VARIANTS)))


@cache
def hatch(side: int, period: float, *, rising: bool) -> Image.Image:
    """Diagonal strokes, half ink and half paper: an L mask [side, side]."""
    y, x = np.mgrid[:side, :side]
    phase = (x + y if rising else x - y) / (period * np.sqrt(2))
    return Image.fromarray(((phase % 1 < 0.5) * 255).astype(np.uint8))


@cache
def dots(side: int, period: float) -> Image.Image:
    """Round dots on a diagonal lattice: an L mask [side, side]."""
    y, x = np.mgrid[:side, :side] / period
    u, v = (x + y) / np.sqrt(2) % 1 - 0.5, (x - y) / np.sqrt(2) % 1 - 0.5
    return Image.fromarray(((u**2 + v**2 < 0.135) * 255).astype(np.uint8))


@cache
def panes(side: int, variant: int) -> tuple[np.ndarray, Image.Image]:
    """Glass cells: brightness float32 [side/FINE, side/FINE, 1], and their leading, an L mask."""
    rng = np.random.default_rng([side, variant])
    grid = np.stack(np.meshgrid(np.arange(5), np.arange(5)), axis=-1).reshape(-1, 2)
    seeds = (grid + rng.uniform(0.1, 0.9, grid.shape)) / 5 * side
    y, x = np.mgrid[:side, :side]
    away = np.sqrt((x[..., None] - seeds[:, 0]) ** 2 + (y[..., None] - seeds[:, 1]) ** 2)
    near = np.partition(away, 1, axis=-1)
    lead = near[..., 1] - near[..., 0] < side * 0.022
    bright = rng.uniform(0.75, 1.3, len(seeds))[away.argmin(-1)] + 0.15 - 0.9 * near[..., 0] / side
    small = bright.reshape(side // FINE, FINE, side // FINE, FINE).mean((1, 3), dtype=np.float32)
    return small[..., None], Image.fromarray((lead * 255).astype(np.uint8))
