"""Latents as a small picture, without the VAE's decoder.

A latent pixel and its neighbours tell the colours of a picture's cell nearly linearly, those of its
quarters too: a 37 x 12 matrix, fitted to the base's own VAE by least squares, shows what is being
drawn at no cost worth naming. With the neighbours it is twice as near to the truth as without.
"""

from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from studio.bases.base import Base

SIDE = 16  # latent pixels a side of the pictures fitted to
PICTURES = 4
PATCHES = (1, 2, 4, 6)  # a side: of a few sizes, as what is in pictures
FINE = 2  # pixels of a preview for one of latents, each way


def fit_palette(base: "Base") -> Tensor:
    """The matrix [37, 12]: 3 x 3 latent pixels of 4 channels and a one, to RGB in [0, 1] of 2 x 2.

    Rows are as `F.unfold` has them, columns as `F.pixel_shuffle` wants them.
    """
    colours = _patches(SIDE * base.latent_factor)
    with torch.no_grad():
        latents = base.encode_pictures(2 * colours - 1, sample=False)
    # Decoders smooth, so that a cell's quarters are the means of their pixels.
    cells = F.pixel_unshuffle(F.adaptive_avg_pool2d(colours, SIDE * FINE), FINE)
    rows = _neighbourhoods(latents.float().cpu()).double()
    wanted = cells.movedim(1, -1).reshape(len(rows), -1).double()
    squares = rows.T @ rows
    # A trace of ridge, so that channels which say the same do not cancel one another out.
    ridge = 1e-6 * squares.diagonal().mean() * torch.eye(len(squares), dtype=rows.dtype)
    return torch.linalg.solve(squares + ridge, rows.T @ wanted).float()


def paint(latents: Tensor, palette: Tensor, *, factor: int) -> Image.Image:
    """Latents [1, 4, h, w] as a picture of `factor` times their size."""
    height, width = latents.shape[-2:]
    cells = _neighbourhoods(latents.float().cpu()) @ palette
    cells = cells.view(1, height, width, -1).movedim(-1, 1)
    colours = F.pixel_shuffle(cells.clamp(0, 1), FINE)[0].movedim(0, -1)
    picture = Image.fromarray((colours * 255).round().to(torch.uint8).numpy())
    return picture.resize((width * factor, height * factor), Image.Resampling.BILINEAR)


def _patches(side: int) -> Tensor:
    """Pictures [4, 3, side, side] in [0, 1] of flat patches with hard edges, over one another."""
    generator = torch.Generator().manual_seed(0)
    found = torch.zeros(PICTURES, 3, side, side)
    for count in PATCHES:
        colours = torch.rand(PICTURES, 3, count, count, generator=generator)
        blotches = torch.rand(PICTURES, 1, 2 * count, 2 * count, generator=generator)
        inside = F.interpolate(blotches, size=(side, side), mode="bilinear") > 0.55
        whole = F.interpolate(colours, size=(side, side), mode="nearest")
        found = whole if count == 1 else torch.where(inside, whole, found)
    return found


def _neighbourhoods(latents: Tensor) -> Tensor:
    """[B, 4, h, w] -> [B h w, 37]"""
    around = F.unfold(F.pad(latents, (1, 1, 1, 1), mode="replicate"), 3)  # -> [B, 36, h w]
    rows = around.movedim(1, -1).reshape(-1, around.shape[1])
    return torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)
