"""A VAE's work in tiles, which takes less memory; pictures differ a little where tiles overlap."""

import logging

from diffusers import AutoencoderKL

LOG = logging.getLogger(__name__)

# Pixels of a tile's side. diffusers' own is the size of the pictures that the VAE was made for, so
# that those would be one tile.
LARGEST, SMALLEST = 512, 128


def use_tiles(vae: AutoencoderKL, side: int = LARGEST) -> None:
    """Encode and decode in tiles of so many pixels a side."""
    vae.enable_tiling()
    vae.tile_sample_min_size = side
    vae.tile_latent_min_size = side // 2 ** (len(vae.config["block_out_channels"]) - 1)


def shrink_tiles(vae: AutoencoderKL) -> bool:
    """Go over to tiles, or to tiles of half the side; whether there is anything smaller."""
    side = int(vae.tile_sample_min_size) // 2 if vae.use_tiling else LARGEST
    side = min(side, LARGEST)
    if side < SMALLEST:
        return False
    use_tiles(vae, side)
    LOG.warning("Memory ran out: the VAE now works in tiles of %d pixels.", side)
    return True
