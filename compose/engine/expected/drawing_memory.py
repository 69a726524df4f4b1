"""Whether the memory has room for a picture, before its first step.

A picture that needs more than is free is refused; one whose latents alone fit is decoded in tiles.
That is so on a CPU: a GPU's memory is made room in as it runs out (compose/engine/gpu/memory.py).
What the UNet and the VAE need is counted on fake tensors of the picture's size (studio/cost/),
which takes half a second, and only where the picture is large for the memory that is free.
tests/benchmarks/estimates.py prints how far that is from what pictures take.
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

# More than any pass needs, as a multiple of the widest tensor: [rows, channels of the first block,
# height, width] of the UNet's latents and of the VAE's pixels. What is far below is not counted.
BOUND = 64
# What a CPU takes beside the tensors: oneDNN's copies of them in the layouts of its kernels.
TAKEN = {"cpu": 1.8, "cuda": 1.1}
ALMOST = 0.8  # of the free memory, for the size that is advised


def check_room(base: "Base", resolved: ResolvedShot) -> None:
    """Raise BadInput for a picture that this base has no memory for now.

    Nothing is checked while a training has its deltas on the base: its memory is its own.
    """
    if has_own_memory(base.device):
        return
    size, free = _size(resolved), free_bytes(base.device)
    if free is None or cache_of(base).training or 4 * _bound(base, size) < free:
        return
    rows = 2 if resolved.shot.guidance > 1 else 1
    drawing = _taken(base, size, lambda: evaluation_cost(base, size=size, rows=rows), rows)
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
    """Within the block the VAE works in tiles if there is no memory for all of the picture."""
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
    """Height and width of the larger pass."""
    width, height = resolved.enlarged or (resolved.width, resolved.height)
    return height, width


def _bound(base: "Base", size: tuple[int, int]) -> int:
    """Bytes that no pass of a picture exceeds."""
    pixels = size[0] * size[1]
    unet = 2 * base.unet.config["block_out_channels"][0] * pixels // base.latent_factor**2
    vae = base.vae.config["block_out_channels"][0] * pixels
    return BOUND * max(unet * base.dtype.itemsize, vae * base.vae.dtype.itemsize)


def _decoding_bytes(base: "Base", size: tuple[int, int]) -> float:
    return _taken(base, size, lambda: decoding_cost(base, size=size))


def _tiled_bytes(base: "Base", size: tuple[int, int]) -> float:
    """Of decoding in tiles: a tile, and the picture three times while they are put together."""
    side = int(base.vae.tile_sample_min_size)
    height, width = (min(side, one) for one in size)
    return _decoding_bytes(base, (height, width)) + 3 * 3 * 4 * size[0] * size[1]


def _taken(
    base: "Base", size: tuple[int, int], count: Callable[[], PassCost], rows: int = 0
) -> float:
    """Bytes that a pass takes beside the weights, counted once. rows: of the UNet; 0 of the VAE."""
    known = cache_of(base).taken
    if (size, rows) not in known:
        known[size, rows] = TAKEN.get(base.device.type, TAKEN["cpu"]) * count().most
    return known[size, rows]
