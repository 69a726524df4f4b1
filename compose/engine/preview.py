"""Previews: latents as a small picture, without the VAE's decoder.

The colours of the picture's cell at a latent pixel are nearly a linear function of that pixel and
its neighbours, and so are the colours of the cell's quarters. So a 37 x 12 matrix, fitted to the
base's own VAE by least squares, gives a preview at almost no cost. With the neighbours its error is
half of that without them.
"""

from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from studio.bases.base import Base

SIDE = 16  # latent pixels along a side of the pictures that the matrix is fitted to
PICTURES = 4
PATCHES = (1, 2, 4, 6)  # patches along a side: several sizes, as things in pictures have
FINE = 2  # pixels of a preview for one latent pixel, along each axis


def fit_palette(base: "Base") -> Tensor:
    """The matrix [37, 12] from latents to colours.

    Rows: 3 x 3 latent pixels of 4 channels in the order of `F.unfold`, and a constant 1. Columns:
    2 x 2 pixels of RGB in [0, 1], in the order of `F.pixel_shuffle`.
    """
    colours = _patches(SIDE * base.latent_factor)
    with torch.no_grad():
        latents = base.encode_pictures(2 * colours - 1, sample=False)
    # The colour of a quarter is the mean of its pixels, as decoders smooth.
    cells = F.pixel_unshuffle(F.adaptive_avg_pool2d(colours, SIDE * FINE), FINE)
    rows = _neighbourhoods(latents.float().cpu()).double()
    wanted = cells.movedim(1, -1).reshape(len(rows), -1).double()
    squares = rows.T @ rows
    # A little ridge regression: otherwise correlated channels get large opposite weights.
    ridge = 1e-6 * squares.diagonal().mean() * torch.eye(len(squares), dtype=rows.dtype)
    return torch.linalg.solve(squares + ridge, rows.T @ wanted).float()


def paint(latents: Tensor, palette: Tensor, *, factor: int) -> Image.Image:
    """A preview of latents [1, 4, h, w], `factor` times their size."""
    height, width = latents.shape[-2:]
    cells = _neighbourhoods(latents.float().cpu()) @ palette
    cells = cells.view(1, height, width, -1).movedim(-1, 1)
    colours = F.pixel_shuffle(cells.clamp(0, 1), FINE)[0].movedim(0, -1)
    picture = Image.fromarray((colours * 255).round().to(torch.uint8).numpy())
    return picture.resize((width * factor, height * factor), Image.Resampling.BILINEAR)


def _patches(side: int) -> Tensor:
    """Pictures [4, 3, side, side] in [0, 1] of overlapping flat patches with hard edges."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.zeros(PICTURES, 3, side, side)
    for count in PATCHES:
        colours = torch.rand(PICTURES, 3, count, count, generator=generator)
        blotches = torch.rand(PICTURES, 1, 2 * count, 2 * count, generator=generator)
        inside = F.interpolate(blotches, size=(side, side), mode="bilinear") > 0.55
        whole = F.interpolate(colours, size=(side, side), mode="nearest")
        pictures = whole if count == 1 else torch.where(inside, whole, pictures)
    return pictures


def _neighbourhoods(latents: Tensor) -> Tensor:
    """The rows of the matrix's input: [B, 4, h, w] -> [B h w, 37]."""
    around = F.unfold(F.pad(latents, (1, 1, 1, 1), mode="replicate"), 3)  # -> [B, 36, h w]
    rows = around.movedim(1, -1).reshape(-1, around.shape[1])
    return torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)
