"""Run a VAE in tiles, to take less memory. Pictures differ a little where tiles overlap."""

import logging

from diffusers import AutoencoderKL

LOG = logging.getLogger(__name__)

# Pixels of a tile's side. diffusers' own tiles are as large as the pictures that the VAE was made
# for, so such a picture would be one tile.
LARGEST, SMALLEST = 512, 128


def use_tiles(vae: AutoencoderKL, side: int = LARGEST) -> None:
    """Encode and decode in tiles. side: pixels of a tile's side."""
    vae.enable_tiling()
    vae.tile_sample_min_size = side
    vae.tile_latent_min_size = side // 2 ** (len(vae.config["block_out_channels"]) - 1)


def shrink_tiles(vae: AutoencoderKL) -> bool:
    """Start to use tiles, or halve their side. False where they are the smallest already."""
    side = int(vae.tile_sample_min_size) // 2 if vae.use_tiling else LARGEST
    side = min(side, LARGEST)
    if side < SMALLEST:
        return False
    use_tiles(vae, side)
    LOG.warning("Memory ran out: the VAE now works in tiles of %d pixels.", side)
    return True
