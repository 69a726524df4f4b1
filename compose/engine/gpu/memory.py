"""How much memory changed weights may take, and what is given up where a GPU's runs out.

Drawing goes through four ways, each slower than the one before. The pictures of the first three
are the same: with all changed weights kept, with as many as there is room for, with none of them.
Then the text encoders leave the GPU while the UNet is at work, and at last no factors are kept.
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

# What a pass takes at the most beside weights, in tensors as wide as the first block.
UNET_TENSORS, VAE_TENSORS = 32, 8
CONTEXT = 2**28  # bytes of CUDA's libraries
SHARE = 0.8  # of what is left is used: other programs want some too, and memory is fragmented
# Of a CPU: the weights of so many mixes, or these bytes if they are more, and half of what is free.
MIXES_ON_CPU, BYTES_ON_CPU, SHARE_ON_CPU = 4, 2**30, 0.5


def room_for_weights(base: "Base", side: tuple[int, int], *, rows: int) -> int:
    """Bytes that the changed weights of all mixes at work may take.

    side: height and width of the latents.  rows: of a batch of evaluations.
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
        most = max(most, decoding)  # where there is less, the VAE will work alone or in tiles
    return max(0, int(SHARE * (free - most - CONTEXT)))


def make_room(base: "Base", side: tuple[int, int]) -> bool:
    """Give up something that takes memory, after it ran out; whether there was anything.

    side: height and width of the latents that are denoised.
    """
    cache = cache_of(base)
    if not has_own_memory(base.device):
        return False
    cache.graphs.release(())  # they hold memory, and the next ways have no use for them
    if cache.kept.weights and side not in cache.without_weights:
        cache.without_weights.add(side)
        cache.limit_weights(0)
        said = "no changed weight of the mix is kept"
    elif not (base.offload or base.set_aside):
        base.set_aside = base.text_encoders
        said = "the text encoders leave the GPU while the UNet is at work"
    elif not cache.kept.lean:
        cache.kept.lean = True
        cache.prepared.clear()
        said = "the factors of the mix are read anew for each layer"
    else:
        return False
    LOG.warning("Memory ran out: %s, which is slower.", said)
    release_unused(base.device)
    return True


def _width(module: object) -> int:
    return module.config["block_out_channels"][0]  # pyright: ignore[reportAttributeAccessIssue]
