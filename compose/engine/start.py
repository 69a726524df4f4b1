"""The latents that a pass begins with, and what a mask keeps of the start picture.

A first pass begins with noise, or with a picture and noise on it. A second pass begins with the
enlarged latents of the first pass and noise on them, as A1111's upscaler "Latent" does.

Masks work with an ordinary UNet, as in diffusers' StableDiffusionInpaintPipeline: after each step
the latents outside of the mask are set to the start picture's latents, with the noise of the next
step. In the finished picture the pixels outside are those of the start picture
(`compose.engine.render.decode`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from compose.engine.expected.drawing_memory import tiled_where_needed
from compose.engine.picture_run import PictureRun
from compose.engine.sampler import Scheduler


@dataclass(frozen=True, eq=False)
class Start:
    """What a pass of one picture begins with.

    latents: the first latents, [1, 4, h, w] float32. noise: drawn from the seed. picture: the
    latents of the start picture. mask: [1, 1, h, w], 1 where the picture is drawn anew.
    """

    latents: Tensor
    noise: Tensor
    picture: Tensor | None = None
    mask: Tensor | None = None


def start_of(
    run: PictureRun,
    scheduler: Scheduler,
    timesteps: Tensor,
    draw: torch.Generator,
    smaller: Tensor | None,
) -> Start:
    """The start of a pass. smaller: the latents of the first pass, for a second one."""
    base, shot = run.base, run.resolved
    side = run.latent_side
    noise = torch.randn(1, 4, *side, generator=draw).to(base.device)  # drawn on the CPU, always
    pure = noise * scheduler.init_noise_sigma
    picture = mask = None
    if shot.init_image is not None and (smaller is None or shot.mask is not None):
        # The mode of the VAE's posterior, as a sample would need random numbers of its own.
        with tiled_where_needed(base, shot):
            picture = base.encode_pictures(2 * _pixels(shot.init_image) - 1, sample=False)
    if shot.mask is not None:
        mask = F.interpolate(_pixels(shot.mask), size=side).to(base.device)
    begin = picture if smaller is None else F.interpolate(smaller, size=side, mode="bilinear")
    if begin is None or (mask is not None and smaller is None and shot.shot.denoise == 1):
        return Start(pure, noise, picture, mask)
    return Start(scheduler.add_noise(begin, noise, timesteps[:1]), noise, picture, mask)


@dataclass(frozen=True, eq=False)
class Outside:
    """What N masked pictures keep outside of their masks; see Start."""

    picture: Tensor
    noise: Tensor
    mask: Tensor

    def restored(self, latents: Tensor, scheduler: Scheduler, following: Tensor) -> Tensor:
        """The latents [N, 4, h, w] after a step, with the start pictures' outside of the masks.

        following: the next step's timestep, [1]; after the last step empty, [0].
        """
        own = self.picture
        if len(following):
            own = scheduler.add_noise(own, self.noise, following)
        return (1 - self.mask) * own + self.mask * latents


def outside_of(starts: Sequence[Start]) -> Outside | None:
    """What a batch of pictures keeps: all of them have a mask, or none has (then None)."""
    kept = [
        (one.picture, one.noise, one.mask)
        for one in starts
        if one.picture is not None and one.mask is not None
    ]
    return Outside(*map(torch.cat, zip(*kept, strict=True))) if kept else None


def _pixels(picture: Image.Image) -> Tensor:
    """A picture as [1, channels, height, width] in [0, 1]."""
    pixels = torch.from_numpy(np.atleast_3d(np.array(picture)))
    return pixels.movedim(-1, 0)[None].contiguous() / 255
