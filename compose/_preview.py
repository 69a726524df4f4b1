"""Latents as a small picture, without the VAE's decoder.

Four latent channels are nearly a linear function of colour, so a 5 x 3 matrix, fitted to the
base's own VAE by least squares, shows what is being drawn at no cost worth naming.
"""

from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from studio.base import Base

__all__ = ["fit_palette", "paint"]

SIDE = 16  # latent pixels a side of the pictures fitted to
PICTURES = 4


def fit_palette(base: "Base") -> Tensor:
    """The matrix [5, 3] from four latent channels and a one to red, green and blue in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    # Soft blotches of colour in several sizes: what pictures look like at the latents' scale.
    colours = torch.zeros(PICTURES, 3, SIDE, SIDE)
    for cells in (1, 2, 4, 8):
        blotches = torch.rand(PICTURES, 3, cells, cells, generator=generator) - 0.5
        colours += F.interpolate(blotches, size=(SIDE, SIDE), mode="bilinear")
    colours = (0.5 + 0.6 * colours).clamp(0, 1)
    pixels = F.interpolate(2 * colours - 1, scale_factor=base.latent_factor, mode="nearest")
    with torch.no_grad():
        latents = base.encode_pictures(pixels, sample=False)
    rows = _with_one(latents.float().cpu())
    return torch.linalg.lstsq(rows, colours.movedim(1, -1).reshape(-1, 3)).solution


def paint(latents: Tensor, palette: Tensor, *, factor: int) -> Image.Image:
    """Latents [1, 4, h, w] as a picture of `factor` times their size."""
    height, width = latents.shape[-2:]
    colours = (_with_one(latents.float().cpu()) @ palette).clamp(0, 1).reshape(height, width, 3)
    picture = Image.fromarray((colours * 255).round().to(torch.uint8).numpy())
    return picture.resize((width * factor, height * factor), Image.Resampling.BILINEAR)


def _with_one(latents: Tensor) -> Tensor:
    """[B, 4, h, w] -> [B h w, 5]"""
    rows = latents.movedim(1, -1).reshape(-1, latents.shape[1])
    return torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)
