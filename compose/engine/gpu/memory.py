"""How much memory changed weights may take, and what is given up when a GPU's memory runs out.

At first all changed weights are kept, or as many as there is room for. Each time memory runs out,
the next of these is given up, and drawing gets slower: the changed weights; then the text encoders'
place on the GPU while the UNet works; then the low-rank factors of the changes.
"""

import logging
from math import prod
from typing import TYPE_CHECKING

from compose.engine.weights.render_cache import cache_of
from studio.bases.device import free_on_gpu, has_own_memory, release_unused
from studio.cost.memory import free_bytes, module_bytes

if TYPE_CHECKING:
    from studio.bases.base import Base

LOG = logging.getLogger(__name__)

# The most memory that a pass takes besides weights, in tensors as wide as the first block.
UNET_TENSORS, VAE_TENSORS = 32, 8
CONTEXT = 2**28  # bytes of CUDA's libraries
SHARE = 0.8  # share of the free memory to use: other programs need some, and memory is fragmented
# On a CPU, changed weights may take the larger of the weights of this many mixes and these bytes,
# but no more than this share of the free memory.
MIXES_ON_CPU, BYTES_ON_CPU, SHARE_ON_CPU = 4, 2**30, 0.5


def room_for_weights(base: "Base", side: tuple[int, int], *, rows: int) -> int:
    """Bytes that the changed weights of all mixes in use may take.

    side: height and width of the latents.  rows: rows of a batch.
    """
    cache = cache_of(base)
    if base.low_memory or side in cache.without_weights:
        return 0
    if not has_own_memory(base.device):
        most = max(MIXES_ON_CPU * module_bytes(base.unet), BYTES_ON_CPU)
        left = free_bytes(base.device)
        return most if left is None else min(most, int(SHARE_ON_CPU * (left + cache.kept.nbytes)))
    free = free_on_gpu(base.device) + cache.kept.nbytes
    most = rows * prod(side) * _width(base.unet) * base.dtype.itemsize * UNET_TENSORS
    pixels = prod(side) * base.latent_factor**2
    decoding = pixels * _width(base.vae) * base.vae.dtype.itemsize * VAE_TENSORS
    if decoding < free and not (base.offload or base.vae.use_tiling):
        most = max(most, decoding)  # with less memory the VAE works alone or in tiles anyway
    return max(0, int(SHARE * (free - most - CONTEXT)))


def make_room(base: "Base", side: tuple[int, int]) -> bool:
    """Free memory after it ran out; False where nothing is left to give up.

    side: height and width of the latents that are denoised.
    """
    cache = cache_of(base)
    if not has_own_memory(base.device):
        return False
    cache.graphs.release(())  # they hold memory, and can't be used with less of it
    if cache.kept.weights and side not in cache.without_weights:
        cache.without_weights.add(side)
        cache.limit_weights(0)
        given_up = "no changed weight of the mix is kept"
    elif not (base.offload or base.set_aside):
        base.set_aside = base.text_encoders
        given_up = "the text encoders leave the GPU while the UNet is at work"
    elif not cache.kept.lean:
        cache.kept.lean = True
        cache.prepared.clear()
        given_up = "the factors of the mix are read anew for each layer"
    else:
        return False
    LOG.warning("Memory ran out: %s, which is slower.", given_up)
    release_unused(base.device)
    return True


def _width(module: object) -> int:
    return module.config["block_out_channels"][0]  # pyright: ignore[reportAttributeAccessIssue]
