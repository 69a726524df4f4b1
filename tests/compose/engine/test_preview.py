"""The cheap look at latents, against VAEs of which the right colours are known."""

from types import SimpleNamespace
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from compose import Step, denoise
from compose.engine.preview import fit_palette, paint
from studio.bases.base import Base
from studio.requests.shot import Shot
from studio.sketch import scenes as world
from studio.sketch.draw import draw
from studio.sketch.training import to_tensor

MIXING = torch.tensor([[1.0, 0.5, 0.2], [-0.3, 0.8, 0.1], [0.2, -0.4, 0.9], [0.7, 0.1, -0.6]])


def linear_base() -> Base:
    """A base whose latents are a linear function of colour, four pixels to one."""

    def encode_pictures(pixels: Tensor, *, sample: bool) -> Tensor:
        assert not sample
        return torch.einsum("lc,bchw->blhw", MIXING, F.avg_pool2d(pixels, 4)) + 0.3

    return cast(Base, SimpleNamespace(encode_pictures=encode_pictures, latent_factor=4))


def test_palette_undoes_a_linear_vae() -> None:
    base = linear_base()
    colour = torch.tensor([200, 30, 90])
    pixels = (colour / 127.5 - 1).view(1, 3, 1, 1).expand(1, 3, 32, 16)
    latents = base.encode_pictures(pixels, sample=False)
    picture = paint(latents, fit_palette(base), factor=4)
    assert picture.size == (16, 32)
    painted = np.array(picture).reshape(-1, 3) - colour.numpy()
    assert np.abs(painted.mean(0)).max() < 1  # rounded twice
    assert np.abs(painted).max() <= 4  # of what four quarters of one colour are guessed to differ


def test_a_preview_is_near_the_picture(sketch: Base) -> None:
    """Drawings that the palette was not fitted to; a grey picture would have 9 dB."""
    rng = np.random.default_rng(3)
    scenes = [world.sample(rng, styles=world.STYLES) for _ in range(12)]
    drawn = np.stack([np.asarray(draw(scene)) for scene in scenes])
    latents = sketch.encode_pictures(to_tensor(drawn), sample=False)
    palette = fit_palette(sketch)
    painted = np.stack([paint(one[None], palette, factor=4) for one in latents])
    error = np.mean((painted / 255 - drawn / 255) ** 2)
    assert -10 * np.log10(error) > 19


def test_each_step_can_be_seen(sdxl: Base) -> None:
    for progress in denoise(sdxl, Shot("a cat", steps=2, width=64, height=128)):
        if isinstance(progress, Step):
            preview = progress.preview()
            assert isinstance(preview, Image.Image) and preview.size == (64, 128)
