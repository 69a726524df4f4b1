"""Whether a picture fits in memory, checked before its first step.

On a CPU, a picture whose denoising needs more than the free memory is refused, and a picture whose
decoding alone does is decoded in tiles. On a GPU nothing is refused: room is made when memory runs
out (compose/engine/gpu/memory.py). The memory of the UNet and the VAE is counted with fake tensors
of the picture's size (studio/cost/). That takes half a second, so it is done only for pictures that
are large for the free memory. tests/benchmarks/estimates.py compares these counts with
measurements.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import sqrt
from typing import TYPE_CHECKING

from compose.engine.weights.render_cache import cache_of
from studio.bases.device import has_own_memory
from studio.cost.memory import format_bytes, free_bytes
from studio.cost.operations import PassCost, decoding_cost, evaluation_cost
from studio.errors import BadInput
from studio.requests.resolved_shot import ResolvedShot

if TYPE_CHECKING:
    from studio.bases.base import Base

# An upper bound of the memory of any pass, in widest tensors: [rows, channels of the first block,
# height, width] of the UNet's latents or of the VAE's pixels. Nothing is counted where this bound
# is far below the free memory.
BOUND = 64
# Memory taken / memory of the counted tensors. On a CPU oneDNN copies tensors into its own layouts.
TAKEN = {"cpu": 1.8, "cuda": 1.1}
ALMOST = 0.8  # share of the free memory that a picture of the advised size takes


def check_room(base: "Base", resolved: ResolvedShot) -> None:
    """Raise BadInput where the free memory is too small to draw this picture.

    Nothing is checked while a training is attached to the base: it has its own memory model.
    """
    if has_own_memory(base.device):
        return
    size, free = _size(resolved), free_bytes(base.device)
    if free is None or cache_of(base).training or 4 * _bound(base, size) < free:
        return
    rows = 2 if resolved.shot.guidance > 1 else 1
    drawing = _pass_bytes(base, size, lambda: evaluation_cost(base, size=size, rows=rows), rows)
    needed = max(drawing, _tiled_bytes(base, size))
    if needed <= free:
        return
    height, width = size
    smaller = sqrt(ALMOST * free / needed)
    advice = " x ".join(
        str(max(base.step, int(side * smaller) // base.step * base.step))
        for side in (width, height)
    )
    raise BadInput(
        f"a picture of {width} x {height} pixels takes about {format_bytes(needed)} of memory "
        f"while it is drawn, and {format_bytes(free)} are free: choose a smaller width and height, "
        f"such as {advice}, or close other programs"
    )


@contextmanager
def tiled_where_needed(base: "Base", resolved: ResolvedShot) -> Iterator[None]:
    """Within the block, the VAE works in tiles if the whole picture doesn't fit in memory."""
    vae, size, free = base.vae, _size(resolved), free_bytes(base.device)
    needed = (
        not (vae.use_tiling or has_own_memory(base.device))
        and free is not None
        and 4 * _bound(base, size) >= free
    )
    if not needed or _decoding_bytes(base, size) <= (free or 0):
        yield
        return
    vae.enable_tiling()
    try:
        yield
    finally:
        vae.disable_tiling()


def _size(resolved: ResolvedShot) -> tuple[int, int]:
    """Height and width in pixels of the shot's larger pass."""
    width, height = resolved.enlarged or (resolved.width, resolved.height)
    return height, width


def _bound(base: "Base", size: tuple[int, int]) -> int:
    """An upper bound, in bytes, of what one pass of the UNet or the VAE takes."""
    pixels = size[0] * size[1]
    unet = 2 * base.unet.config["block_out_channels"][0] * pixels // base.latent_factor**2
    vae = base.vae.config["block_out_channels"][0] * pixels
    return BOUND * max(unet * base.dtype.itemsize, vae * base.vae.dtype.itemsize)


def _decoding_bytes(base: "Base", size: tuple[int, int]) -> float:
    return _pass_bytes(base, size, lambda: decoding_cost(base, size=size))


def _tiled_bytes(base: "Base", size: tuple[int, int]) -> float:
    """Bytes that decoding in tiles takes.

    One tile, and three copies of the picture while the tiles are put together.
    """
    side = int(base.vae.tile_sample_min_size)
    height, width = (min(side, one) for one in size)
    return _decoding_bytes(base, (height, width)) + 3 * 3 * 4 * size[0] * size[1]


def _pass_bytes(
    base: "Base", size: tuple[int, int], count: Callable[[], PassCost], rows: int = 0
) -> float:
    """Bytes that a pass takes besides the weights; counted once for each size.

    rows: rows of the UNet's batch, or 0 for the VAE.
    """
    known = cache_of(base).taken
    if (size, rows) not in known:
        known[size, rows] = TAKEN.get(base.device.type, TAKEN["cpu"]) * count().most
    return known[size, rows]
